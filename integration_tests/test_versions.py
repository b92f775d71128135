"""OpenSearch 2.19.4 beside 3.8.0: other BM25, the same order, for codes are calibrated on each.

The archive of 2.19.4 is the bare core: no `rank_features`, so both indices hold keywords alone here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk

from gram_plugin.contract.codes import ScoredCode
from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.calibrate import calibrate_index
from gram_plugin.search.client import connect
from gram_plugin.search.lexical import multi_match
from gram_plugin.search.mappings import IndexCalibration, write_calibration
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.pit import indices_of_pit
from gram_plugin.serve.settings import ShimSettings
from sofas import FULL, SOFA, FakeGenerator, answer, ask, ids, product, running

OLD = "2.19.4"
INDEX = "versions-shop"
QUERIES = ("red couch", "couch table", "red", "blue couch", "lamp green", "sofa")
KEYWORDS = {"gram": {"dynamic": "strict", "properties": {"codes": {"type": "keyword"}, "model": {"type": "keyword"}}}}


EXACT = "versions-exact"
NUMBERS = {
    "exact": {"title": "Voltessa keyboard VL-9983X"},
    "code-near": {"title": "Voltessa mouse VL-9984X"},
    "code-far": {"title": "Optical device"},
    "phrase": {"title": "dark roast coffee"},
    "code-words": {"title": "coffee, a roast of dark beans"},
    "equal": {"title": "Night Lamp"},
    "code-more": {"title": "Night Lamp, night lamp mouse"},
}
"""Titles; the code stands at those whose id says so."""
# 2.19.4 has no `combined_fields`.
EXACT_QUERIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "match": ({"match": {"title": "VL-9983X"}}, "exact", "code-near"),
    "written-apart": (
        {"multi_match": {"query": "vl 9983x", "fields": ["title"], "fuzziness": "AUTO"}},
        "exact",
        "code-near",
    ),
    "multi-match": (
        {"multi_match": {"query": "VL-9983X", "fields": ["title^3", "number"], "lenient": True}},
        "exact",
        "code-near",
    ),
    "query-string": ({"query_string": {"query": "VL-9983X", "default_field": "title"}}, "exact", "code-near"),
    "simple-query-string": ({"simple_query_string": {"query": "VL-9983X", "fields": ["ti*"]}}, "exact", "code-near"),
    "phrase": ({"match": {"title": '"dark roast" coffee'}}, "phrase", "code-words"),
    "title": ({"match": {"title": "night lamp"}}, "equal", "code-more"),
}


@dataclass(frozen=True)
class Server:
    """A node of one version with the shop, calibrated on its own scores, and a shim in each mode before it."""

    url: str
    client: OpenSearch
    calibration: IndexCalibration
    shims: dict[str, str]

    def order(self, mode: Mode, text: str) -> list[str]:
        """Ids of all hits; equal scores by id."""
        body = {"query": {"match": {"title": text}}, "size": 200, "sort": ["_score", {"number": "asc"}]}
        return ids(answer(self.shims[mode], f"/{INDEX}/_search", body)[1])


def shop(client: OpenSearch) -> IndexCalibration:
    """The shop of sofas with codes as keywords; λ as it is measured here."""
    title = {"type": "text", "fields": {"keyword": {"type": "keyword"}}}
    properties = {"title": title, "price": {"type": "integer"}, "brand": {"type": "keyword"}}
    mappings = {"properties": {**properties, **KEYWORDS, "number": {"type": "integer"}}}
    for index in (INDEX, EXACT):
        client.indices.create(index=index, body={"settings": {"number_of_shards": 1}, "mappings": mappings})
    bulk(client, map(keyworded, range(120)), refresh=True)
    bulk(client, map(numbered, NUMBERS), refresh=True)
    found = calibrate_index(client, INDEX, QUERIES, multi_match(["title"], "best_fields", "or"), strength=0.4)
    write_calibration(client, INDEX, found)
    return found


def keyworded(number: int) -> dict[str, Any]:
    """A product of the shop with its codes, less their weights."""
    action = product(INDEX, number)
    source: dict[str, Any] = {**action["_source"], "number": number}
    if "gram" in source:
        source["gram"] = {key: source["gram"][key] for key in ("codes", "model")}
    return {**action, "_source": source}


def numbered(key: str) -> dict[str, Any]:
    """A product of `NUMBERS`."""
    gram = {"gram": {"codes": [SOFA.stored("g1")], "model": "g1"}} if key.startswith("code") else {}
    return {"_index": EXACT, "_id": key, "_source": {**NUMBERS[key], **gram}}


@pytest.fixture(scope="module")
def servers(node: RunningNode) -> Iterator[dict[str, Server]]:
    """Both versions."""
    with contextlib.ExitStack() as stack:
        quick = ("-XX:TieredStopAtLevel=1",)
        old = stack.enter_context(start_node(NodeSettings(version=OLD, jvm_options=quick)))
        found = {}
        for name, url in (("old", old.url), ("new", node.url)):
            client = stack.enter_context(connect(url))
            calibration = shop(client)
            settings = ShimSettings(upstream_url=url, budget_ms=10_000)
            shims = {mode: stack.enter_context(running(replace(settings, mode=mode), FakeGenerator())) for mode in Mode}
            found[name] = Server(url, client, calibration, shims)
        yield found
        found["new"].client.indices.delete(index=f"{INDEX},{EXACT}")


def test_scores_differ_between_the_versions_and_calibration_follows(servers: dict[str, Server]) -> None:
    """BM25 of 2.x is 2.2 times that of 3.x, and so is λ."""
    old, new = servers["old"], servers["new"]
    assert old.client.info()["version"]["number"] == OLD
    assert old.calibration.points == pytest.approx(2.2 * new.calibration.points, rel=1e-3)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("text", [*QUERIES, "settee"])
def test_the_order_is_the_same_on_both(servers: dict[str, Server], mode: Mode, text: str) -> None:
    """Every query has the same hits in the same order, in every mode."""
    assert servers["old"].order(mode, text) == servers["new"].order(mode, text)


def test_codes_do_move_products_on_both(servers: dict[str, Server]) -> None:
    """The equality above is not one of two that do nothing."""
    for server in servers.values():
        assert server.order(Mode.RERANK, "red") != server.order(Mode.OFF, "red")
        assert len(server.order(Mode.RECALL, "settee")) == 60


@pytest.mark.parametrize("name", FULL)
def test_the_shim_before_2_19_is_as_transparent(servers: dict[str, Server], name: str) -> None:
    """Equal in `off`, the same set and totals in `rerank`, a superset in `recall`; with what the bare core has."""
    old, target, body = servers["old"], f"/{INDEX}/_search", FULL[name]
    direct, off, rerank, recall = (
        answer(url, target, body) for url in (old.url, *(old.shims[m] for m in (Mode.OFF, Mode.RERANK, Mode.RECALL)))
    )
    assert off == direct
    assert rerank[0] == recall[0] == direct[0]
    if direct[0] != 200 or name in ("page", "search-after", "collapse", "explain", "rescore"):
        return
    assert sorted(ids(rerank[1])) == sorted(ids(direct[1]))
    assert rerank[1]["hits"].get("total") == direct[1]["hits"].get("total")
    assert rerank[1].get("aggregations") == direct[1].get("aggregations")
    assert set(ids(direct[1])) <= set(ids(recall[1]))


def test_explanations_add_up_on_2_19(servers: dict[str, Server]) -> None:
    """Points of words and codes are told there too, and their sum is the score."""
    old = servers["old"]
    body = {"query": {"match": {"title": "red couch"}}, "size": 200, "ext": {"gram": {"explain": True}}}
    _, headers, _ = ask(old.shims[Mode.RECALL], f"/{INDEX}/_search", body)
    told = answer(old.shims[Mode.RECALL], f"/{INDEX}/_search", body)[1]["ext"]["gram"]["hits"]
    assert headers["x-gram-status"] == "applied"
    sums = [(hit["lexical"] or 0) + hit["gained"] + hit["exact"] for hit in told]
    assert sums == pytest.approx([hit["score"] for hit in told], rel=1e-5)
    assert any(hit["gained"] > 0 for hit in told)


@pytest.mark.parametrize("version", ["old", "new"])
def test_a_point_in_time_tells_its_index_on_both(servers: dict[str, Server], version: str) -> None:
    """The binary form of its id is understood, and the search with it is enriched."""
    server = servers[version]
    opened = server.client.transport.perform_request(
        "POST", f"/{INDEX}/_search/point_in_time", params={"keep_alive": "1m"}
    )
    body = {"query": {"match": {"title": "settee"}}, "size": 200, "pit": {"id": opened["pit_id"]}}
    _, headers, _ = ask(server.shims[Mode.RECALL], "/_search", body)
    found = answer(server.shims[Mode.RECALL], "/_search", body)[1]
    server.client.transport.perform_request("DELETE", "/_search/point_in_time", body={"pit_id": [opened["pit_id"]]})
    assert indices_of_pit(opened["pit_id"]) == [INDEX]
    assert (headers["x-gram-status"], len(ids(found))) == ("applied", 60)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
@pytest.mark.parametrize("name", EXACT_QUERIES)
@pytest.mark.parametrize("version", ["old", "new"])
def test_exact_matches_stay_first_without_weights_on_both(
    servers: dict[str, Server], version: str, name: str, mode: Mode
) -> None:
    """Where codes are keywords alone, an overwhelming one lifts nothing above a number, phrase or title as typed."""
    query, exact, lifted = EXACT_QUERIES[name]
    firsts = []
    for keep_exact in (True, False):
        settings = ClauseSettings(strength=1e6, weighted=False, keep_exact=keep_exact, titles=("title.keyword",))
        body = enrich({"query": query}, (ScoredCode(SOFA, 1.0, 1.0),), "g1", settings, mode)
        hits = servers[version].client.search(index=EXACT, body=body)["hits"]["hits"]
        firsts.append(hits[0]["_id"])
    assert firsts == [exact, lifted]
