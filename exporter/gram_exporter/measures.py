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
}
EMPTY = "empty pages"
JUDGED = "judged@10"
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
    """
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
    return {
        **found,
        EMPTY: np.array([float(not run.get(query)) for query in queries]),
        JUDGED: np.array([_judged_share(run.get(query, ())[:10], judgments[query]) for query in queries]),
    }


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
    low, high = np.quantile(of(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(of(values[None, :])[0]), float(low), float(high))


def quantile(share: float) -> Callable[[Floats], Floats]:
    """A statistic for `interval`: the quantile of each resample."""
    return lambda drawn: np.quantile(drawn, share, axis=-1)


def _whole(grade: float) -> int:
    """A grade as trec_eval wants it, a whole number: in thousandths, which changes no nDCG, and never 0 if above 0."""
    return max(round(1000 * grade), int(grade > 0))


def _judged_share(page: Sequence[str], grades: Mapping[str, float]) -> float:
    return sum(product_id in grades for product_id in page) / len(page) if page else 0.0
