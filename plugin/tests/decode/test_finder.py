"""Codes of attributes against looking at every subset."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codebook import Codebook, CodebookEntry
from gram_plugin.contract.codes import Attribute, Code
from gram_plugin.decode.finder import CodeFinder
from gram_plugin.decode.trie import Columns, trie_of

UNIVERSE = [
    Attribute.of(*pair.split("="))
    for pair in (
        "type=shoe",
        "type=running shoe",
        "brand=acme",
        "colour=black",
        "colour=blue",
        "material=soft",
        "size=42",
    )
]
_codes = st.sets(st.sampled_from(UNIVERSE), min_size=1, max_size=4).map(Code.of)


@given(
    codes=st.lists(_codes, min_size=1, max_size=30, unique=True),
    own=st.lists(st.sampled_from([*UNIVERSE, Attribute.of("time", "now")]), max_size=8),
    first=st.integers(2, 50),
)
def test_codes_of_attributes_are_all_subsets_that_the_codebook_has(
    codes: list[Code], own: list[Attribute], first: int
) -> None:
    """Attributes in any order, repeated or of no code: every code all of whose attributes are there, once."""
    subsets = [subset for size in range(1, 5) for subset in itertools.combinations(sorted(set(own), key=str), size)]
    expected = sorted(code.text for subset in subsets if (code := Code.of(subset)) in codes)
    codebook, columns = Codebook.of(CodebookEntry(code, 1) for code in codes), Columns(1, first, 0)
    for finder in (CodeFinder(codebook), CodeFinder(codebook, trie_of(codebook, columns), columns)):
        assert sorted(code.text for code in finder.codes_of(own)) == expected
