"""Queries and products as model input: the one rendering that everybody calls."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.text import (
    MAX_QUERY_CHARS,
    TEXT_VERSION,
    Rendering,
    field_values,
    is_source_hash,
    normalise,
    render_product,
    render_query,
    source_hash,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
documents = st.dictionaries(
    st.sampled_from(["title", "brand", "specs"]),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["colour", "size"]), inner),
        max_leaves=8,
    ),
)


@given(st.text(max_size=400))
def test_rendering_a_query_twice_is_rendering_it_once(text: str) -> None:
    """A rendered query is its own rendering."""
    assert render_query(render_query(text)) == render_query(text)


@given(st.text(max_size=400))
def test_a_rendered_query_is_clean(text: str) -> None:
    """Bounded, encodable, one space between words, no controls, no upper case left to fold."""
    rendered = render_query(text)
    assert len(rendered) <= MAX_QUERY_CHARS
    assert rendered.encode("utf-8").decode("utf-8") == rendered
    assert rendered == " ".join(rendered.split())
    assert not any(unicodedata.category(character) == "Cc" for character in rendered)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        (" \t\n", ""),
        ("x", "x"),
        ("  Red\tSHOE\n", "red shoe"),
        ("ＨＰ Ｌａｐｔｏｐ", "hp laptop"),
        ("a\x00b", "a b"),
        ("\ud800", "?"),
        ("👟 размер", "👟 размер"),
        ("حذاء أحمر", "حذاء أحمر"),
        ("ab " * 10_000, ("ab " * 10_000)[:MAX_QUERY_CHARS].rstrip()),
    ],
    ids=["empty", "blank", "one", "case", "wide", "control", "surrogate", "emoji", "arabic", "long"],
)
def test_queries_render_as_stated(text: str, rendered: str) -> None:
    """Any text gives a string, and an equal one for equal words."""
    assert render_query(text) == rendered


def test_a_text_of_a_megabyte_is_cut_before_it_is_read() -> None:
    """Only the first 4 x 10 characters matter."""
    head = "word " * 8
    assert normalise(head + "x" * 1_000_000, 10) == normalise(head, 10)


RENDERING = Rendering(("title", "brand", "specs.colour"), max_chars=40, max_field_chars=20)


@given(documents)
def test_any_document_renders_within_its_bound(source: dict[str, Any]) -> None:
    """Whatever JSON a document holds, its rendering is one bounded line."""
    rendered = render_product(source, RENDERING)
    assert len(rendered) <= RENDERING.max_chars
    assert "\n" not in rendered


def test_fields_render_in_order_and_the_empty_are_left_out() -> None:
    """Numbers are words, booleans and nulls are not; arrays are flattened."""
    source = {"title": "Red SHOE", "brand": None, "specs": [{"colour": ["Red", 7, True]}, {"colour": 1.5}]}
    assert render_product(source, RENDERING) == "red shoe ; red 7 1.5"


def test_one_long_field_does_not_push_the_others_out() -> None:
    """Each field is cut by itself first."""
    assert render_product({"title": "t" * 99, "brand": "hp"}, RENDERING) == f"{'t' * 20} ; hp"


def test_a_dotted_key_is_found_as_it_is_written_or_nested() -> None:
    """OpenSearch treats both spellings as one field, the literal key wins here."""
    assert field_values({"specs.colour": "red"}, "specs.colour") == ["red"]
    assert field_values({"specs": {"colour": "red"}}, "specs.colour") == ["red"]
    assert field_values({"specs": "red"}, "specs.colour") == []


def test_a_dotted_key_is_found_within_an_object_too() -> None:
    """The rest of a path may be one key at every level, in objects of a list as well."""
    assert field_values({"specs": {"main.colour": "red"}}, "specs.main.colour") == ["red"]
    both = {"specs": [{"main.colour": "red"}, {"main": {"colour": 7}}]}
    assert field_values(both, "specs.main.colour") == ["red", "7"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(1234567.5, "1234567.5"), (17.0, "17"), (0.1, "0.1"), (-2.50, "-2.5"), (20250101, "20250101"), (1e22, "1e+22")],
)
def test_numbers_keep_all_their_digits(number: float, text: str) -> None:
    """A number is what it says, whole ones without a point."""
    assert field_values({"n": number}, "n") == [text]


def test_the_hash_tells_text_and_generation_apart() -> None:
    """It is the same for the same, and 16 characters that JSON and addresses take as they are."""
    found = {source_hash(text, generation) for text in ("a", "b") for generation in ("g1", "g2")}
    assert len(found) == 4
    assert source_hash("a", "g1") == source_hash("a", "g1")
    assert all(re.fullmatch("[0-9A-Za-z_-]{16}", item) for item in found)


@given(st.text(), st.text())
def test_the_hash_of_an_earlier_release_is_known_again(text: str, other: str) -> None:
    """32 hex digits of the same text are as good as the hash of today, those of another text are not."""
    found = source_hash(text.encode("utf-8", "replace").decode(), "g1")
    seed = f"g1\x00{TEXT_VERSION}\x00{text.encode('utf-8', 'replace').decode()}"
    earlier = hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()
    assert is_source_hash(found, found)
    assert is_source_hash(earlier, found)
    assert not is_source_hash(f"{'1' if earlier[0] == '0' else '0'}{earlier[1:]}", found)
    assert not is_source_hash(other, found)
    assert not is_source_hash(None, found)
