"""The trie of a codebook: which tokens may follow which, as flat arrays.

A node's edges are the slice `offsets[node]` to `offsets[node + 1]` of `tokens` and `targets`. An
edge leads to another node, or it ends a code. Where a code is final and nothing can follow it, the
edge of its last attribute ends it at once: its end is certain, so no step of the model is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gram_plugin.contract.bundle import Tokens
from gram_plugin.contract.codebook import Codebook
from gram_plugin.errors import BundleError

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]
_NO_TOKEN = -1


@dataclass(frozen=True)
class Trie:
    """Codes as paths of tokens; node 0 is the root."""

    offsets: Int32Array  # [nodes + 1]
    tokens: Int32Array  # [edges] token, counted in columns of the logits
    targets: Int32Array  # [edges] node, or ~code where a code ends

    @classmethod
    def of(cls, paths: Sequence[Sequence[int]], eos: int) -> Trie:
        """Builds the trie; code i is the path `paths[i]`, which is not empty and does not hold `eos`."""
        return _trie(_table(paths), eos)


@dataclass(frozen=True)
class Columns:
    """Where the logits have the tokens of codes; the trie counts in columns.

    A graph answers for its whole vocabulary, or for `eos` and the attributes alone, which is all
    that decoding reads. `offset` turns an attribute's column into the token that the decoder takes.
    """

    eos: int
    first_attribute: int
    offset: int

    @classmethod
    def of(cls, tokens: Tokens, attributes: int, width: int) -> Columns:
        """The columns of logits that are `width` wide, for a codebook of so many attributes."""
        if width == 1 + attributes:
            return cls(0, 1, tokens.first_attribute - 1)
        return cls(tokens.eos, tokens.first_attribute, 0)


def trie_of(codebook: Codebook, columns: Columns) -> Trie:
    """The trie of a bundle's codebook; code i of the trie is entry i.

    Raises:
        BundleError: the codebook is empty.
    """
    if not codebook:
        raise BundleError("the codebook is empty", next_step="train on a catalogue that has attributes")
    counts = np.diff(codebook.offsets)  # [codes]
    table = np.full((len(codebook), codebook.longest + 1), _NO_TOKEN, np.int32)  # [codes, steps + 1]
    step = np.arange(len(codebook.parts)) - np.repeat(codebook.offsets[:-1], counts)  # [parts]
    table[np.repeat(np.arange(len(codebook)), counts), step] = codebook.parts + columns.first_attribute
    return _trie(table, columns.eos)


def _table(paths: Sequence[Sequence[int]]) -> Int32Array:
    longest = max(map(len, paths))
    table = np.full((len(paths), longest + 1), _NO_TOKEN, np.int32)  # [codes, steps + 1]
    for row, path in zip(table, paths, strict=True):
        row[: len(path)] = path
    return table


def _trie(table: Int32Array, eos: int) -> Trie:
    order = np.lexsort(table.T[::-1])  # [codes]
    return _link(table[order], order, eos)


def _link(table: Int32Array, code_of_row: IntArray, eos: int) -> Trie:
    """Links sorted rows level by level; rows with the same prefix share a node."""
    parent = np.zeros(len(table), np.int64)  # [codes] node of each row's prefix
    fresh = np.zeros(len(table), bool)  # [codes] the prefix differs from that of the row before
    fresh[0] = True
    nodes, parts = 1, []
    for level in range(table.shape[1] - 1):
        fresh[1:] |= table[1:, level] != table[:-1, level]
        held = table[:, level] != _NO_TOKEN
        opens = fresh & held
        child = nodes - 1 + np.cumsum(opens)  # [codes]
        ends = held & (table[:, level + 1] == _NO_TOKEN)
        inner = np.zeros(nodes + np.count_nonzero(opens), bool)
        inner[child[held & ~ends]] = True
        stop = np.full(inner.size, -1, np.int64)
        stop[child[ends]] = code_of_row[ends]
        at = child[opens]
        parts.append(_Part(parent[opens], table[opens, level], np.where(inner[at], at, ~stop[at])))
        both = at[inner[at] & (stop[at] >= 0)]
        parts.append(_Part(both, np.full(both.size, eos), ~stop[both]))
        parent, nodes = child, inner.size
    return _packed(parts, nodes)


@dataclass(frozen=True)
class _Part:
    parent: npt.NDArray[np.integer]
    token: npt.NDArray[np.integer]
    target: npt.NDArray[np.integer]


def _packed(parts: Sequence[_Part], nodes: int) -> Trie:
    parent = np.concatenate([part.parent for part in parts])
    token = np.concatenate([part.token for part in parts])
    target = np.concatenate([part.target for part in parts])
    order = np.lexsort((token, parent))
    offsets = np.zeros(nodes + 1, np.int32)
    offsets[1:] = np.cumsum(np.bincount(parent, minlength=nodes))
    return Trie(offsets, token[order].astype(np.int32), target[order].astype(np.int32))
