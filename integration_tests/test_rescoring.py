"""Codes that score the first hits alone, on a real OpenSearch: what stays, what moves, and what a page then holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk

from gram_plugin.contract.codes import ScoredCode
from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, write_calibration
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.search.rescoring import can_rescore
from sofas import FULL, MATCH, SOFA, FakeGenerator, answer, ask, ids, product

CODES = [ScoredCode(SOFA, 0.9)]
PLAIN = [name for name, body in FULL.items() if can_rescore(body)]
WINDOW = 12
PAGE = 7


def reranked(body: dict[str, Any], window: int) -> dict[str, Any]:
    """The search with codes, for so many of its first hits."""
    return enrich(body, CODES, "g1", ClauseSettings(strength=2.0, window=window), Mode.RERANK)


def scores(found: Any) -> dict[str, float]:
    """Score of each hit."""
    return {hit["_id"]: pytest.approx(hit["_score"], rel=1e-5) for hit in found["hits"]["hits"]}


@pytest.fixture
def one_shard(client: OpenSearch, index_name: str) -> str:
    """The shop in one shard, so that its first hits are those of the whole index."""
    settings = {"settings": {"number_of_shards": 1}, "mappings": {"properties": {"title": {"type": "text"}}}}
    client.indices.create(index=index_name, body=settings)
    apply_to_index(client, index_name)
    bulk(client, [product(index_name, number) for number in range(120)], refresh=True)
    return index_name


@pytest.mark.parametrize("name", PLAIN)
def test_a_window_that_holds_all_hits_is_the_clause_beside_the_query(node: RunningNode, shop: str, name: str) -> None:
    """Hits, scores, totals, facets, highlights and suggestions are the same; only names of queries may not be told."""
    target = f"/{shop}/_search"
    whole, window = (answer(node.url, target, reranked(FULL[name], size))[1] for size in (0, 10_000))
    assert scores(window) == scores(whole)
    assert [hit["_score"] for hit in window["hits"]["hits"]] == sorted(
        (hit["_score"] for hit in window["hits"]["hits"]), reverse=True
    )
    for found in (whole, window):
        found["hits"].pop("max_score")
        for hit in found["hits"]["hits"]:
            hit.pop("_score")
            hit.pop("matched_queries", None)
        found["hits"]["hits"].sort(key=lambda hit: str(hit["_id"]))
    assert window == whole


def test_hits_behind_the_window_keep_their_place(node: RunningNode, one_shard: str) -> None:
    """The first hits change places among themselves; all others stand where the words put them, with their score."""
    body = {"query": MATCH, "size": 200}
    target = f"/{one_shard}/_search"
    lexical, found = (answer(node.url, target, sent)[1] for sent in (body, reranked(body, WINDOW)))
    assert ids(found)[WINDOW:] == ids(lexical)[WINDOW:]
    assert set(ids(found)[:WINDOW]) == set(ids(lexical)[:WINDOW])
    assert ids(found)[:WINDOW] != ids(lexical)[:WINDOW]
    assert [scores(found)[name] for name in ids(found)[WINDOW:]] == [
        hit["_score"] for hit in lexical["hits"]["hits"][WINDOW:]
    ]
    assert found["hits"]["total"] == lexical["hits"]["total"]


def test_pages_across_the_end_of_the_window_repeat_and_lose_nothing(node: RunningNode, one_shard: str) -> None:
    """Page by page it is the order of one long page."""
    body = {"query": MATCH}
    target = f"/{one_shard}/_search"
    whole = ids(answer(node.url, target, reranked({**body, "size": 200}, WINDOW))[1])
    pages = [
        ids(answer(node.url, target, reranked({**body, "from": start, "size": PAGE}, WINDOW))[1])
        for start in range(0, len(whole) + PAGE, PAGE)
    ]
    assert [name for page in pages for name in page] == whole
    assert len(whole) > 3 * WINDOW


@pytest.mark.parametrize("parameter", ["scroll=1m", "sort=price:asc", "explain=true", "track_scores=true"])
def test_parameters_that_cannot_go_with_a_rescore_still_give_codes(
    shop: str, shim: Callable[..., str], parameter: str
) -> None:
    """The shim then scores all hits, and OpenSearch refuses nothing: the answer is that of a shim without a window."""
    body = {"query": MATCH, "size": 200}
    with_window, without = (shim(FakeGenerator(), rerank_window=size) for size in (1000, 0))
    found, expected = (answer(url, f"/{shop}/_search?{parameter}", body) for url in (with_window, without))
    assert found == expected
    assert found[0] == 200


def test_an_index_with_a_smaller_window_costs_one_search_its_codes(
    client: OpenSearch, index_name: str, shim: Callable[..., str]
) -> None:
    """OpenSearch refuses the rescore, the client gets the lexical answer; then codes stand beside the query."""
    client.indices.create(index=index_name, body={"settings": {"number_of_shards": 1, "max_result_window": 500}})
    apply_to_index(client, index_name)
    write_calibration(client, index_name, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    bulk(client, [product(index_name, number) for number in range(120)], refresh=True)
    url, whole = (shim(FakeGenerator(), mode=Mode.RERANK, rerank_window=window) for window in (1000, 0))
    target, body = f"/{index_name}/_search", {"query": MATCH, "size": 200}
    marks, pages = [], []
    for _ in range(3):
        _, headers, text = ask(url, target, body)
        marks.append(headers["x-gram-status"])
        pages.append(ids(json.loads(text)))
    assert marks == ["degraded; reason=refused", "applied", "applied"]
    assert pages[0] == ids(client.search(index=index_name, body=body))
    assert pages[1] == pages[2] == ids(answer(whole, target, body)[1])
    assert pages[0] != pages[1]
