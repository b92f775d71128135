"""Beam search over a trie, on numpy, for several texts at once.

The probability of a code is the product over its steps of the softmax restricted to what the trie
allows there, so the probabilities of all codes of the codebook sum to one for each text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gram_plugin.decode.greatest import greatest
from gram_plugin.decode.trie import IntArray, Trie
from gram_plugin.errors import DecodeError

FloatArray = npt.NDArray[np.float64]
_FEW = 4
_MANY = 8192
"""Edges up to which all of several beams are looked at together."""


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
    target: IntArray  # [choices] node, or ~code where a code ends
    score: FloatArray  # [choices]

    def only(self, keep: npt.NDArray[np.bool_] | IntArray) -> _Choice:
        return _Choice(self.row[keep], self.text[keep], self.token[keep], self.target[keep], self.score[keep])


def search(trie: Trie, steps: Steps, texts: int, *, width: int, limit: int) -> list[Ranking]:
    """The best `limit` codes of each text, found with at most `width` unfinished beams for each.

    With `width` of at least the number of codes the answer is exact but for the rounding of single precision.

    Raises:
        DecodeError: the model answered with a number that is not finite.
    """
    beams = _Beams(np.arange(texts), np.zeros(texts, np.int64), np.zeros(texts))
    found = [Ranking.empty() for _ in range(texts)]
    logits = steps.first()
    while True:
        choice = _choices(trie, beams, logits, width, limit)
        ends = choice.target < 0
        found = _collect(found, choice.only(ends), limit)
        # A longer code is never more probable than its prefix, so what is below the last place is out.
        open_ = choice.only(~ends & (choice.score > _bar(found, limit)[choice.text]))
        open_ = open_.only(_best_of_each(open_.text, open_.score, texts, width))
        if not open_.row.size:
            return found
        logits = steps.next(open_.row, open_.token)
        beams = _Beams(open_.text, open_.target, open_.score)


def _choices(trie: Trie, beams: _Beams, logits: npt.NDArray[np.float32], width: int, limit: int) -> _Choice:
    """Of each beam at least its best `limit` ends and its best `width` other edges."""
    counts = trie.offsets[beams.node + 1] - trie.offsets[beams.node]  # [beams]
    if counts.sum() <= _MANY:
        return _all_edges(trie, beams, logits, counts)
    return _best_edges(trie, beams, logits, width, limit)


def _all_edges(trie: Trie, beams: _Beams, logits: npt.NDArray[np.float32], counts: npt.NDArray[np.integer]) -> _Choice:
    """Every edge of every beam, together: few calls over all."""
    start = np.cumsum(counts) - counts  # [beams]
    row = np.repeat(np.arange(counts.size), counts)  # [edges]
    edge = np.arange(row.size) + np.repeat(trie.offsets[beams.node] - start, counts)  # [edges]
    raw = logits[row, trie.tokens[edge]].astype(np.float64)  # [edges]
    _check_finite(float(raw.max()), float(raw.min()))
    shifted = raw - np.maximum.reduceat(raw, start)[row]  # [edges]
    total = np.log(np.add.reduceat(np.exp(shifted), start))  # [beams]
    return _choice(trie, beams, row, edge, shifted + (beams.score - total)[row])


def _best_edges(trie: Trie, beams: _Beams, logits: npt.NDArray[np.float32], width: int, limit: int) -> _Choice:
    """Beam by beam: a node may have tens of thousands of edges, so few passes over views, and no index arrays."""
    edges, scores = [], []
    for row, (node, score) in enumerate(zip(beams.node.tolist(), beams.score.tolist(), strict=True)):
        own = slice(int(trie.offsets[node]), int(trie.offsets[node + 1]))
        log_probability = _log_softmax(logits[row].take(trie.tokens[own]))  # [edges]
        kept = _kept(log_probability, trie.targets[own], width, limit)
        edges.append(kept + own.start)
        scores.append(score + log_probability[kept].astype(np.float64))
    row_of = np.repeat(np.arange(len(edges)), [kept.size for kept in edges])  # [choices]
    return _choice(trie, beams, row_of, np.concatenate(edges), np.concatenate(scores))


def _choice(trie: Trie, beams: _Beams, row: IntArray, edge: IntArray, score: FloatArray) -> _Choice:
    token, target = trie.tokens[edge].astype(np.int64), trie.targets[edge].astype(np.int64)
    return _Choice(row, beams.text[row], token, target, score)


def _log_softmax(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Nats, shape of `raw` [edges]."""
    highest, lowest = raw.max(), raw.min()
    _check_finite(float(highest), float(lowest))
    shifted = raw - highest  # [edges]
    return np.asarray(shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64))))


def _check_finite(highest: float, lowest: float) -> None:
    if not math.isfinite(highest - lowest):
        raise DecodeError("the model answered with numbers that are not finite", next_step="export the bundle again")


def _kept(score: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], width: int, limit: int) -> IntArray:
    """Positions of at least the best `limit` ends and the best `width` other edges."""
    if score.size <= _FEW * (width + limit):
        return np.arange(score.size)  # to choose now would cost more than it saves later
    ends = targets < 0  # [edges]
    ended = int(np.count_nonzero(ends))
    if ended in (0, ends.size):
        return greatest(score, limit if ended else width)
    lowest = np.float32(-np.inf)
    best_ends = greatest(np.where(ends, score, lowest), min(limit, ended))
    best_others = greatest(np.where(ends, lowest, score), min(width, ends.size - ended))
    return np.concatenate([best_ends, best_others])


def _collect(found: list[Ranking], ended: _Choice, limit: int) -> list[Ranking]:
    bounds = _bounds(ended.text, len(found))
    return [
        _merged(ranking, ~ended.target[low:high], ended.score[low:high], limit) if high > low else ranking
        for ranking, (low, high) in zip(found, pairwise(bounds), strict=True)
    ]


def _merged(ranking: Ranking, code: IntArray, score: FloatArray, limit: int) -> Ranking:
    code = np.concatenate([ranking.code, code])
    score = np.concatenate([ranking.log_probability, score])
    best = greatest(score, limit)
    return Ranking(code[best], score[best])


def _bar(found: list[Ranking], limit: int) -> FloatArray:
    """What an unfinished beam must exceed, for each text: the score at place `limit`."""
    scores = (ranking.log_probability for ranking in found)
    return np.array([score[-1] if score.size == limit else -np.inf for score in scores])  # [texts]


def _best_of_each(text: IntArray, score: FloatArray, texts: int, width: int) -> IntArray:
    bounds = _bounds(text, texts)
    parts = [low + greatest(score[low:high], width) for low, high in pairwise(bounds)]
    return np.concatenate(parts)


def _bounds(text: IntArray, texts: int) -> list[int]:
    """Where the places of each text begin in `text`, which ascends, and where the last ones end."""
    if texts == 1:
        return [0, text.size]
    found: list[int] = np.searchsorted(text, np.arange(texts + 1)).tolist()
    return found
