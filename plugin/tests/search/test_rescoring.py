"""Codes that score the first hits alone: when they may, and what OpenSearch then gets."""

from __future__ import annotations

from typing import Any

import pytest

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.errors import ConfigError
from gram_plugin.search.query import ClauseSettings, Mode, code_clause, enrich
from gram_plugin.search.rescoring import can_rescore, may_rescore

WORDS = {"match": {"title": "red couch"}}
CODES = [ScoredCode(Code.parse("type=sofa"), 0.5)]
SETTINGS = ClauseSettings(strength=2.0, window=300)
CLAUSE = code_clause(CODES, "g1", SETTINGS)


def test_a_plain_search_keeps_its_query_and_is_rescored() -> None:
    """Everything of the client stays; the points of codes are added to those of the words."""
    body = {"query": WORDS, "size": 20, "from": 40, "aggs": {"brand": {"terms": {"field": "brand"}}}}
    rescore = {"window_size": 300, "query": {"rescore_query": CLAUSE, "score_mode": "total"}}
    assert enrich(body, CODES, "g1", SETTINGS, Mode.RERANK) == {**body, "rescore": rescore}


def test_what_keeps_exact_matches_on_top_is_in_the_rescore() -> None:
    """Beside the clause, as it stands beside it in a query."""
    body = {"query": {"match": {"title": "sofa G502X"}}}
    found = enrich(body, CODES, "g1", SETTINGS, Mode.RERANK)
    whole = enrich(body, CODES, "g1", ClauseSettings(strength=2.0), Mode.RERANK)
    optional = whole["query"]["bool"]["should"]
    assert len(optional) == 3
    assert found["rescore"]["query"]["rescore_query"] == {"bool": {"should": optional}}
    assert found["query"] == body["query"]


@pytest.mark.parametrize("mode", [Mode.RECALL, Mode.RESCUE])
def test_what_finds_more_is_never_a_rescore(mode: Mode) -> None:
    """A rescore cannot find what the words miss."""
    settings = ClauseSettings(strength=2.0)
    assert enrich({"query": WORDS}, CODES, "g1", SETTINGS, mode) == enrich(
        {"query": WORDS}, CODES, "g1", settings, mode
    )


GRADED: list[Any] = [
    WORDS,
    {"multi_match": {"query": "red couch", "fields": ["title"]}},
    {"query_string": {"query": "red couch"}},
    {"bool": {"must": WORDS, "filter": {"term": {"brand": "x"}}}},
    {"bool": {"must": [{"match_all": {}}, WORDS]}},
    {"bool": {"should": [WORDS, {"match": {"brand": "red couch"}}]}},
    {"dis_max": {"queries": [WORDS]}},
    {"boosting": {"positive": WORDS, "negative": {"term": {"brand": "x"}}, "negative_boost": 0.5}},
    {"function_score": {"query": WORDS, "field_value_factor": {"field": "sales"}}},
    {"function_score": {"query": {"bool": {"must": [WORDS]}}, "boost_mode": "sum"}},
]
FLAT: list[Any] = [
    None,
    {},
    {"match_all": {}},
    {"term": {"brand": "x"}},
    {"constant_score": {"filter": WORDS}},
    {"bool": {"filter": WORDS}},
    {"bool": {"must": {"constant_score": {"filter": WORDS}}}},
    {"function_score": {"query": WORDS, "boost_mode": "replace", "field_value_factor": {"field": "sales"}}},
    {"script_score": {"query": WORDS, "script": {"source": "1"}}},
    {"nested": {"path": "variants", "query": WORDS}},
    {"match": {"title": "a"}, "term": {"b": "c"}},
    {"bool": {"should": [{"term": {"brand": "x"}}, WORDS]}},
    {"bool": {"filter": [{"term": {"brand": "x"}}], "should": [WORDS]}},
    {"bool": {"must": [{"match_all": {}}], "should": [WORDS]}},
    {"bool": {"should": []}},
    {"dis_max": {"queries": [WORDS, {"term": {"brand": "x"}}]}},
    {"match": {"title": {"query": "red couch", "boost": 0}}},
    {"bool": {"must": [WORDS], "boost": 0.0}},
    {"function_score": {"query": WORDS, "weight": 0}},
    {"bool": [WORDS]},
]


@pytest.mark.parametrize("query", GRADED)
def test_words_that_score_let_the_first_hits_be_the_best(query: Any) -> None:
    """Alone and in compound queries that keep their score."""
    assert can_rescore({"query": query})


@pytest.mark.parametrize("query", FLAT)
def test_hits_of_one_score_are_all_looked_at(query: Any) -> None:
    """The first ones of many equals are any: where words do not score, codes move all hits."""
    assert not can_rescore({"query": query})
    assert not can_rescore({} if query is None else {"query": query, "size": 3})


def test_a_query_that_is_too_deep_is_not_understood() -> None:
    """Neither is it followed without end."""
    query: Any = WORDS
    for _ in range(60):
        query = {"bool": {"must": query}}
    assert not can_rescore({"query": query})


UNLIKE: dict[str, Any] = {
    "sort": ["_score"],
    "collapse": {"field": "brand"},
    "min_score": 1.0,
    "rescore": {"query": {"rescore_query": WORDS}},
    "search_after": [1],
    "explain": True,
    "profile": True,
    "track_scores": True,
    "indices_boost": [{"a": 2}],
    "slice": {"id": 0, "max": 2},
    "knn": {},
    "aggs": {"best": {"top_hits": {}}},
    "aggregations": {"best": {"max": {"script": "_score"}}},
    "script_fields": {"s": {"script": "_score"}},
}


@pytest.mark.parametrize("key", UNLIKE)
def test_what_a_rescore_would_change_scores_all_hits(key: str) -> None:
    """Such a search gets the clause beside its query, as with a window of 0."""
    body = {"query": WORDS, key: UNLIKE[key]}
    assert not can_rescore(body)
    whole = ClauseSettings(strength=2.0)
    assert enrich(body, CODES, "g1", SETTINGS, Mode.RERANK) == enrich(body, CODES, "g1", whole, Mode.RERANK)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), True),
        (("size", "preference", "routing"), True),
        (("filter_path",), False),
        (("scroll",), False),
        (("sort",), False),
        (("new",), False),
    ],
)
def test_parameters_of_the_url_that_are_not_known_forbid_it(names: tuple[str, ...], expected: bool) -> None:
    """`scroll` and `sort` cannot go with a rescore, and what is new might not."""
    assert may_rescore(names) is expected


def test_a_window_below_zero_is_refused() -> None:
    """The message says what was found."""
    with pytest.raises(ConfigError, match="window must be at least 0, found -1"):
        ClauseSettings(strength=1.0, window=-1)
