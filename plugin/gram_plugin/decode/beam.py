"""Beam search over a trie, on numpy, for several texts at once.

The probability of a code is the product over its steps of the softmax restricted to what the trie
allows there, so the probabilities of all codes of the codebook sum to one for each text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gram_plugin.decode.trie import Edges, IntArray, Trie
from gram_plugin.errors import DecodeError

FloatArray = npt.NDArray[np.float64]


class Steps(Protocol):
    """A model that has read some texts and writes one token at a time."""

    def first(self) -> npt.NDArray[np.float32]:
        """Logits [texts, vocabulary] of the first token."""

    def next(self, rows: IntArray, tokens: IntArray) -> npt.NDArray[np.float32]:
        """Logits [beams, vocabulary] after `tokens` [beams]; beam i goes on from row `rows[i]` of the last answer."""


@dataclass(frozen=True)
class Ranking:
    """Codes of one text, best first."""

    code: IntArray  # [codes] index in the codebook
    log_probability: FloatArray  # [codes] nats

    @classmethod
    def empty(cls) -> Ranking:
        """No code at all."""
        return cls(np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True)
class _Beams:
    text: IntArray  # [beams] ascending
    node: IntArray  # [beams]
    score: FloatArray  # [beams] nats


@dataclass(frozen=True)
class _Choice:
    """Edges that the search may take next."""

    row: IntArray  # [choices] beam that it continues
    text: IntArray  # [choices] ascending
    token: IntArray  # [choices]
    target: IntArray  # [choices]
    score: FloatArray  # [choices]

    def only(self, keep: npt.NDArray[np.bool_] | IntArray) -> _Choice:
        return _Choice(self.row[keep], self.text[keep], self.token[keep], self.target[keep], self.score[keep])


def search(trie: Trie, steps: Steps, texts: int, *, width: int, limit: int) -> list[Ranking]:
    """The best `limit` codes of each text, found with at most `width` unfinished beams for each.

    With `width` of at least the number of codes the answer is exact.

    Raises:
        DecodeError: the model answered with a number that is not finite.
    """
    beams = _Beams(np.arange(texts), np.zeros(texts, np.int64), np.zeros(texts))
    found = [Ranking.empty() for _ in range(texts)]
    logits = steps.first()
    while True:
        choice = _choices(trie.edges(beams.node), beams, logits)
        ends = choice.target < 0
        found = _collect(found, choice.only(ends), limit)
        # A longer code is never more probable than its prefix, so what is below the last place is out.
        open_ = choice.only(~ends & (choice.score > _bar(found, limit)[choice.text]))
        open_ = open_.only(_best_of_each(open_.text, open_.score, texts, width))
        if not open_.row.size:
            return found
        logits = steps.next(open_.row, open_.token)
        beams = _Beams(open_.text, open_.target, open_.score)


def _choices(edges: Edges, beams: _Beams, logits: npt.NDArray[np.float32]) -> _Choice:
    raw = logits[edges.row, edges.token].astype(np.float64)  # [edges]
    if not np.isfinite(raw).all():
        raise DecodeError("the model answered with numbers that are not finite", next_step="export the bundle again")
    score = beams.score[edges.row] + _log_softmax(raw, edges)  # [edges]
    return _Choice(edges.row, beams.text[edges.row], edges.token, edges.target, score)


def _log_softmax(raw: FloatArray, edges: Edges) -> FloatArray:
    shifted = raw - np.maximum.reduceat(raw, edges.start)[edges.row]  # [edges]
    total = np.add.reduceat(np.exp(shifted), edges.start)  # [rows]
    return shifted - np.log(total)[edges.row]  # [edges]


def _collect(found: list[Ranking], ended: _Choice, limit: int) -> list[Ranking]:
    bounds = np.searchsorted(ended.text, np.arange(len(found) + 1))
    return [
        _merged(ranking, ~ended.target[low:high], ended.score[low:high], limit) if high > low else ranking
        for ranking, (low, high) in zip(found, pairwise(bounds), strict=True)
    ]


def _merged(ranking: Ranking, code: IntArray, score: FloatArray, limit: int) -> Ranking:
    code = np.concatenate([ranking.code, code])
    score = np.concatenate([ranking.log_probability, score])
    best = _best(score, limit)
    return Ranking(code[best], score[best])


def _bar(found: list[Ranking], limit: int) -> FloatArray:
    """What an unfinished beam must exceed, for each text: the score at place `limit`."""
    scores = (ranking.log_probability for ranking in found)
    return np.array([score[-1] if score.size == limit else -np.inf for score in scores])  # [texts]


def _best_of_each(text: IntArray, score: FloatArray, texts: int, width: int) -> IntArray:
    bounds = np.searchsorted(text, np.arange(texts + 1))
    parts = [low + _best(score[low:high], width) for low, high in pairwise(bounds)]
    return np.concatenate(parts)


def _best(score: FloatArray, count: int) -> IntArray:
    """Positions of the `count` greatest, greatest first, equals in their order."""
    if score.size <= count:
        return np.argsort(-score, kind="stable")
    threshold = np.partition(score, -count)[-count]
    kept = np.flatnonzero(score >= threshold)
    return kept[np.argsort(-score[kept], kind="stable")[:count]]
