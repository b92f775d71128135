"""Arms side by side on a live index: the lexical query alone, and through the shim in each mode."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from opensearchpy import OpenSearch

from gram_exporter.lexical import Lexical
from gram_exporter.measures import Floats, Interval, Judgments, Run, interval, per_query, quantile, require_measured
from gram_plugin.errors import ConfigError, JudgmentsError, SearchError
from gram_plugin.progress import Progress
from gram_plugin.search.client import asking, url_of
from gram_plugin.search.query import Mode

DEPTH = 100
PAGE = 10
BASELINE = "BM25"
DIRECT = "direct"
"""Status of an answer that passed no shim."""
MAX_TIMED = 500
APPLIED = "applied"

_LOG = "look at the log of the node, then run it again"
_SHIM = "give the address that `gram shim` listens on, or none: then one is started"


@dataclass(frozen=True)
class Arm:
    """One way to answer a query: `mode` None asks OpenSearch directly, else the shim."""

    name: str
    client: OpenSearch
    mode: Mode | None = None


@dataclass(frozen=True)
class Timed:
    """Pages that were timed: float64 (queries,) milliseconds, and what the shim said of them."""

    milliseconds: Floats
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """What one arm did: its ranking, query by query its measures, and how long a page took."""

    name: str
    run: Run
    measures: Mapping[str, Floats]
    statuses: Mapping[str, int]
    timed: Timed


@dataclass(frozen=True)
class Row:
    """One arm in the table: means with intervals, and differences to the baseline with theirs."""

    name: str
    measures: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    median_ms: Interval
    p99_ms: Interval
    statuses: Mapping[str, int]
    timed_statuses: Mapping[str, int] = field(default_factory=dict)

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
        families: differences in nDCG@10 by family and arm.
        family_queries: number of queries by family.
    """

    queries: int
    rows: tuple[Row, ...]
    families: Mapping[str, Mapping[str, Interval]]
    family_queries: Mapping[str, int] = field(default_factory=dict)

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
    """Asks every query of every arm: first 100 hits for the measures, then a timed page of 10, arm beside arm.

    Args:
        arms: the first is the baseline of all differences.
        index: index or alias that all arms search.
        lexical: makes the query clause for a text.
        judgments: query text to product id to grade.
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
    _check_ids(ranked, judgments, index)
    timed = _time_arms(arms, index, lexical, queries[:MAX_TIMED], report)
    outcomes = [
        Outcome(arm.name, found.run, per_query(found.run, judgments, queries), found.statuses, timed[arm.name])
        for arm, found in zip(arms, ranked, strict=True)
    ]
    members = _members(queries, families or {})
    sizes = {family: len(rows) for family, rows in members.items()}
    return Evaluation(len(queries), tuple(_rows(outcomes)), _by_family(outcomes, members), sizes), outcomes


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
) -> dict[str, Timed]:
    """A page of 10 for each arm and query; arms take turns so that a noisy moment hits all."""
    timings = {arm.name: np.zeros(len(queries)) for arm in arms}
    statuses: dict[str, Counter[str]] = {arm.name: Counter() for arm in arms}
    for at, text in enumerate(queries):
        for turn in range(len(arms)):
            arm = arms[(at + turn) % len(arms)]
            body = search_body(lexical(text), text, arm.mode, PAGE, TIMING_BUDGET_MS)
            started = time.perf_counter()
            _, status = ask(arm, index, body)
            timings[arm.name][at] = 1000 * (time.perf_counter() - started)
            statuses[arm.name][status] += 1
        report("time", at + 1, len(queries))
    return {arm.name: Timed(timings[arm.name], dict(statuses[arm.name])) for arm in arms}


@dataclass(frozen=True)
class _Ranked:
    """What an arm found, and what the shim said of it."""

    run: Run
    statuses: Mapping[str, int]


def _rank(arm: Arm, index: str, lexical: Lexical, queries: Sequence[str], report: Progress) -> _Ranked:
    run: dict[str, list[str]] = {}
    statuses: Counter[str] = Counter()
    for at, text in enumerate(queries):
        answer, status = ask(arm, index, search_body(lexical(text), text, arm.mode, DEPTH, QUALITY_BUDGET_MS))
        run[text] = [hit["_id"] for hit in answer["hits"]["hits"]]
        statuses[status] += 1
        report(arm.name, at + 1, len(queries))
    return _Ranked(run, dict(statuses))


def ask(arm: Arm, index: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The answer and what the shim said of it; `direct` when there is none between.

    Raises:
        SearchError: the arm is gone, refused, or answered from a part of the index; or it is no shim and should be.
    """
    with asking(arm.client, f"searching {index}"):
        # The client's own search() drops the headers, and the status of the shim is one.
        _, headers, text = arm.client.transport.get_connection().perform_request(
            "POST",
            f"/{quote(index, safe=',*-')}/_search",
            body=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
    status = next((value for name, value in headers.items() if name.lower() == "x-gram-status"), DIRECT)
    if arm.mode is not None and status == DIRECT:
        raise SearchError(f"{url_of(arm.client)} is no gram shim: its answer has no x-gram-status", next_step=_SHIM)
    return _whole(arm, text), status


def _whole(arm: Arm, text: str) -> dict[str, Any]:
    """The answer, if it is one and comes from every shard in time: a part would be measured as a bad ranking."""
    try:
        answer: dict[str, Any] = json.loads(text)
        hits, failed = answer["hits"]["hits"], answer.get("_shards", {}).get("failed", 0)
        whole = isinstance(hits, list) and not failed and not answer.get("timed_out")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchError(f"{url_of(arm.client)} answered a search with {text[:200]!r}", next_step=_LOG) from error
    if not whole:
        raise SearchError(
            f"{url_of(arm.client)} searched a part of the index only: {failed} shards failed", next_step=_LOG
        )
    return answer


def _check_ids(ranked: Sequence[_Ranked], judgments: Judgments, index: str) -> None:
    if not any(key in judgments[query] for found in ranked for query, page in found.run.items() for key in page):
        raise JudgmentsError(
            f"no search in {index} found any product that the judgments name",
            next_step="check that docid in the judgments is the _id of the index, and the fields of [search]",
        )


def _rows(outcomes: Sequence[Outcome]) -> list[Row]:
    base = outcomes[0]
    return [
        Row(
            outcome.name,
            {name: interval(values) for name, values in outcome.measures.items()},
            {name: interval(values - base.measures[name]) for name, values in outcome.measures.items()},
            interval(outcome.timed.milliseconds, statistic=quantile(0.5)),
            interval(outcome.timed.milliseconds, statistic=quantile(0.99)),
            outcome.statuses,
            outcome.timed.statuses,
        )
        for outcome in outcomes
    ]


def _members(queries: Sequence[str], families: Mapping[str, str]) -> dict[str, list[int]]:
    """Family to places in `queries`, families in order of their names."""
    members: dict[str, list[int]] = {}
    for at, query in enumerate(queries):
        if query in families:
            members.setdefault(families[query], []).append(at)
    return dict(sorted(members.items()))


def _by_family(outcomes: Sequence[Outcome], members: Mapping[str, list[int]]) -> dict[str, dict[str, Interval]]:
    base = outcomes[0].measures["nDCG@10"]
    return {
        family: {outcome.name: interval((outcome.measures["nDCG@10"] - base)[rows]) for outcome in outcomes[1:]}
        for family, rows in members.items()
    }


def check_modes(modes: Sequence[str]) -> list[Mode]:
    """The modes by their names, each once.

    Raises:
        ConfigError: a name is no mode.
    """
    known = [mode.value for mode in Mode]
    unknown = [name for name in modes if name not in known]
    if unknown:
        raise ConfigError(f"unknown mode {unknown[0]!r}", next_step=f"use one of {', '.join(known)}")
    return [Mode(name) for name in dict.fromkeys(modes)]
