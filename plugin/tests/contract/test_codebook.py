"""The codebook in columns against the entries that it was made of."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codebook import Codebook, CodebookEntry, attributes_of, read_codebook, write_codebook
from gram_plugin.contract.codes import Attribute, Code
from gram_plugin.errors import BundleError

CODES = [CodebookEntry(Code.parse(text), 7) for text in ("brand=hp", "type=notebook", "type=notebook|brand=hp")]

types, values = st.sampled_from(["type", "brand", "zoom", "colour"]), st.text("aé|=%. 7", min_size=1)
attributes = st.builds(Attribute.of, types, values.filter(str.strip))
codes = st.sets(attributes, min_size=1, max_size=6).map(Code.of)


@given(st.lists(st.tuples(codes, st.integers(0, 2**31 - 1)), max_size=12, unique_by=lambda item: item[0].text))
def test_a_codebook_is_its_entries(tmp_path_factory: pytest.TempPathFactory, given_: list[tuple[Code, int]]) -> None:
    """In columns, and written and read again in order of the text: code by code the same."""
    entries = [CodebookEntry(*item) for item in given_]
    codebook = Codebook.of(entries)
    assert (len(codebook), list(codebook), codebook[1:3]) == (len(entries), entries, tuple(entries[1:3]))
    path = tmp_path_factory.getbasetemp() / "codebook.tsv"
    write_codebook(path, entries)
    found = read_codebook(path)
    assert list(found) == sorted(entries, key=lambda entry: entry.code.text)
    assert found.attributes == codebook.attributes == attributes_of(entries)
    assert found.longest == max((len(entry.code.attributes) for entry in entries), default=0)


def test_a_codebook_is_written_in_order_of_its_text(tmp_path: Path) -> None:
    """Lines are sorted by code, so equal codebooks are equal files."""
    write_codebook(tmp_path / "codebook.tsv", CODES[::-1])
    assert (tmp_path / "codebook.tsv").read_text() == "brand=hp\t7\ntype=notebook\t7\ntype=notebook|brand=hp\t7\n"


def test_attributes_are_numbered_by_type_then_value() -> None:
    """Each attribute once, in canonical order."""
    codebook = [CodebookEntry(Code.parse(text), 1) for text in ("zoom=2", "brand=b", "type=x|brand=a")]
    expected = [("type", "x"), ("brand", "a"), ("brand", "b"), ("zoom", "2")]
    assert attributes_of(codebook) == Codebook.of(codebook).attributes == tuple(Attribute(*pair) for pair in expected)


def test_a_code_that_is_asked_for_again_is_the_same_object() -> None:
    """So thousands of remembered answers hold each code once."""
    codebook = Codebook.of(CODES)
    assert [codebook.code(at) for at in range(3)] == [entry.code for entry in CODES]
    assert codebook.code(2) is codebook.code(2)


@pytest.mark.parametrize("at", [3, -4])
def test_a_place_outside_has_no_code(at: int) -> None:
    """As in every sequence; from the end one counts backwards."""
    codebook = Codebook.of(CODES)
    assert codebook[-1] == CODES[-1]
    with pytest.raises(IndexError):
        codebook[at]


def test_many_codes_are_small() -> None:
    """A codebook holds less than 24 bytes for each code of two attributes, whatever it was asked for."""
    count = 20_000
    tracemalloc.start()
    try:
        codebook = Codebook(
            (Attribute("type", "a"), Attribute("type", "b")),
            np.arange(0, 2 * count + 1, 2, dtype=np.int32),
            np.tile(np.array([0, 1], np.int32), count),
            np.ones(count, np.int32),
        )
        assert sum(entry.products for entry in codebook) == count
        assert tracemalloc.get_traced_memory()[0] < 24 * count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("type=notebook", "expected code<TAB>products"),
        ("type=notebook\tmany", "expected code<TAB>products"),
        ("type=notebook\t99999999999", "expected code<TAB>products"),
        ("brand=hp|type=notebook\t1", "'brand=hp|type=notebook' is not canonical, expected 'type=notebook|brand=hp'"),
        ("type=notebook|type=notebook\t1", "is not canonical, expected 'type=notebook'"),
        ("|".join(f"zoom={n}" for n in range(7)) + "\t1", "a code has 1 to 6 attributes, found 7"),
        ("type=" + "x" * 300 + "\t1", "is longer than 256 bytes"),
        ("type=\t1", "is not of the form type=value"),
        ("Type=x\t1", "is not of the form type=value"),
        ("\t1", "is not of the form type=value"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(tmp_path: Path, line: str, finding: str) -> None:
    """The message says what is wrong and where."""
    path = tmp_path / "codebook.tsv"
    path.write_text(f"brand=hp\t7\ntype=notebook\t1\n{line}\ncolour=red\t2\n", encoding="utf-8")
    with pytest.raises(BundleError) as refused:
        read_codebook(path)
    assert f"{path}:3: " in str(refused.value)
    assert finding in str(refused.value)
