"""Everything else that a search request can say, through the shim and straight to OpenSearch, side by side.

In `off` the answers are equal. In `rerank` the same hits come with the same content, and totals, facets and the rest of
the answer are equal; only the order and the scores may differ. In `recall` no hit is lost, and those of the words keep
their content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import RunningNode
from gram_plugin.search.query import Mode
from sofas import FULL, MATCH, answer, ask, without_times

URLS = (
    "preference=_local",
    "preference=a-shopper",
    "request_cache=true",
    "request_cache=false",
    "search_type=dfs_query_then_fetch",
    "routing=x",
    "typed_keys=true",
    "rest_total_hits_as_int=true",
    "track_total_hits=2",
    "track_total_hits=false",
    "filter_path=hits.hits._id,hits.hits._source.title,hits.total",
    "_source=false",
    "_source_includes=title",
    "_source_excludes=gram,price",
    "stored_fields=_none_",
    "docvalue_fields=price",
    "version=true",
    "seq_no_primary_term=true",
    "timeout=10s",
    "allow_partial_search_results=true",
    "batched_reduce_size=2",
    "ignore_unavailable=true",
    "max_concurrent_shard_requests=1",
    "pre_filter_shard_size=1",
    "ccs_minimize_roundtrips=true",
    "include_named_queries_score=true",
    "pretty&human&error_trace=true",
)
"""Parameters of the URL that change how a search runs or what its answer holds, but not how it is ordered."""

REST: dict[str, dict[str, Any]] = {
    "cardinality": {"aggs": {"n": {"cardinality": {"field": "brand"}}}},
    "nested-aggs": {
        "aggs": {"b": {"terms": {"field": "brand"}, "aggs": {"p": {"percentiles": {"field": "price"}}}}},
        "post_filter": {"term": {"brand": "b2"}},
    },
    "filter-aggs": {
        "aggs": {"cheap": {"filter": {"range": {"price": {"lt": 5}}}, "aggs": {"b": {"terms": {"field": "brand"}}}}}
    },
    "global-aggs": {"aggs": {"all": {"global": {}, "aggs": {"n": {"value_count": {"field": "price"}}}}}},
    "highlighted": {
        "highlight": {"pre_tags": ["<b>"], "post_tags": ["</b>"], "fields": {"title": {"number_of_fragments": 0}}}
    },
    "script-fields": {"script_fields": {"double": {"script": {"source": "doc['price'].value * 2"}}}},
    "docvalue-fields": {"docvalue_fields": ["price", {"field": "brand"}], "_source": False},
    "stored-fields": {"stored_fields": "_none_"},
    "versions": {"version": True, "seq_no_primary_term": True},
    "sorted-with-scores": {"sort": [{"price": "desc"}, {"_id": "asc"}], "track_scores": True},
    "indices-boost": {"indices_boost": [{"shim-shop": 2.0}]},
    "phrase-suggest": {"suggest": {"text": "rde cuoch", "p": {"phrase": {"field": "title"}}}},
    "prefix-suggest": {"suggest": {"s": {"prefix": "re", "term": {"field": "title"}}}},
    "stats-groups": {"stats": ["a", "b"]},
    "timeout": {"timeout": "10s"},
    "named": {"query": {"bool": {"must": [{"match": {"title": {"query": "red couch", "_name": "mine"}}}]}}},
    "filters": {
        "query": {
            "bool": {
                "must": [MATCH],
                "filter": [{"terms": {"brand": ["b1", "b2"]}}, {"range": {"price": {"gte": 3, "lt": 14}}}],
                "must_not": [{"term": {"price": 7}}],
                "should": [{"term": {"brand": {"value": "b1", "boost": 3}}}],
            }
        }
    },
    "boosting": {
        "query": {"boosting": {"positive": MATCH, "negative": {"term": {"brand": "b1"}}, "negative_boost": 0.2}}
    },
    "script-score": {
        "query": {"script_score": {"query": MATCH, "script": {"source": "_score * 2 + doc['price'].value"}}}
    },
    "constant-score": {"query": {"constant_score": {"filter": MATCH, "boost": 2}}},
    "min-score-of-functions": {
        "query": {"function_score": {"query": MATCH, "functions": [{"weight": 2}], "min_score": 0.5}},
    },
}
ALL = {**FULL, **{name: {"query": MATCH, "size": 200, **body} for name, body in REST.items()}}
"""Bodies of requests; those of `sofas` and these."""

PAGED = ("page", "search-after", "collapse", "rescore")
"""What shows a part of the hits, which codes order otherwise."""

_BY_SCORE = frozenset({"_score", "sort", "matched_queries", "_explanation"})


def contents(found: Mapping[str, Any]) -> dict[str, Any]:
    """Each hit without what depends on its score, by id; and each once."""
    hits = found.get("hits", {}).get("hits", [])
    by_id = {hit["_id"]: {key: value for key, value in hit.items() if key not in _BY_SCORE} for hit in hits}
    assert len(by_id) == len(hits)
    return by_id


def rest(found: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without its hits and the highest score."""
    outer = {key: value for key, value in found.items() if key != "hits"}
    inner = {key: value for key, value in found.get("hits", {}).items() if key not in ("hits", "max_score")}
    return {**outer, "hits": inner}


def assert_reranked(direct: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """The same hits with the same content, and the same of everything else."""
    assert contents(found) == contents(direct)
    assert rest(found) == rest(direct)


def assert_recalled(direct: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """No hit is lost or changed, and totals do not shrink."""
    before, after = contents(direct), contents(found)
    assert {key: after.get(key) for key in before} == before
    totals = [each.get("hits", {}).get("total") for each in (direct, found)]
    counts = [total["value"] if isinstance(total, dict) else total or 0 for total in totals]
    assert counts[0] <= counts[1]
    assert set(rest(found)) == set(rest(direct))


@pytest.mark.parametrize("parameters", URLS)
def test_parameters_of_the_url_keep_their_meaning(
    node: RunningNode, shop: str, modes: dict[str, str], parameters: str
) -> None:
    """Equal in `off`, the same hits and totals in `rerank`, a superset in `recall`."""
    target, body = f"/{shop}/_search?{parameters}", {"query": MATCH, "size": 200}
    direct, off, rerank, recall = (
        answer(url, target, body) for url in (node.url, modes[Mode.OFF], modes[Mode.RERANK], modes[Mode.RECALL])
    )
    assert off == direct
    assert {status for status, _ in (direct, rerank, recall)} == {200}
    if "stored_fields" in parameters:  # hides the ids by which hits are compared
        assert len(rerank[1]["hits"]["hits"]) == len(direct[1]["hits"]["hits"])
        return
    assert_reranked(direct[1], rerank[1])
    assert_recalled(direct[1], recall[1])


@pytest.mark.parametrize("name", [name for name in ALL if name not in PAGED])
def test_what_a_body_says_besides_keeps_its_meaning(
    node: RunningNode, shop: str, modes: dict[str, str], name: str
) -> None:
    """Equal in `off`, the same hits with the same content in `rerank`, a superset in `recall`."""
    target, body = f"/{shop}/_search", ALL[name]
    direct, off, rerank, recall = (
        answer(url, target, body) for url in (node.url, modes[Mode.OFF], modes[Mode.RERANK], modes[Mode.RECALL])
    )
    assert direct[0] == rerank[0] == recall[0] == 200
    assert off == direct
    if name == "stored-fields":
        assert len(rerank[1]["hits"]["hits"]) == len(direct[1]["hits"]["hits"])
    elif name != "explain":  # its page of two shows others
        assert_reranked(direct[1], rerank[1])
        assert_recalled(direct[1], recall[1])


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.RERANK, Mode.RECALL])
def test_many_searches_in_one_are_each_what_they_are_alone(
    node: RunningNode, shop: str, modes: dict[str, str], mode: Mode
) -> None:
    """All of these bodies in one `_msearch`: every answer is that of the search by itself through the shim."""
    names = list(ALL)
    lines = "".join(json.dumps(part) + "\n" for name in names for part in ({"index": shop}, ALL[name]))
    status, _, text = ask(modes[mode], "/_msearch", lines.encode())
    found = dict(zip(names, json.loads(text)["responses"], strict=True))
    assert status == 200
    for name in names:
        alone = answer(modes[mode], f"/{shop}/_search", ALL[name])[1]
        together = {key: value for key, value in without_times(found[name]).items() if key != "status"}
        assert name == "explain" or together == alone, name  # which names the query objects of its run


def test_profile_shows_the_lexical_query_and_the_clause(shop: str, modes: dict[str, str], node: RunningNode) -> None:
    """`profile` tells of every shard, as it does directly."""
    body = {"query": MATCH, "profile": True}
    direct, found = (
        json.loads(ask(url, f"/{shop}/_search", body)[2])["profile"] for url in (node.url, modes[Mode.RERANK])
    )
    assert len(found["shards"]) == len(direct["shards"])
    assert ["type=sofa" in json.dumps(shown) for shown in (direct, found)] == [False, True]


def test_explain_tells_of_words_and_clause(shop: str, modes: dict[str, str]) -> None:
    """OpenSearch's own `explain` adds up to the score of each hit."""
    body = {"query": MATCH, "explain": True, "size": 20}
    _, found = answer(modes[Mode.RERANK], f"/{shop}/_search", body)
    scores = [(hit["_explanation"]["value"], hit["_score"]) for hit in found["hits"]["hits"]]
    assert scores
    assert all(value == pytest.approx(score, rel=1e-5) for value, score in scores)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_a_rescore_of_the_whole_keeps_the_hits(node: RunningNode, shop: str, modes: dict[str, str], mode: Mode) -> None:
    """With a window over all hits their set stays, and the second score counts on top."""
    rescore = {"window_size": 200, "query": {"rescore_query": {"term": {"brand": "b3"}}, "rescore_query_weight": 100}}
    body = {"query": MATCH, "size": 200, "rescore": rescore}
    direct, found = answer(node.url, f"/{shop}/_search", body)[1], answer(modes[mode], f"/{shop}/_search", body)[1]
    assert_recalled(direct, found)
    brands = [hit["_source"]["brand"] == "b3" for hit in found["hits"]["hits"]]
    assert brands == sorted(brands, reverse=True)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_collapse_keeps_its_groups(node: RunningNode, shop: str, modes: dict[str, str], mode: Mode) -> None:
    """One hit a brand; the groups, and in `rerank` what is inside them, are those of the direct answer."""
    body = {
        "query": MATCH,
        "size": 200,
        "collapse": {"field": "brand", "inner_hits": {"name": "all", "size": 100, "sort": [{"_id": "asc"}]}},
    }
    direct, found = (answer(url, f"/{shop}/_search", body)[1]["hits"]["hits"] for url in (node.url, modes[mode]))

    def groups(hits: Any) -> dict[str, list[str]]:
        return {
            hit["fields"]["brand"][0]: [inner["_id"] for inner in hit["inner_hits"]["all"]["hits"]["hits"]]
            for hit in hits
        }

    before, after = groups(direct), groups(found)
    assert set(before) == set(after)
    assert all(set(before[brand]) <= set(after[brand]) for brand in before)
    assert before == after or mode is Mode.RECALL


@pytest.mark.parametrize("mode", list(Mode))
def test_extensions_of_others_reach_opensearch(node: RunningNode, shop: str, modes: dict[str, str], mode: Mode) -> None:
    """`ext.ubi` goes on with and without codes: without its plugin OpenSearch refuses it, in the very same words."""
    body = {"query": MATCH, "ext": {"ubi": {"query_id": "7"}}}
    found, direct = ask(modes[mode], f"/{shop}/_search", body), ask(node.url, f"/{shop}/_search", body)
    assert (found[0], found[2]) == (direct[0], direct[2])
    with_ours = {**body, "ext": {**body["ext"], "gram": {"query": "red couch"}}}  # type: ignore[dict-item]
    again = ask(modes[mode], f"/{shop}/_search", with_ours)
    assert (again[0], json.loads(again[2])["error"]["type"]) == (400, json.loads(direct[2])["error"]["type"])


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_the_request_cache_works_with_codes(client: OpenSearch, shop: str, modes: dict[str, str], mode: Mode) -> None:
    """The same search twice makes the same enriched body, so OpenSearch's own cache answers the second time."""
    body = {"query": {"match": {"title": f"red couch {mode}"}}, "size": 0, "aggs": {"b": {"terms": {"field": "brand"}}}}
    target = f"/{shop}/_search?request_cache=true"

    def hits() -> int:
        stats = client.indices.stats(index=shop, metric="request_cache")
        found: int = stats["_all"]["total"]["request_cache"]["hit_count"]
        return found

    first, before = answer(modes[mode], target, body), hits()
    second = answer(modes[mode], target, body)
    assert first == second
    assert hits() > before


def test_a_cached_answer_is_that_of_its_own_codes(shop: str, modes: dict[str, str]) -> None:
    """Lexical and enriched searches share no entry of the request cache."""
    body = {"query": {"match": {"title": "settee"}}, "size": 0, "track_total_hits": True}
    target = f"/{shop}/_search?request_cache=true"
    totals = [
        answer(modes[mode], target, body)[1]["hits"]["total"]["value"]
        for mode in (Mode.OFF, Mode.RECALL, Mode.OFF, Mode.RECALL)
    ]
    assert totals == [0, 60, 0, 60]
