"""Attributes and codes that a product document says by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import ATTRIBUTE_TYPES, Attribute, Code
from gram_plugin.contract.tagging import (
    MAX_VALUE_CHARS,
    Lexicon,
    Phrase,
    ProductText,
    Tagger,
    attribute_or_none,
    field_attributes,
    product_attributes,
    product_text,
)
from gram_plugin.contract.words import words
from gram_plugin.errors import BundleError

BLACK, BLUE = Attribute.of("colour", "black"), Attribute.of("colour", "blue")
SHOE, RUNNING = Attribute.of("type", "shoe"), Attribute.of("type", "running shoe")
ACME, SOFT = Attribute.of("brand", "acme"), Attribute.of("other", "soft")
NOTHING = Lexicon({})
TAGGER = Tagger(
    text=("title", "body"),
    types={"c": "colour", "brands.name": "brand"},
    lexicon=Lexicon({("shoe",): (SHOE,), ("running", "shoe"): (RUNNING,), ("black",): (BLACK,)}),
    terms=Lexicon({("soft",): (SOFT,)}),
)


def test_fields_give_every_value_of_a_list_and_numbers_but_no_booleans_and_no_prose() -> None:
    """Every value of a list is an attribute; booleans, empty and over-long values are none."""
    source = {"c": ["Black", "Blue"], "n": 17.0, "b": True, "long": "x" * 60, "empty": "  "}
    types = {"c": "colour", "n": "size", "b": "flag", "long": "other", "empty": "other"}
    assert field_attributes(source, types) == (BLACK, BLUE, Attribute.of("size", "17"))


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("colour", ""),
        ("colour", "—"),
        ("colour", "x" * (MAX_VALUE_CHARS + 1)),
        ("Colour", "black"),
        ("brand", "㏂" * MAX_VALUE_CHARS),
        ("a" * 210, "\U00010428" * MAX_VALUE_CHARS),
    ],
    ids=["empty", "no words", "long", "no type", "long when folded", "long in bytes"],
)
def test_a_value_that_cannot_be_a_code_is_no_attribute(type_name: str, value: str) -> None:
    """What no code may hold is left out here, so that whatever a tagger has learned can be written and read."""
    assert attribute_or_none(type_name, value) is None


@given(st.sampled_from(ATTRIBUTE_TYPES), st.text(max_size=60))
def test_an_attribute_is_a_code_by_itself(type_name: str, value: str) -> None:
    """Any value gives an attribute in canonical form that its code's text brings back, or none."""
    found = attribute_or_none(type_name, value)
    assert found is None or Code.parse(str(found)).attributes == (found,) == (Attribute.of(type_name, value),)


def test_the_longest_phrase_wins() -> None:
    """'running shoe' is one attribute, not also 'shoe'."""
    assert TAGGER.lexicon.match("red running shoe and shoe") == [RUNNING, SHOE]


def test_a_phrase_may_stand_for_several_attributes_and_each_comes_once() -> None:
    """'orange' is a colour and a brand; saying it twice adds nothing."""
    both = (Attribute.of("colour", "orange"), Attribute.of("brand", "orange"))
    assert Lexicon({("orange",): both}).match("orange, orange shoe") == list(both)


PHRASES = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple),
    st.lists(st.sampled_from([BLACK, BLUE, SHOE, ACME]), min_size=1, max_size=2, unique=True).map(tuple),
    max_size=8,
)
TOKENS = st.lists(st.sampled_from("abcd"), max_size=10)


def slow_match(phrases: dict[Phrase, tuple[Attribute, ...]], tokens: list[str]) -> list[Attribute]:
    """From the left: the longest phrase that begins here, tried from the whole rest down to one word."""
    found: list[Attribute] = []
    while tokens:
        length = next((size for size in range(len(tokens), 0, -1) if tuple(tokens[:size]) in phrases), 0)
        found += [attribute for attribute in phrases.get(tuple(tokens[:length]), ()) if attribute not in found]
        tokens = tokens[max(length, 1) :]
    return found


@given(phrases=PHRASES, tokens=TOKENS)
def test_matching_equals_the_slow_reference(phrases: dict[Phrase, tuple[Attribute, ...]], tokens: list[str]) -> None:
    """Left to right, the longest phrase at each place, whatever phrases overlap."""
    assert Lexicon(phrases).match(" ".join(tokens)) == slow_match(phrases, tokens)


@given(phrases=PHRASES, tokens=TOKENS)
def test_all_phrases_are_those_of_every_run_of_words(
    phrases: dict[Phrase, tuple[Attribute, ...]], tokens: list[str]
) -> None:
    """Each phrase of the text, however they overlap."""
    runs = [tuple(tokens[start:end]) for end in range(len(tokens) + 1) for start in range(end)]
    expected = {attribute for run in runs for attribute in phrases.get(run, ())}
    found = Lexicon(phrases).match_all(" ".join(tokens))
    assert (set(found), len(found)) == (expected, len(expected))


@pytest.mark.parametrize(
    ("title", "terms"),
    [("oak corner sofa", ("corner sofa", "sofa", "oak")), ("红色实木沙发", ("红色实木沙发", "实木", "沙发"))],
)
def test_a_title_has_its_longer_terms_and_those_within_them(title: str, terms: tuple[str, ...]) -> None:
    """Who asks for a sofa wants the corner sofa too."""
    known = {tuple(words(term)): (Attribute.of("other", term),) for term in terms}
    found = product_attributes(ProductText(title, title, ()), NOTHING, Lexicon(known))
    assert set(found) == {Attribute.of("other", term) for term in terms}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("新款登山鞋男士", "登山鞋"),
        ("ซื้อหนังสือใหม่", "หนังสือ"),
        ("नई किताब, हिन्दी", "किताब"),
        ("neue bücherregale", "bücherregale"),
    ],
    ids=["chinese", "thai", "hindi", "german"],
)
def test_phrases_are_found_in_any_script(text: str, name: str) -> None:
    """Where a script puts no spaces, a phrase may stand inside of a run of characters."""
    shoe = Attribute.of("type", name)
    assert Lexicon({tuple(words(name)): (shoe,)}).match(text) == [shoe]


def test_text_adds_a_missing_type_and_never_contradicts_a_field() -> None:
    """A product whose colour field says blue is not also black because its text says so."""
    lexicon = Lexicon({("black",): (BLACK,), ("acme",): (ACME,)})
    found = product_attributes(ProductText("t", "acme black", (BLUE,)), lexicon, NOTHING)
    assert found == (BLUE, ACME)


@pytest.mark.parametrize(
    ("fields", "found"),
    [((), (SOFT,)), ((BLACK, SHOE), (BLACK, SHOE, SOFT)), ((BLACK, SHOE, ACME), (BLACK, SHOE, ACME))],
)
def test_only_products_with_fewer_than_three_attributes_get_terms(
    fields: tuple[Attribute, ...], found: tuple[Attribute, ...]
) -> None:
    """Words of the title, not of other texts, do for a product that its fields leave bare."""
    assert product_attributes(ProductText("soft", "soft", fields), NOTHING, TAGGER.terms) == found
    assert product_attributes(ProductText("", "soft", fields), NOTHING, TAGGER.terms) == fields


def test_product_text_reads_title_and_fields() -> None:
    """The first text field is the title; all texts are normalised; none at all is a product without text."""
    source = {"title": "BLACK  Shoe", "body": "Soft", "c": "Black"}
    found = product_text(source, ["title", "body"], {"c": "colour"})
    assert found == ProductText("black shoe", "black shoe ; soft", (BLACK,))
    assert product_text(source, [], {}) == ProductText("", "", ())


def test_a_tagger_finds_the_attributes_of_a_document() -> None:
    """Typed fields first, then phrases of all texts, then terms of the title."""
    source = {"title": "Soft BLACK thing", "body": "for running shoe fans", "brands": [{"name": "Acme"}], "price": 3}
    assert TAGGER.attributes(source) == (ACME, BLACK, RUNNING)
    assert TAGGER.attributes({"title": "Soft thing", "c": "black"}) == (BLACK, SOFT)
    assert TAGGER.attributes({}) == ()


_phrases = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3).map(tuple)
_attributes = st.builds(
    attribute_or_none, st.sampled_from([*ATTRIBUTE_TYPES, "size_2"]), st.text(min_size=1, max_size=48)
)
_lexicons = st.dictionaries(
    _phrases,
    st.lists(_attributes.filter(lambda found: found is not None), min_size=1, max_size=2).map(tuple),
    max_size=4,
).map(Lexicon)
_names = st.text(max_size=8)
_taggers = st.builds(
    Tagger,
    text=st.lists(_names, max_size=3).map(tuple),
    types=st.dictionaries(_names, st.sampled_from(ATTRIBUTE_TYPES), max_size=3),
    lexicon=_lexicons,
    terms=_lexicons,
)


@given(_taggers)
def test_a_saved_tagger_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, tagger: Tagger) -> None:
    """Whatever is in its phrases, values and names of fields."""
    path = tmp_path_factory.getbasetemp() / "tagger.json"
    tagger.save(path)
    assert Tagger.load(path) == tagger


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    "spoil",
    [
        *map(_without, ("text", "types", "lexicon", "terms")),
        lambda document: document.update(text=None),
        lambda document: document.update(types=["c"]),
        lambda document: document.update(lexicon=[["shoe"]]),
        lambda document: document.update(lexicon={"shoe": "type=shoe"}),
        lambda document: document.update(lexicon=[[["shoe"], ["type"]]]),
        lambda document: document.update(terms=[[["shoe"], ["Type=Shoe"]]]),
        lambda document: document.update(terms=[[["shoe"], [3]]]),
        lambda document: document.update(terms=None),
    ],
)
def test_a_malformed_tagger_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """A part that is missing, of another kind, or no canonical attribute; the message names the file."""
    path = tmp_path / "tagger.json"
    TAGGER.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    spoil(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match=r"tagger\.json is no tagger: .* — make the bundle again"):
        Tagger.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'"text"'])
def test_a_file_that_is_no_json_object_is_no_tagger(tmp_path: Path, content: bytes) -> None:
    """Cut, of another kind, or not UTF-8."""
    (tmp_path / "tagger.json").write_bytes(content)
    with pytest.raises(BundleError, match="is no tagger"):
        Tagger.load(tmp_path / "tagger.json")


def test_a_missing_tagger_is_refused(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(BundleError, match=r"tagger\.json is no tagger: FileNotFoundError"):
        Tagger.load(tmp_path / "tagger.json")
