"""The query shim before a real OpenSearch: what it answers against what OpenSearch answers directly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opensearchpy import NotFoundError, OpenSearch
from opensearchpy import RequestError as RefusedError

from gram_plugin.errors import DecodeError
from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import IndexCalibration, write_calibration
from gram_plugin.search.query import Mode
from sofas import FULL, MATCH, FakeGenerator, answer, ask, ids

Shim = Callable[..., str]


@pytest.mark.parametrize("name", FULL)
def test_off_is_equal_to_opensearch(node: RunningNode, shop: str, modes: dict[str, str], name: str) -> None:
    """In `off` every answer equals the direct one: status, hits, order, scores, totals, aggregations."""
    target = f"/{shop}/_search"
    assert answer(modes["off"], target, FULL[name]) == answer(node.url, target, FULL[name])


@pytest.mark.parametrize("name", FULL)
def test_rerank_keeps_hits_totals_and_facets(node: RunningNode, shop: str, modes: dict[str, str], name: str) -> None:
    """In `rerank` the search finds the same, only its order may differ."""
    target, body = f"/{shop}/_search", FULL[name]
    if name in ("page", "search-after"):
        body = {**body, "from": 0, "size": 200}
        body.pop("search_after", None)
    if name == "rescore":
        body = {**body, "size": 200}
    (status, direct), (shim_status, found) = answer(node.url, target, body), answer(modes["rerank"], target, body)
    assert (shim_status, found["hits"].get("total")) == (status, direct["hits"].get("total"))
    if name == "collapse":
        brands = [sorted(hit["fields"]["brand"][0] for hit in one["hits"]["hits"]) for one in (direct, found)]
        assert brands[0] == brands[1]
    elif name != "explain":
        assert sorted(ids(found)) == sorted(ids(direct))
    assert found.get("aggregations") == direct.get("aggregations")
    assert found.get("suggest") == direct.get("suggest")


@pytest.mark.parametrize("name", [name for name in FULL if name not in ("page", "search-after", "collapse", "explain")])
def test_recall_finds_a_superset(node: RunningNode, shop: str, modes: dict[str, str], name: str) -> None:
    """In `recall` no hit of the words is lost."""
    target = f"/{shop}/_search"
    (status, direct), (shim_status, found) = (
        answer(node.url, target, FULL[name]),
        answer(modes["recall"], target, FULL[name]),
    )
    assert (shim_status, set(ids(direct)) - set(ids(found))) == (status, set())


def test_recall_finds_what_the_words_miss_and_keeps_filters(shop: str, modes: dict[str, str]) -> None:
    """A query without a word in common finds the sofas, only those of the filter, strongest code first."""
    body = {
        "size": 200,
        "query": {"bool": {"must": [{"match": {"title": "settee"}}], "filter": [{"term": {"brand": "b1"}}]}},
    }
    _, found = answer(modes["recall"], f"/{shop}/_search", body)
    coded = [number for number in range(120) if number % 6 in (0, 1, 2) and number % 4 == 1]
    assert ids(found) == [str(number) for number in reversed(coded)]


def test_rerank_moves_products_with_the_code_up(node: RunningNode, shop: str, modes: dict[str, str]) -> None:
    """Among products of equal words those with the code lead, and the answer is marked."""
    body = {"query": {"match": {"title": "red"}}, "size": 200}
    status, headers, text = ask(modes["rerank"], f"/{shop}/_search", body)
    lamps = [hit["_source"]["title"].startswith("red lamp") for hit in json.loads(text)["hits"]["hits"]]
    assert (status, headers["x-gram-status"], lamps) == (200, "applied", sorted(lamps))
    assert "x-gram-status" not in ask(node.url, f"/{shop}/_search", body)[1]


@pytest.mark.parametrize(
    ("query", "found_directly", "status"), [("couch", 60, "off; reason=enough-hits"), ("settee", 0, "applied")]
)
def test_rescue_helps_empty_pages_only(
    node: RunningNode, shop: str, modes: dict[str, str], query: str, found_directly: int, status: str
) -> None:
    """A search with hits stays as it is, one without gets the sofas."""
    target, body = f"/{shop}/_search", {"query": {"match": {"title": query}}, "size": 200}
    _, headers, text = ask(modes["rescue"], target, body)
    direct = answer(node.url, target, body)[1]
    assert (len(ids(direct)), headers["x-gram-status"], len(ids(json.loads(text)))) == (found_directly, status, 60)


@pytest.mark.parametrize("name", ["plain", "aggs", "highlight", "explain", "no-totals"])
@pytest.mark.parametrize("trouble", ["raises", "slow", "absent"])
def test_model_trouble_gives_the_lexical_answer(
    node: RunningNode, shop: str, shim: Shim, name: str, trouble: str
) -> None:
    """With the model broken, slow or absent the answer equals the direct one, and says so."""
    gate = threading.Event() if trouble == "slow" else None
    generator = {"raises": FakeGenerator(DecodeError("broken")), "slow": FakeGenerator(gate=gate), "absent": None}[
        trouble
    ]
    url, target = shim(generator, mode=Mode.RECALL, budget_ms=10_000 if trouble != "slow" else 200), f"/{shop}/_search"
    found = answer(url, target, FULL[name])
    marked = ask(url, target, FULL[name])[1]["x-gram-status"]
    if gate is not None:
        gate.set()
    assert found == answer(node.url, target, FULL[name])
    assert marked.startswith("degraded; reason=")


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/_cluster/settings", None),
        ("GET", "/_cat/indices/shim-shop?h=index,docs.count", None),
        ("GET", "/shim-shop/_doc/1?_source=title", None),
        ("HEAD", "/shim-shop/_doc/1", None),
        ("HEAD", "/shim-shop/_doc/none", None),
        ("GET", "/shim-shop/_mapping", None),
        ("POST", "/shim-shop/_count", {"query": MATCH}),
        ("GET", "/%3Cshim-shop%3E/_doc/2", None),
        ("GET", "/shim-shop/_search?q=title:red&size=0&filter_path=hits.total", None),
        ("POST", "/shim-shop/_validate/query?explain=true", {"query": MATCH}),
        ("PUT", "/Bad-Name", {}),
        ("GET", "/nowhere/_doc/1", None),
        ("DELETE", "/nowhere", None),
        ("OPTIONS", "/", None),
        ("GET", "/shim-shop/_unknown", None),
    ],
)
def test_everything_else_is_byte_equal(
    node: RunningNode, shop: str, modes: dict[str, str], method: str, target: str, body: Any
) -> None:
    """Other endpoints, good and bad, answer with the same status, headers and bytes."""
    direct = ask(node.url, target, body, method)
    status, headers, text = ask(modes["rerank"], target, body, method)
    ours = {name: value for name, value in headers.items() if name != "x-gram-status"}
    if b'"took"' in direct[2]:
        assert (status, json.loads(text)["hits"]) == (direct[0], json.loads(direct[2])["hits"])
    else:
        assert (status, ours, text) == direct


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"query": {"nope": {}}}',
        b'{"size": -1}',
        b'{"size":1,"size":2}',
        b'{"query":{"match":{"a":NaN}}}',
    ],
)
def test_errors_are_opensearchs_own(node: RunningNode, shop: str, modes: dict[str, str], body: bytes) -> None:
    """A broken search gets the very error that OpenSearch gives."""
    direct = ask(node.url, f"/{shop}/_search", body)
    found = ask(modes["rerank"], f"/{shop}/_search", body)
    assert (found[0], found[2]) == (direct[0], direct[2])
    assert found[0] == 400


def test_an_enriched_search_that_fails_falls_back(
    node: RunningNode, client: OpenSearch, modes: dict[str, str], index_name: str
) -> None:
    """Where the clause breaks the search (a template's fields of another shape), the client gets the lexical answer."""
    properties = {"gram": {"properties": {"codes": {"type": "keyword"}, "weights": {"type": "rank_features"}}}}
    client.indices.create(index=index_name, body={"mappings": {"properties": properties}})
    write_calibration(client, index_name, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    client.index(index=index_name, id="1", body={"title": "red couch"}, refresh=True)
    target, body = (
        f"/{index_name}/_search",
        {"query": {"hybrid": {"queries": [MATCH]}}, "ext": {"gram": {"query": "x"}}},
    )
    assert ask(modes["recall"], target, body)[0] == ask(node.url, target, {"query": body["query"]})[0] == 400
    client.cluster.put_settings(body={"persistent": {"indices.query.bool.max_clause_count": 1}})
    try:
        _, headers, text = ask(modes["recall"], target, {"query": {"match": {"title": "couch"}}})
    finally:
        client.cluster.put_settings(body={"persistent": {"indices.query.bool.max_clause_count": None}})
    assert ids(json.loads(text)) == ["1"]
    assert headers["x-gram-status"] == "degraded; reason=refused"


def test_an_index_without_fields_stays_lexical(
    node: RunningNode, client: OpenSearch, shop: str, modes: dict[str, str], index_name: str
) -> None:
    """No component template, or only in some of the indices: the direct answer, and the command to run."""
    client.indices.create(index=index_name)
    client.index(index=index_name, id="1", body={"title": "red couch"}, refresh=True)
    for target, reason in (
        (f"/{index_name}/_search", "no-mapping"),
        (f"/{index_name},{shop}/_search", "mixed-indices"),
    ):
        assert answer(modes["recall"], target, FULL["plain"]) == answer(node.url, target, FULL["plain"])
        marked = ask(modes["recall"], target, FULL["plain"])[1]["x-gram-status"]
        assert marked.startswith(f"off; reason={reason}")


def test_aliases_and_wildcards_are_enriched(client: OpenSearch, shop: str, modes: dict[str, str]) -> None:
    """Every way to name the index finds its calibration."""
    client.indices.put_alias(index=shop, name="shim-alias")
    marked = [
        ask(modes["rerank"], f"/{name}/_search?ignore_unavailable=true", FULL["plain"])[1]["x-gram-status"]
        for name in ("shim-alias", "shim-sh*", f"{shop},missing-index")
    ]
    client.indices.delete_alias(index=shop, name="shim-alias")
    assert marked == ["applied"] * 3


def test_the_usual_client_works_unchanged(
    client: OpenSearch, shop: str, modes: dict[str, str], index_name: str
) -> None:
    """opensearch-py searches, multi-searches, scrolls, writes, reads, and meets its usual errors."""
    with OpenSearch(modes["recall"], timeout=60) as ours:
        assert ours.info() == client.info()
        assert len(ids(ours.search(index=shop, body={"query": {"match": {"title": "settee"}}, "size": 200}))) == 60
        items = [
            {"index": shop},
            {"query": {"match": {"title": "settee"}}},
            {},
            {"query": {"match_all": {}}, "size": 1},
        ]
        totals = [one["hits"]["total"]["value"] for one in ours.msearch(body=items, index=shop)["responses"]]
        assert totals == [60, 120]
        page = ours.search(index=shop, body={"query": {"match": {"title": "settee"}}, "size": 50}, scroll="1m")
        rest = ours.scroll(body={"scroll_id": page["_scroll_id"], "scroll": "1m"})
        ours.clear_scroll(scroll_id=page["_scroll_id"])
        assert (len(ids(page)), len(ids(rest))) == (50, 10)
        ours.index(index=index_name, id="1", body={"title": "x"}, refresh=True)
        assert ours.get(index=index_name, id="1")["_source"] == {"title": "x"}
        with pytest.raises(NotFoundError):
            ours.search(index="nowhere", body={"query": MATCH})
        with pytest.raises(RefusedError):
            ours.search(index=shop, body={"query": {"nope": {}}})


def test_compression_is_left_to_client_and_server(node: RunningNode, shop: str, modes: dict[str, str]) -> None:
    """A client that asks for gzip gets OpenSearch's gzip, and may send gzip."""
    with OpenSearch(modes["rerank"], timeout=60, http_compress=True) as ours:
        found = ours.search(index=shop, body=FULL["plain"])
    _, headers, _ = ask(modes["rerank"], f"/{shop}/_search", FULL["plain"], **{"accept-encoding": "gzip"})
    assert (headers["content-encoding"], headers["x-gram-status"]) == ("gzip", "applied")
    assert sorted(ids(found)) == sorted(ids(answer(node.url, f"/{shop}/_search", FULL["plain"])[1]))


@pytest.mark.parametrize("text", ["", "x", "y " * 5_000, "🛋️ couch", "couch \ud83d", "كنبة حمراء couch"], ids=range(6))
def test_any_query_text_is_answered(node: RunningNode, shop: str, modes: dict[str, str], text: str) -> None:
    """Empty, one character, ten thousand, emoji, a lone surrogate, right-to-left: OpenSearch's status, and its hits."""
    target, body = f"/{shop}/_search", {"query": {"match": {"title": text}}, "size": 200}
    (status, direct), (shim_status, found) = answer(node.url, target, body), answer(modes["rerank"], target, body)
    assert (shim_status, sorted(ids(found)) if status == 200 else found) == (
        status,
        sorted(ids(direct)) if status == 200 else direct,
    )
