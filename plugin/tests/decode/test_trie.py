"""The flat trie holds exactly the codes that it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.bundle import Tokens
from gram_plugin.contract.codebook import Codebook, CodebookEntry
from gram_plugin.contract.codes import Code
from gram_plugin.decode.trie import Columns, Trie, trie_of
from gram_plugin.errors import BundleError

EOS = 1
TOKENS = Tokens(
    pad=0, eos=EOS, decoder_start=0, first_attribute=10, prompts={}, max_query_tokens=8, max_product_tokens=8
)

paths = st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=5).map(tuple), min_size=1, max_size=40, unique=True)


def walk(trie: Trie, node: int = 0, prefix: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    """Every code and the tokens that lead to it, without the end token."""
    found = {}
    for edge in range(trie.offsets[node], trie.offsets[node + 1]):
        token, target = int(trie.tokens[edge]), int(trie.targets[edge])
        longer = prefix if token == EOS else (*prefix, token)
        found |= {~target: longer} if target < 0 else walk(trie, target, longer)
    return found


@given(paths)
def test_every_path_leads_to_its_code_and_there_are_no_others(codes: list[tuple[int, ...]]) -> None:
    """Walking all edges gives back the paths, each under its own number."""
    assert walk(Trie.of(codes, EOS)) == dict(enumerate(codes))


@given(paths)
def test_tokens_of_a_node_are_distinct_and_ascending(codes: list[tuple[int, ...]]) -> None:
    """A softmax over a node's edges counts no token twice."""
    trie = Trie.of(codes, EOS)
    for low, high in zip(trie.offsets[:-1], trie.offsets[1:], strict=True):
        assert (np.diff(trie.tokens[low:high]) > 0).all()


def test_a_code_that_nothing_can_follow_ends_without_a_step_of_its_own() -> None:
    """Only codes that are prefixes of others have an edge for the end token."""
    trie = Trie.of([(5,), (5, 6), (9,)], EOS)
    assert trie.targets[: trie.offsets[1]].tolist() == [1, ~2]
    assert trie.tokens[trie.offsets[1] : trie.offsets[2]].tolist() == [EOS, 6]


def test_attributes_are_numbered_in_canonical_order() -> None:
    """Token ids follow type, then value, whatever the order of the codebook."""
    texts = ("type=b|brand=x", "brand=a", "type=a")
    codebook = Codebook.of(CodebookEntry(Code.parse(text), 1) for text in texts)
    assert walk(trie_of(codebook, Columns(EOS, 10, 0))) == {0: (11, 13), 1: (12,), 2: (10,)}


def test_an_empty_codebook_is_refused() -> None:
    """Nothing could be written, so the bundle is of no use."""
    with pytest.raises(BundleError, match="codebook is empty"):
        trie_of(Codebook.of([]), Columns(EOS, 10, 0))


def test_logits_for_codes_alone_are_counted_from_the_end_token() -> None:
    """One column for the end token, then one for each attribute; the offset gives back the token."""
    assert Columns.of(TOKENS, attributes=4, width=5) == Columns(eos=0, first_attribute=1, offset=9)


def test_logits_for_the_whole_vocabulary_are_counted_in_tokens() -> None:
    """Any other width is that of the vocabulary."""
    assert Columns.of(TOKENS, attributes=4, width=14) == Columns(eos=EOS, first_attribute=10, offset=0)
