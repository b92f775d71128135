"""Calibration: from the models' log-probability to P(code | text), the part of the wanted products that carry it.

A curve is fitted by isotonic regression (pool adjacent violators, Ayer et al. 1955) on texts that
training never saw. Before that, the same texts say how much of a query's answer should be the linear arm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gram_exporter.record import CalibrationText
from gram_plugin.contract.bundle import Curve
from gram_plugin.contract.codes import MAX_CODES, Role
from gram_plugin.decode.beam import Ranking
from gram_plugin.decode.generator import OnnxGenerator, blend, rarity_of
from gram_plugin.decode.linear import LinearArm

FEWEST_PAIRS = 100
"""With fewer (code, right or wrong) pairs the model's own probabilities are kept."""
MOST_TEXTS = 1000
BINS = 10
SHARES = tuple(round(1 - 0.05 * step, 2) for step in range(21))
"""Parts of the linear arm that are tried, the arm alone first."""
_IDENTITY_REACH_NATS = 14.0
_IDENTITY_KNOTS = 113
_LEAST_PROBABILITY = 1e-6

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """Written codes: how sure the model was of each, and how right it is."""

    log_probability: FloatArray  # [codes] nats
    right: FloatArray  # [codes] 0 to 1: the part of the wanted products that carry the code
    text: npt.NDArray[np.int64]  # [codes] which text it was written for

    def only(self, keep: npt.NDArray[np.bool_]) -> Outcomes:
        """Those outcomes where `keep` is true."""
        return Outcomes(self.log_probability[keep], self.right[keep], self.text[keep])


@dataclass(frozen=True)
class Calibrated:
    """A role's curve, and the expected calibration error (0 to 1) without and with such a curve."""

    curve: Curve
    error_before: float
    error_after: float
    pairs: int


def calibrate(generator: OnnxGenerator, texts: Sequence[CalibrationText], role: Role) -> Calibrated:
    """Fits the curve of one role on at most `MOST_TEXTS` of its texts."""
    own = [item for item in texts if item.role is role]
    outcomes = observe(generator, own[:: max(1, -(-len(own) // MOST_TEXTS))], role)
    before = expected_error(np.exp(outcomes.log_probability), outcomes.right)
    return Calibrated(fit_curve(outcomes), before, _error_on_unseen(outcomes), outcomes.right.size)


def observe(generator: OnnxGenerator, texts: Sequence[CalibrationText], role: Role) -> Outcomes:
    """Lets the generator write codes, without calibration, and compares them with the right ones."""
    log_probability: list[float] = []
    right: list[float] = []
    text: list[int] = []
    for place, ranking in enumerate(generator.rank([item.text for item in texts], role)):
        wanted = texts[place].share_of()
        log_probability.extend(ranking.log_probability)
        right.extend(wanted.get(generator.codebook[index].code, 0.0) for index in ranking.code)
        text.extend([place] * ranking.code.size)
    return Outcomes(np.array(log_probability, float), np.array(right, float), np.array(text, np.int64))


def linear_share(generator: OnnxGenerator, arm: LinearArm, texts: Sequence[CalibrationText]) -> float:
    """The part of the linear arm in the mixture whose codes are the best for held-out queries, 0 to 1.

    Best is what has the greatest mean of `code_gain`; the arm alone where there is no held-out query.
    """
    queries = [item for item in texts if item.role is Role.QUERY and item.codes][:MOST_TEXTS]
    index = {entry.code: at for at, entry in enumerate(generator.codebook)}
    written = generator.written([item.text for item in queries], Role.QUERY, generator.beam_width)
    rarity = rarity_of(generator.codebook.products, generator.manifest.products)  # (codes,)
    gains = np.zeros(len(SHARES))
    for item, ranking in zip(queries, written, strict=True):
        found = arm.likely(item.text, MAX_CODES, ranking.code)
        worth = {index[code]: share for code, share in item.share_of().items() if code in index}
        for at, share in enumerate(SHARES):
            gains[at] += code_gain(blend(ranking, found, share, MAX_CODES), worth, rarity)
    return SHARES[int(gains.argmax())]


def code_gain(ranking: Ranking, worth: Mapping[int, float], rarity: FloatArray) -> float:
    """Discounted cumulative gain of codes, a code's gain being P(code | query) · rarity, as in the clause."""
    gains = np.array([worth.get(code, 0.0) * rarity[code] for code in ranking.code.tolist()])
    return float((gains / np.log2(np.arange(len(gains)) + 2)).sum())


def fit_curve(outcomes: Outcomes) -> Curve:
    """The non-decreasing curve nearest to the outcomes; the identity when they are too few or all alike."""
    if outcomes.right.size < FEWEST_PAIRS or outcomes.right.min() == outcomes.right.max():
        return identity_curve()
    order = np.argsort(outcomes.log_probability, kind="stable")
    blocks = _pool(outcomes.log_probability[order], outcomes.right[order])
    return Curve(tuple(map(float, blocks[0])), tuple(map(float, np.clip(blocks[1], _LEAST_PROBABILITY, 1.0))))


def identity_curve() -> Curve:
    """The model's own probability, within 0.2 percent of it down to e^-14."""
    knots = np.linspace(-_IDENTITY_REACH_NATS, 0.0, _IDENTITY_KNOTS)
    return Curve(tuple(map(float, knots)), tuple(map(float, np.exp(knots))))


def expected_error(probability: FloatArray, right: FloatArray) -> float:
    """Mean gap between claimed probability and share of right codes, over ten bins of equal size."""
    if not right.size:
        return 0.0
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, BINS)
    gaps = [abs(probability[part].mean() - right[part].mean()) * part.size for part in parts if part.size]
    return float(sum(gaps) / right.size)


def _error_on_unseen(outcomes: Outcomes) -> float:
    """The error of curves fitted on one half of the texts, measured on the other."""
    even = outcomes.text % 2 == 0
    halves = [(outcomes.only(even), outcomes.only(~even)), (outcomes.only(~even), outcomes.only(even))]
    claimed = [fit_curve(seen).at(unseen.log_probability) for seen, unseen in halves if unseen.right.size]
    right = [unseen.right for _, unseen in halves if unseen.right.size]
    return expected_error(np.concatenate(claimed), np.concatenate(right)) if right else 0.0


def _pool(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pools ascending `x` into blocks whose means of `y` increase; means of x and of y, both [blocks]."""
    size: list[float] = []
    total_x: list[float] = []
    total_y: list[float] = []
    for at, value in zip(x, y, strict=True):
        size.append(1.0)
        total_x.append(float(at))
        total_y.append(float(value))
        while len(size) > 1 and total_y[-2] * size[-1] >= total_y[-1] * size[-2]:
            for totals in (size, total_x, total_y):
                last = totals.pop()
                totals[-1] += last
    knots, means = np.array(total_x) / size, np.array(total_y) / size
    distinct = np.concatenate([[True], np.diff(knots) > 0])
    return knots[distinct], means[distinct]
