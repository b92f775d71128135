"""The plain keyword ranking that the shop had when its click log was recorded (BM25, whole-number weights)."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_K1 = 1.2
_B = 0.6
_TITLE_WEIGHT = 3
_SCALE = 1000


class KeywordIndex:
    """BM25 over title (three times), description and structured values.

    Weights are rounded to whole thousandths, so sums are exact and the order is the same on every machine.
    """

    def __init__(self, documents: Sequence[Mapping[str, Any]]) -> None:
        counts = [_counted(document) for document in documents]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, count in enumerate(counts):
            for token, frequency in count.items():
                postings[token].append((number, frequency))
        self._size = len(documents)
        self._norms = _K1 * (1 - _B + _B * lengths / max(lengths.mean(), 1)) if len(documents) else lengths
        self._postings = postings
        self._weights: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}

    def ranking(self, text: str, limit: int) -> list[int]:
        """Document numbers, best first, only those with a word in common; ties in catalogue order."""
        scores = np.zeros(self._size, dtype=np.int64)
        for token in dict.fromkeys(tokens(text)):
            numbers, weights = self._weighted(token)
            scores[numbers] += weights
        best = np.argsort(-scores, kind="stable")[:limit]
        return [int(number) for number in best if scores[number] > 0]

    def _weighted(self, token: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if token not in self._weights:
            pairs = np.array(self._postings.get(token, []), dtype=np.int64).reshape(-1, 2)
            numbers, frequencies = pairs[:, 0], pairs[:, 1]
            rarity = math.log(1 + (self._size - len(pairs) + 0.5) / (len(pairs) + 0.5))
            weights = rarity * frequencies * (_K1 + 1) / (frequencies + self._norms[numbers])
            self._weights[token] = (numbers, np.rint(weights * _SCALE).astype(np.int64))
        return self._weights[token]


def tokens(text: str) -> list[str]:
    """Case-folded runs of letters and digits, a plural s taken off words of four letters and more."""
    return [re.sub(r"(?<=[a-z]{3})s$", "", word) for word in re.findall(r"\w+", text.casefold())]


def _counted(document: Mapping[str, Any]) -> Counter[str]:
    count: Counter[str] = Counter()
    for name, value in document.items():
        if name not in ("id", "merchant", "price_eur"):
            for text in value if isinstance(value, list) else [value]:
                for token in tokens(str(text)):
                    count[token] += _TITLE_WEIGHT if name == "title" else 1
    return count


def shared_words(text: str, values: Iterable[str]) -> set[str]:
    """The tokens that a query and some texts have in common."""
    return set(tokens(text)) & {token for value in values for token in tokens(value)}
