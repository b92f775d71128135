"""The codes of a codebook that a set of attributes makes, by descending its trie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from gram_plugin.contract.codebook import Codebook
from gram_plugin.contract.codes import Attribute, Code
from gram_plugin.decode.trie import Columns, IntArray, Trie, trie_of

_ATTRIBUTES_ONLY = Columns(eos=0, first_attribute=1, offset=0)


class CodeFinder:
    """Attributes in, codes out.

    Args:
        codebook: the codes.
        trie: its trie, where one is at hand that counts in these columns.
        columns: how the trie counts.
    """

    def __init__(self, codebook: Codebook, trie: Trie | None = None, columns: Columns = _ATTRIBUTES_ONLY) -> None:
        self._codebook = codebook
        self._trie = trie or trie_of(codebook, columns)
        self._eos = columns.eos
        self._token_of = {own: columns.first_attribute + at for at, own in enumerate(codebook.attributes)}

    def codes_of(self, attributes: Iterable[Attribute]) -> list[Code]:
        """Every code of the codebook all of whose attributes are among these, each once, in no order of importance."""
        own = sorted({self._token_of[attribute] for attribute in attributes if attribute in self._token_of})
        return [self._codebook.code(at) for at in self._descend(0, np.array(own, np.int64))]

    def _descend(self, node: int, own: IntArray) -> Iterator[int]:
        """Codes below a node that go on with tokens of `own`, ascending."""
        trie = self._trie
        low, high = int(trie.offsets[node]), int(trie.offsets[node + 1])
        tokens = trie.tokens[low:high]  # ascending
        if node and tokens[0] == self._eos:  # less than every attribute; where it stands the node is a code itself
            yield ~int(trie.targets[low])
        place = np.minimum(tokens.searchsorted(own), len(tokens) - 1)  # [own]
        for at in np.flatnonzero(tokens[place] == own).tolist():
            target = int(trie.targets[low + place[at]])
            if target < 0:
                yield ~target
            else:
                yield from self._descend(target, own[at + 1 :])
