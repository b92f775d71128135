"""A search tried in memory: BM25 over the words of the products, and the points of codes on top.

Training has no index yet. What it needs of one is how the words rank the products of a query, so that codes can be
taught to help where words fail (`align`), and how good the pages become (`Trial.worth`). Words as they stand, one
field, no analysis: a rougher BM25 than any index has, which makes its gains smaller or larger, but seldom others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
import numpy.typing as npt

from gram_exporter.codebook import Codebook
from gram_plugin.contract.codes import MAX_CODES
from gram_plugin.contract.words import words
from gram_plugin.decode.generator import rarity_of

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Probabilities = Callable[[str], npt.NDArray[np.float64] | None]
"""Rendered query to P(code | query), shape (codes,); None where nothing is known of it."""

WORD_DEPTH = 200
CODE_DEPTH = 1000
"""Hits that are looked at: of the words, and of the codes, whose order is coarser."""
PAGE = 100
TOP = 10
STRENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


@dataclass(frozen=True)
class Hits:
    """Products found, best first: `rows` int64, shape (n,), of the catalogue; `scores` float32, shape (n,), > 0."""

    rows: Rows
    scores: Floats

    @classmethod
    def none(cls) -> Hits:
        """A page that found nothing."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float32))

    @classmethod
    def best(cls, rows: Rows, scores: Floats, depth: int) -> Hits:
        """The `depth` products with the highest scores, of those above 0; equal ones in order of the catalogue."""
        if len(rows) > depth:
            near = np.argpartition(-scores, depth)[:depth]
            near.sort()
            rows, scores = rows[near], scores[near]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0]
        return cls(rows[order], scores[order])


class Trial:
    """A catalogue that can be searched by words and by codes.

    Args:
        texts: rendered products, in order of `codebook.carried`.
        codebook: the codes and who carries them.
    """

    def __init__(self, texts: Sequence[str], codebook: Codebook) -> None:
        self.products = len(texts)
        self._carriers = codebook.carried.T.tocsr()
        self._rows = np.arange(self.products)
        self.rarity = rarity_of(codebook.support, self.products).astype(np.float32)
        self._number: dict[str, int] = {}
        spelt = [[self._number.setdefault(word, len(self._number)) for word in words(text)] for text in texts]
        self._bm25 = bm25s.BM25(method="lucene") if self._number else None
        if self._bm25:
            logging.getLogger("bm25s").setLevel(logging.WARNING)  # it says DEBUG itself, whatever the program wants
            self._bm25.index((spelt, self._number), show_progress=False)

    def by_words(self, text: str) -> Hits:
        """The first 200 products by BM25, over the words of a rendered query."""
        known = [self._number[word] for word in words(text) if word in self._number]
        if not (known and self._bm25):
            return Hits.none()
        return Hits.best(self._rows, self._bm25.get_scores_from_ids(known), WORD_DEPTH)

    def by_codes(self, probability: npt.NDArray[np.floating]) -> Hits:
        """The first 1000 products by their likeliest codes: Σ √P · rarity over those that they carry.

        The square root stands for the calibration that export fits later: shares of products instead of a softmax.
        """
        likeliest = np.argsort(-probability, kind="stable")[:MAX_CODES]
        weights = np.sqrt(probability[likeliest]) * self.rarity[likeliest]
        points = np.zeros(self.products, np.float32)
        for code, weight in zip(likeliest, weights, strict=True):
            points[self._carriers.indices[self._carriers.indptr[code] : self._carriers.indptr[code + 1]]] += weight
        return Hits.best(self._rows, points, CODE_DEPTH)

    def worths(
        self, probabilities: Probabilities, wanted: Mapping[str, Mapping[int, float]], found: Sequence[Hits]
    ) -> npt.NDArray[np.float64]:
        """What each query's page is worth at the strength of codes that is best for all of them.

        Args:
            probabilities: what says the codes of a query.
            wanted: rendered query to row of a product to weight > 0.
            found: what the words find, query by query in the same order.

        Returns:
            `page_worth` of every query, float64, shape (queries,), 0 to 1.
        """
        told = (probabilities(text) for text in wanted)  # one at a time: there may be very many codes
        coded = [Hits.none() if probability is None else self.by_codes(probability) for probability in told]
        scale, tried = scale_of(found), list[npt.NDArray[np.float64]]()
        for strength in STRENGTHS:
            pages = (together(hits, codes, strength * scale) for hits, codes in zip(found, coded, strict=True))
            tried.append(np.array([page_worth(page, own) for page, own in zip(pages, wanted.values(), strict=True)]))
        return max(tried, key=lambda worths: float(worths.mean()))


def page_worth(page: Hits, wanted: Mapping[int, float]) -> float:
    """Mean of nDCG@10, with the weights as gains, and of R@100 of one page; 0 to 1."""
    rows = page.rows[:PAGE].tolist()
    gains = np.array([wanted.get(row, 0.0) for row in rows[:TOP]])
    ideal = np.sort(np.fromiter(wanted.values(), float))[::-1][:TOP]
    return float((_discounted(gains) / _discounted(ideal) + sum(row in wanted for row in rows) / len(wanted)) / 2)


def _discounted(gains: npt.NDArray[np.float64]) -> float:
    return float((gains / np.log2(np.arange(len(gains)) + 2)).sum())


def scale_of(found: Sequence[Hits]) -> float:
    """Points from the first hit to the hundredth, the median over queries, as `gram calibrate` measures it; > 0."""
    spreads = [float(hits.scores[0] - hits.scores[:PAGE][-1]) for hits in found if len(hits.scores) > 1]
    return (float(np.median(spreads)) if spreads else 0.0) or 1.0


def together(hits: Hits, coded: Hits, points: float) -> Hits:
    """The first page by the scores of words and `points` times those of codes."""
    rows, place = np.unique(np.concatenate([hits.rows, coded.rows]), return_inverse=True)
    total = np.zeros(len(rows), np.float32)
    np.add.at(total, place, np.concatenate([hits.scores, points * coded.scores]).astype(np.float32))
    return Hits.best(rows, total, PAGE)
