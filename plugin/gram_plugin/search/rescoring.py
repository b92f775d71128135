"""Rescoring: in `rerank`, codes that score the first hits alone, where nothing else of the search can tell.

OpenSearch finds the best hits of a few words by skipping most of the others. Two dozen optional queries beside the
words take that away, and a search of a large index then costs several times as much. A rescore of the first hits
leaves the search for them as it was. What lies behind them keeps its lexical order: codes only add points, so every hit
of the window stays before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gram_plugin.search.words import Body, is_graded

READS_SCORE = ("_score", "top_hits", "inner_hits", "sampler")
"""Words by which facets and computed fields read the score of a hit, which they would see without codes."""

_KEYS = frozenset(
    (
        "_source",
        "aggregations",
        "aggs",
        "docvalue_fields",
        "ext",
        "fields",
        "from",
        "highlight",
        "pit",
        "post_filter",
        "query",
        "script_fields",
        "seq_no_primary_term",
        "size",
        "stats",
        "stored_fields",
        "suggest",
        "terminate_after",
        "timeout",
        "track_total_hits",
        "version",
    )
)
_PARAMETERS = frozenset(
    (
        "_source",
        "_source_excludes",
        "_source_includes",
        "allow_no_indices",
        "allow_partial_search_results",
        "batched_reduce_size",
        "cancel_after_time_interval",
        "ccs_minimize_roundtrips",
        "error_trace",
        "expand_wildcards",
        "from",
        "human",
        "ignore_throttled",
        "ignore_unavailable",
        "max_concurrent_shard_requests",
        "phase_took",
        "pre_filter_shard_size",
        "preference",
        "pretty",
        "request_cache",
        "rest_total_hits_as_int",
        "routing",
        "search_pipeline",
        "search_type",
        "size",
        "timeout",
        "track_total_hits",
        "typed_keys",
    )
)


def can_rescore(body: Mapping[str, Any]) -> bool:
    """Whether the first hits of a search are its best, and every part of it means the same when these are rescored.

    Sorting, collapsing, `min_score`, `explain`, `profile`, a rescore of the client's own, and whatever is not known
    here, do not.
    """
    if not (_KEYS.issuperset(body) and is_graded(body.get("query"))):
        return False
    rest = json.dumps([body.get(key) for key in ("aggs", "aggregations", "script_fields")])
    return not any(word in rest for word in READS_SCORE)


def may_rescore(parameters: Iterable[str]) -> bool:
    """Whether parameters of the URL, by their names, leave a rescore its meaning; `scroll` and `sort` do not."""
    return _PARAMETERS.issuperset(parameters)


def rescored(body: Mapping[str, Any], optional: Sequence[Body], window: int) -> Body:
    """The search with the points of optional queries added to its first `window` hits of every shard."""
    query = optional[0] if len(optional) == 1 else {"bool": {"should": list(optional)}}
    return {**body, "rescore": {"window_size": window, "query": {"rescore_query": query, "score_mode": "total"}}}
