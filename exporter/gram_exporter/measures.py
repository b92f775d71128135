"""Retrieval measures for each query, and bootstrap intervals for their means and differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import numpy.typing as npt

from gram_plugin.errors import JudgmentsError

Floats = npt.NDArray[np.float64]
Run = Mapping[str, Sequence[str]]
"""Query text to ranked product ids."""
Judgments = Mapping[str, Mapping[str, float]]
"""Query text to product id to grade; a grade above 0 is relevant."""

MEASURES: Mapping[str, ir_measures.Measure] = {
    "nDCG@10": ir_measures.nDCG @ 10,
    "R@10": ir_measures.R @ 10,
    "R@100": ir_measures.R @ 100,
    "R@300": ir_measures.R @ 300,
}
RELEVANT = "relevant@10"
JUDGED = "judged@10"
EMPTY = "empty pages"
JUDGED_ONLY: Mapping[str, str] = {name: f"{name}, judged only" for name in (*MEASURES, RELEVANT)}
"""Measure to its variant that takes hits that nobody judged out of the ranking first."""
ALL = (*MEASURES, RELEVANT, JUDGED, EMPTY, *JUDGED_ONLY.values())
DEPTH = 300
"""Hits that the deepest measure reads."""
MISSED_AT = (100, 300)
"""Depths at which what the baseline missed, and another arm found, is counted."""
RESAMPLES = 2000
LEVEL = 0.95
FEWEST_TELLING = 20
"""Queries from which on an interval is believed: a bootstrap of fewer knows too little of their spread."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile-bootstrap interval over queries."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def measured_queries(judgments: Judgments) -> list[str]:
    """Queries with at least one relevant product: the others can tell no arm from another."""
    return [query for query, grades in judgments.items() if any(grade > 0 for grade in grades.values())]


def require_measured(judgments: Judgments) -> list[str]:
    """The queries with at least one relevant product.

    Raises:
        JudgmentsError: there is none.
    """
    queries = measured_queries(judgments)
    if not queries:
        raise JudgmentsError("no query has a product with a grade above 0", next_step="check the judgments file")
    return queries


def per_query(run: Run, judgments: Judgments, queries: Sequence[str]) -> dict[str, Floats]:
    """Every measure of every query, float64, shape (queries,), in the order of `queries`.

    nDCG has linear gains (the grade) and a log2 discount, as trec_eval has; a query that the run lacks counts as empty.
    `relevant@10` is the share of the first 10 hits, or of as many as there are, that the judgments call relevant,
    `judged@10` the share that they list at all; both are 0 of an empty page.
    """
    judged = {query: [key for key in run.get(query, ()) if key in judgments[query]] for query in queries}
    return {
        **graded(run, judgments, queries),
        RELEVANT: _shares(run, judgments, queries, lambda grade: grade > 0),
        JUDGED: _shares(run, judgments, queries, lambda _: True),
        EMPTY: np.array([float(not run.get(query)) for query in queries]),
        **{JUDGED_ONLY[name]: values for name, values in graded(judged, judgments, queries).items()},
        JUDGED_ONLY[RELEVANT]: _shares(judged, judgments, queries, lambda grade: grade > 0),
    }


def graded(run: Run, judgments: Judgments, queries: Sequence[str]) -> dict[str, Floats]:
    """`MEASURES` of every query, float64, shape (queries,), in the order of `queries`."""
    names = {query: f"q{at}" for at, query in enumerate(queries)}
    qrels = [
        ir_measures.Qrel(names[query], product_id, _whole(grade))
        for query in queries
        for product_id, grade in judgments[query].items()
    ]
    scored = [
        ir_measures.ScoredDoc(names[query], product_id, float(-rank))
        for query in queries
        for rank, product_id in enumerate(run.get(query, ()))
    ]
    found = {name: np.zeros(len(queries)) for name in MEASURES}
    by_measure = {str(measure): name for name, measure in MEASURES.items()}
    for metric in ir_measures.iter_calc(MEASURES.values(), qrels, scored):
        found[by_measure[str(metric.measure)]][int(metric.query_id[1:])] = metric.value
    return found


@dataclass(frozen=True)
class Missed:
    """Relevant products that a baseline missed, and those of them that another run found.

    Attributes:
        missed: float64, shape (queries,), how many of each query.
        found: float64, shape (queries,).
    """

    missed: Floats
    found: Floats


def found_of_missed(base: Run, run: Run, judgments: Judgments, queries: Sequence[str], depth: int) -> Missed:
    """What of the relevant products that `base` lacks among its first `depth` hits the first `depth` of `run` hold."""
    missed, found = np.zeros(len(queries)), np.zeros(len(queries))
    for at, query in enumerate(queries):
        lacking = {key for key, grade in judgments[query].items() if grade > 0} - set(base.get(query, ())[:depth])
        missed[at], found[at] = len(lacking), len(lacking & set(run.get(query, ())[:depth]))
    return Missed(missed, found)


class Bootstrap:
    """Resamples of one set of queries, the same for every figure: differences query by query stay paired.

    Args:
        queries: how many, at least one.
        resamples: bootstrap samples.
        seed: of the resampling.
    """

    def __init__(self, queries: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        # how often each query is in each resample, (resamples, queries): a mean is then one product
        self._times = np.empty((resamples, queries), np.float32)
        for row in self._times:
            row[:] = np.bincount(rng.integers(queries, size=queries), minlength=queries)

    def mean(self, values: Floats) -> Interval:
        """The mean of float64 (queries,) with its interval."""
        return _between(float(values.mean()), self._times @ values / len(values))

    def share(self, missed: Missed) -> Interval | None:
        """What was found of all that was missed, pooled over queries; None where nothing was missed."""
        if not missed.missed.any():
            return None
        whole = self._times @ missed.missed  # (resamples,)
        part = (self._times @ missed.found)[whole > 0]
        return _between(float(missed.found.sum() / missed.missed.sum()), part / whole[whole > 0])


def interval(
    values: Floats, *, statistic: Callable[[Floats], Floats] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The statistic (mean if none is given) over queries with its bootstrap interval.

    For a paired comparison pass the differences query by query.

    Args:
        values: float64, shape (queries,), at least one.
        statistic: maps float64 (resamples, queries) to (resamples,).
        resamples: bootstrap samples.
        seed: of the resampling.
    """
    of = statistic or (lambda drawn: drawn.mean(axis=-1))
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(len(values), size=(resamples, len(values)))]  # (resamples, queries)
    return _between(float(of(values[None, :])[0]), of(drawn))


def quantile(share: float) -> Callable[[Floats], Floats]:
    """A statistic for `interval`: the quantile of each resample."""
    return lambda drawn: np.quantile(drawn, share, axis=-1)


def _between(value: float, resampled: Floats) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _whole(grade: float) -> int:
    """A grade as trec_eval wants it, a whole number: in thousandths, which changes no nDCG, and never 0 if above 0."""
    return max(round(1000 * grade), int(grade > 0))


def _shares(run: Run, judgments: Judgments, queries: Sequence[str], counts: Callable[[float], bool]) -> Floats:
    """Of each query's first 10 hits the share whose grade counts; hits that nobody judged do not."""
    pages = ((run.get(query, ())[:10], judgments[query]) for query in queries)
    return np.array(
        [sum(key in own and counts(own[key]) for key in page) / len(page) if page else 0.0 for page, own in pages]
    )
