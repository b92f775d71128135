"""Arms side by side on a live index: the lexical query alone, and through the shim in each mode."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from opensearchpy import OpenSearch

from gram_exporter.lexical import Lexical
from gram_exporter.measures import Floats, Interval, Judgments, Run, interval, measured_queries, per_query, quantile
from gram_plugin.errors import ConfigError, JudgmentsError
from gram_plugin.search.client import asking
from gram_plugin.search.query import Mode

DEPTH = 100
PAGE = 10
BASELINE = "BM25"
MAX_TIMED = 500

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Arm:
    """One way to answer a query: `mode` None asks OpenSearch directly, else the shim."""

    name: str
    client: OpenSearch
    mode: Mode | None = None


@dataclass(frozen=True)
class Outcome:
    """What one arm did: its ranking and, query by query, its measures."""

    name: str
    run: Run
    measures: Mapping[str, Floats]
    statuses: Mapping[str, int]
    milliseconds: Floats


@dataclass(frozen=True)
class Row:
    """One arm in the table: means with intervals, and differences to the baseline with theirs."""

    name: str
    measures: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    median_ms: Interval
    p99_ms: Interval
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class Evaluation:
    """All arms on the same queries; `families` has differences in nDCG@10 by family and arm."""

    queries: int
    rows: tuple[Row, ...]
    families: Mapping[str, Mapping[str, Interval]]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        return asdict(self)


def arms_of(direct: OpenSearch, shim: OpenSearch, modes: Sequence[Mode]) -> list[Arm]:
    """The baseline and one arm for each mode."""
    return [Arm(BASELINE, direct), *(Arm(f"{BASELINE} + codes, {mode.value}", shim, mode) for mode in modes)]


def evaluate(
    arms: Sequence[Arm],
    index: str,
    lexical: Lexical,
    judgments: Judgments,
    *,
    families: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, list[Outcome]]:
    """Asks every query of every arm: first a timed page of 10, arm beside arm, then 100 hits for the measures.

    Args:
        arms: the first is the baseline of all differences.
        index: index or alias that all arms search.
        lexical: makes the query clause for a text.
        judgments: query text to product id to grade.
        families: query text to the family it is reported under.
        progress: told of every query.

    Raises:
        JudgmentsError: no query has a relevant product.
        SearchError: an arm could not be asked.
    """
    queries = measured_queries(judgments)
    if not queries:
        raise JudgmentsError("no query has a product with a grade above 0", next_step="check the judgments file")
    report = progress or (lambda _stage, _done, _total: None)
    timings = _time_arms(arms, index, lexical, queries[:MAX_TIMED], report)
    outcomes = [_outcome(arm, index, lexical, queries, judgments, timings[arm.name], report) for arm in arms]
    return Evaluation(len(queries), tuple(_rows(outcomes)), _by_family(outcomes, queries, families or {})), outcomes


def search_body(query: Mapping[str, Any], text: str, mode: Mode | None, size: int, budget_ms: float) -> dict[str, Any]:
    """A search for ids; for the shim with its mode."""
    body: dict[str, Any] = {"query": dict(query), "size": size, "_source": False}
    if mode is not None:
        body["ext"] = {"gram": {"query": text, "mode": mode.value, "budget_ms": budget_ms}}
    return body


QUALITY_BUDGET_MS = 2000.0
TIMING_BUDGET_MS = 50.0


def _time_arms(
    arms: Sequence[Arm], index: str, lexical: Lexical, queries: Sequence[str], report: Progress
) -> dict[str, Floats]:
    """Milliseconds of a page of 10 for each arm and query; arms take turns so that a noisy moment hits all."""
    timings = {arm.name: np.zeros(len(queries)) for arm in arms}
    for at, text in enumerate(queries):
        for turn in range(len(arms)):
            arm = arms[(at + turn) % len(arms)]
            body = search_body(lexical(text), text, arm.mode, PAGE, TIMING_BUDGET_MS)
            started = time.perf_counter()
            ask(arm, index, body)
            timings[arm.name][at] = 1000 * (time.perf_counter() - started)
        report("time", at + 1, len(queries))
    return timings


def _outcome(
    arm: Arm,
    index: str,
    lexical: Lexical,
    queries: Sequence[str],
    judgments: Judgments,
    milliseconds: Floats,
    report: Progress,
) -> Outcome:
    run: dict[str, list[str]] = {}
    statuses: dict[str, int] = {}
    for at, text in enumerate(queries):
        answer, status = ask(arm, index, search_body(lexical(text), text, arm.mode, DEPTH, QUALITY_BUDGET_MS))
        run[text] = [hit["_id"] for hit in answer["hits"]["hits"]]
        statuses[status] = statuses.get(status, 0) + 1
        report(arm.name, at + 1, len(queries))
    return Outcome(arm.name, run, per_query(run, judgments, queries), statuses, milliseconds)


def ask(arm: Arm, index: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The answer and what the shim said of it; `direct` when there is none between."""
    with asking(arm.client, f"searching {index}"):
        # The client's own search() drops the headers, and the status of the shim is one.
        _, headers, answer = arm.client.transport.get_connection().perform_request(
            "POST",
            f"/{quote(index, safe=',*-')}/_search",
            body=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
    statuses = [value for name, value in headers.items() if name.lower() == "x-gram-status"]
    return json.loads(answer), statuses[0] if statuses else "direct"


def _rows(outcomes: Sequence[Outcome]) -> list[Row]:
    base = outcomes[0]
    return [
        Row(
            outcome.name,
            {name: interval(values) for name, values in outcome.measures.items()},
            {name: interval(values - base.measures[name]) for name, values in outcome.measures.items()},
            interval(outcome.milliseconds, statistic=quantile(0.5)),
            interval(outcome.milliseconds, statistic=quantile(0.99)),
            outcome.statuses,
        )
        for outcome in outcomes
    ]


def _by_family(
    outcomes: Sequence[Outcome], queries: Sequence[str], families: Mapping[str, str]
) -> dict[str, dict[str, Interval]]:
    base = outcomes[0].measures["nDCG@10"]
    members: dict[str, list[int]] = {}
    for at, query in enumerate(queries):
        if query in families:
            members.setdefault(families[query], []).append(at)
    return {
        family: {outcome.name: interval((outcome.measures["nDCG@10"] - base)[rows]) for outcome in outcomes[1:]}
        for family, rows in sorted(members.items())
    }


def check_modes(modes: Sequence[str]) -> list[Mode]:
    """The modes by their names.

    Raises:
        ConfigError: a name is no mode.
    """
    known = [mode.value for mode in Mode]
    unknown = [name for name in modes if name not in known]
    if unknown:
        raise ConfigError(f"unknown mode {unknown[0]!r}", next_step=f"use one of {', '.join(known)}")
    return [Mode(name) for name in modes]
