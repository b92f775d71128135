"""Calibration: how many points one code is worth in an index, measured on its own lexical scores.

λ = strength × score_scale. The strength is chosen (by training or by hand) and has no unit. The score scale
is measured: the median, over sample queries, of the spread of lexical scores on a page of results, that is best score
minus worst among the first `PAGE_HITS` hits.

Why this statistic:

* Order is decided by differences of scores, so what competes with a code is the spread and not the level: a constant
  added to all scores (a boost on every product) changes no order, and it does not change the spread.
* It is proportional to the scores. BM25 of OpenSearch 3.x is that of 2.x divided by 2.2 (the factor k1 + 1 is gone), so
  λ follows by the same factor and the order is the same on both.
* A median is not moved by one odd query, such as a model number that scores far above everything.

Where scores never differ (all queries are constant), the median best score takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from gram_plugin.contract.codes import check_generation
from gram_plugin.errors import CalibrationError
from gram_plugin.search.client import asking
from gram_plugin.search.document import PENDING
from gram_plugin.search.mappings import IndexCalibration

if TYPE_CHECKING:  # see client.py
    from opensearchpy import OpenSearch

PAGE_HITS = 100
MAX_QUERIES = 500
DEFAULT_STRENGTH = 0.1
"""Without feedback codes must not do harm. Trained without any, they were best at 0.1 on development queries of films
and of a shop's titles, worse than nothing at 0.4 and 0.25; only with clean typed fields was more better
(docs/experiments.md). 1 would be the way from the last to the first of a page."""

_BATCH = 25


def calibrate_index(
    client: OpenSearch,
    index: str,
    queries: Sequence[str],
    lexical: Callable[[str], Mapping[str, Any]],
    *,
    generation: str | None = None,
    strength: float = DEFAULT_STRENGTH,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> IndexCalibration:
    """Measures the score scale of an index; nothing is written.

    Args:
        client: where to ask.
        index: an index or alias with documents.
        queries: texts as shoppers type them; the first 500 are used.
        lexical: makes the query part of a search body for a text, as the shop does it.
        generation: model generation that it is for; the one that the index holds if None.
        strength: share of the scale that a certain code may count, > 0.
        now: tells the time.

    Raises:
        CalibrationError: no query found anything, or the strength is no number above 0, or the index holds
            codes of no generation or of several.
        SearchError: OpenSearch could not be reached or refused a query.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise CalibrationError(f"strength is {strength}", next_step="give a number above 0, such as 0.1")
    pages = [page for page in _pages(client, index, queries[:MAX_QUERIES], lexical) if page]
    if not pages:
        raise CalibrationError(
            f"none of {min(len(queries), MAX_QUERIES)} queries found anything in {index}",
            next_step="give queries in the words of the catalogue, and the fields that they should search",
        )
    found = check_generation(generation) if generation else generation_of(client, index)
    scale = float(f"{score_scale(pages):.6g}")
    return IndexCalibration(found, strength, scale, len(pages), now().isoformat(timespec="seconds"))


def score_scale(pages: Sequence[Sequence[float]]) -> float:
    """The median spread of the pages whose scores differ, or else the median best score; > 0 in points.

    Args:
        pages: for each query its lexical scores, best first, at least one.

    Raises:
        CalibrationError: no page has a score above 0.
    """
    spreads = [page[0] - page[-1] for page in pages if page[0] > page[-1]]
    scale = median(spreads) if spreads else median(page[0] for page in pages)
    if scale <= 0:
        raise CalibrationError(
            "the lexical queries give every hit the score 0", next_step="calibrate with queries that score, not filters"
        )
    return scale


def generation_of(client: OpenSearch, index: str) -> str:
    """The one model generation whose codes an index holds.

    Raises:
        CalibrationError: there is none or there are several.
        SearchError: OpenSearch could not be reached.
    """
    body = {"size": 0, "aggs": {"models": {"terms": {"field": "gram.model", "size": 10}}}}
    with asking(client, f"looking for the model generations in {index}"):
        answer = client.search(index=index, body=body)
    buckets = answer.get("aggregations", {}).get("models", {}).get("buckets", [])
    found = [bucket["key"] for bucket in buckets if bucket["key"] != PENDING]
    if len(found) != 1:
        raise CalibrationError(
            f"index {index} holds codes of {'no generation' if not found else ', '.join(found)}",
            next_step="name the one that will be served with --generation",
        )
    return str(found[0])


def _pages(
    client: OpenSearch, index: str, queries: Sequence[str], lexical: Callable[[str], Mapping[str, Any]]
) -> Iterator[list[float]]:
    """Scores of the first hits of every query, best first."""
    for start in range(0, len(queries), _BATCH):
        lines: list[Mapping[str, Any]] = []
        for query in queries[start : start + _BATCH]:
            lines += [{}, _scores_body(lexical(query))]
        with asking(client, f"sampling lexical scores of {index}"):
            answers = client.msearch(body=lines, index=index)["responses"]
        yield from (_scores(answer, index) for answer in answers)


def _scores_body(query: Mapping[str, Any]) -> dict[str, Any]:
    return {"query": query, "size": PAGE_HITS, "_source": False, "track_total_hits": False}


def _scores(answer: Mapping[str, Any], index: str) -> list[float]:
    if "error" in answer:
        reason = answer["error"].get("root_cause", [answer["error"]])[0].get("reason")
        raise CalibrationError(
            f"a lexical query on {index} was refused: {reason}", next_step="check the fields that the queries search"
        )
    return [float(hit["_score"]) for hit in answer["hits"]["hits"]]
