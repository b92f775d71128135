"""Arms side by side on a live index: each is asked every query, measured, compared with the first, and timed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gram_exporter.arms import APPLIED, DIRECT, Arm, ask, search_body
from gram_exporter.lexical import Lexical
from gram_exporter.measures import (
    DEPTH,
    MISSED_AT,
    Bootstrap,
    Floats,
    Interval,
    Judgments,
    Run,
    found_of_missed,
    interval,
    per_query,
    quantile,
    require_measured,
)
from gram_plugin.errors import JudgmentsError
from gram_plugin.progress import Progress

PAGE = 10
MAX_TIMED = 500
FAMILY_MEASURES = ("nDCG@10", "R@100")
QUALITY_BUDGET_MS = 2000.0
TIMING_BUDGET_MS = 50.0


@dataclass(frozen=True)
class Timed:
    """Pages that were timed: float64 (queries,) milliseconds, and what the shim said of them."""

    milliseconds: Floats
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """What one arm did: its ranking, query by query its measures, and how long a page took; None if not timed."""

    name: str
    run: Run
    measures: Mapping[str, Floats]
    statuses: Mapping[str, int]
    timed: Timed | None
    benchmark_only: bool = False


@dataclass(frozen=True)
class Row:
    """One arm in the table: means with intervals, and differences to the baseline with theirs.

    Attributes:
        name: of the arm.
        measures: measure to its mean.
        differences: measure to the mean of the differences to the baseline, query by query.
        found_of_missed: depth to the share of the relevant products that the baseline misses there and this arm
            finds; None where the baseline misses none.
        median_ms: of a page of 10; None if the arm was not timed.
        p99_ms: as `median_ms`.
        statuses: value of `x-gram-status` to number of searches.
        timed_statuses: the same of the timed pass.
        benchmark_only: whether the arm is no product that could be run.
    """

    name: str
    measures: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    found_of_missed: Mapping[int, Interval | None]
    median_ms: Interval | None
    p99_ms: Interval | None
    statuses: Mapping[str, int]
    timed_statuses: Mapping[str, int] = field(default_factory=dict)
    benchmark_only: bool = False

    @property
    def unenriched(self) -> Mapping[str, int]:
        """Statuses, over both passes, of searches that were answered without codes."""
        seen = Counter(self.statuses) + Counter(self.timed_statuses)
        return {status: count for status, count in seen.items() if status not in (DIRECT, APPLIED)}


@dataclass(frozen=True)
class Evaluation:
    """All arms on the same queries.

    Attributes:
        queries: number of queries measured.
        rows: one for each arm, the baseline first.
        families: differences to the baseline by family, arm and measure, for `FAMILY_MEASURES`.
        family_queries: number of queries by family.
    """

    queries: int
    rows: tuple[Row, ...]
    families: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    family_queries: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        return asdict(self)


def evaluate(
    arms: Sequence[Arm],
    index: str,
    lexical: Lexical,
    judgments: Judgments,
    *,
    rankings: Mapping[str, Run] | None = None,
    families: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, list[Outcome]]:
    """Asks every query of every arm: first 300 hits for the measures, then a timed page of 10, arm beside arm.

    Args:
        arms: the first is the baseline of all differences.
        index: index or alias that all arms search that have none of their own.
        lexical: makes the query clause for a text.
        judgments: query text to product id to grade.
        rankings: benchmark-only arms by name that were ranked elsewhere; they come last and are not timed.
        families: query text to the family it is reported under.
        progress: told of every query.

    Raises:
        JudgmentsError: no query has a relevant product, or no arm finds any product that the judgments name.
        SearchError: an arm could not be asked, or answered in part only.
    """
    queries = require_measured(judgments)
    report = progress or (lambda _stage, _done, _total: None)
    # Timed last: searches that are late under the tight budget would open the shim's breaker for those that follow.
    ranked = [_rank(arm, index, lexical, queries, report) for arm in arms]
    ranked += [_Ranked(name, run, {DIRECT: len(queries)}, True) for name, run in (rankings or {}).items()]
    _check_ids(ranked, judgments, index)
    live = [arm for arm in arms if not arm.benchmark_only]
    timed = _time_arms(live, index, lexical, queries[:MAX_TIMED], report)
    outcomes = [
        Outcome(
            found.name,
            found.run,
            per_query(found.run, judgments, queries),
            found.statuses,
            timed.get(found.name),
            found.benchmark_only,
        )
        for found in ranked
    ]
    report("intervals", 0, 1)
    members = _members(queries, families or {})
    sizes = {family: len(rows) for family, rows in members.items()}
    rows = tuple(_rows(outcomes, judgments, queries))
    report("intervals", 1, 1)
    return Evaluation(len(queries), rows, _by_family(outcomes, members), sizes), outcomes


def _time_arms(
    arms: Sequence[Arm], index: str, lexical: Lexical, queries: Sequence[str], report: Progress
) -> dict[str, Timed]:
    """A page of 10 for each arm and query; arms take turns so that a noisy moment hits all."""
    timings = {arm.name: np.zeros(len(queries)) for arm in arms}
    statuses: dict[str, Counter[str]] = {arm.name: Counter() for arm in arms}
    for at, text in enumerate(queries):
        for turn in range(len(arms)):
            arm = arms[(at + turn) % len(arms)]
            body = search_body((arm.query or lexical)(text), text, arm.mode, PAGE, TIMING_BUDGET_MS)
            started = time.perf_counter()
            _, status = ask(arm, arm.index or index, body)
            timings[arm.name][at] = 1000 * (time.perf_counter() - started)
            statuses[arm.name][status] += 1
        report("time", at + 1, len(queries))
    return {arm.name: Timed(timings[arm.name], dict(statuses[arm.name])) for arm in arms}


@dataclass(frozen=True)
class _Ranked:
    """What an arm found, and what the shim said of it."""

    name: str
    run: Run
    statuses: Mapping[str, int]
    benchmark_only: bool


def _rank(arm: Arm, index: str, lexical: Lexical, queries: Sequence[str], report: Progress) -> _Ranked:
    run: dict[str, list[str]] = {}
    statuses: Counter[str] = Counter()
    for at, text in enumerate(queries):
        body = search_body((arm.query or lexical)(text), text, arm.mode, DEPTH, QUALITY_BUDGET_MS)
        answer, status = ask(arm, arm.index or index, body)
        run[text] = [hit["_id"] for hit in answer["hits"]["hits"]]
        statuses[status] += 1
        report(arm.name, at + 1, len(queries))
    return _Ranked(arm.name, run, dict(statuses), arm.benchmark_only)


def _check_ids(ranked: Sequence[_Ranked], judgments: Judgments, index: str) -> None:
    if not any(key in judgments[query] for found in ranked for query, page in found.run.items() for key in page):
        raise JudgmentsError(
            f"no search in {index} found any product that the judgments name",
            next_step="check that docid in the judgments is the _id of the index, and the fields of [search]",
        )


def _rows(outcomes: Sequence[Outcome], judgments: Judgments, queries: Sequence[str]) -> list[Row]:
    base, bootstrap = outcomes[0], Bootstrap(len(queries))
    return [
        Row(
            outcome.name,
            {name: bootstrap.mean(values) for name, values in outcome.measures.items()},
            {name: bootstrap.mean(values - base.measures[name]) for name, values in outcome.measures.items()},
            {
                depth: bootstrap.share(found_of_missed(base.run, outcome.run, judgments, queries, depth))
                for depth in MISSED_AT
            },
            _milliseconds(outcome.timed, 0.5),
            _milliseconds(outcome.timed, 0.99),
            outcome.statuses,
            outcome.timed.statuses if outcome.timed else {},
            outcome.benchmark_only,
        )
        for outcome in outcomes
    ]


def _milliseconds(timed: Timed | None, share: float) -> Interval | None:
    return interval(timed.milliseconds, statistic=quantile(share)) if timed else None


def _members(queries: Sequence[str], families: Mapping[str, str]) -> dict[str, list[int]]:
    """Family to places in `queries`, families in order of their names."""
    members: dict[str, list[int]] = {}
    for at, query in enumerate(queries):
        if query in families:
            members.setdefault(families[query], []).append(at)
    return dict(sorted(members.items()))


def _by_family(
    outcomes: Sequence[Outcome], members: Mapping[str, list[int]]
) -> dict[str, dict[str, dict[str, Interval]]]:
    base = outcomes[0].measures
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    for family, rows in members.items():
        bootstrap = Bootstrap(len(rows))
        found[family] = {
            outcome.name: {
                name: bootstrap.mean((outcome.measures[name] - base[name])[rows]) for name in FAMILY_MEASURES
            }
            for outcome in outcomes[1:]
        }
    return found
