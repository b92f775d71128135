"""Walking through the pages of an enriched search on a real OpenSearch: points in time, scroll, search_after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import RunningNode
from gram_plugin.search.query import Mode
from gram_plugin.serve.pit import indices_of_pit
from sofas import answer, ask, ids

QUERY = {"match": {"title": "lamp"}}
ORDER = ["_score", {"_id": "asc"}]
PAGE = 7


@pytest.fixture
def point(client: OpenSearch, shop: str) -> Iterator[str]:
    """The id of a point in time of the shop."""
    opened = client.transport.perform_request("POST", f"/{shop}/_search/point_in_time", params={"keep_alive": "1m"})
    yield opened["pit_id"]
    client.transport.perform_request("DELETE", "/_search/point_in_time", body={"pit_id": [opened["pit_id"]]})


def whole(url: str, target: str, body: dict[str, Any]) -> list[str]:
    """All hits on one page."""
    return ids(answer(url, target, {**body, "size": 200})[1])


def walked(url: str, target: str, body: dict[str, Any]) -> list[str]:
    """All hits, a page at a time, each after the last of the one before."""
    found: list[str] = []
    after: dict[str, Any] = {}
    while hits := answer(url, target, {**body, "size": PAGE, **after})[1]["hits"]["hits"]:
        found += [hit["_id"] for hit in hits]
        after = {"search_after": hits[-1]["sort"]}
    return found


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL, Mode.RESCUE, Mode.OFF])
def test_a_point_in_time_is_searched_like_its_index(
    node: RunningNode, shop: str, modes: dict[str, str], point: str, mode: Mode
) -> None:
    """Hits and order are those of the same search on the index, in every mode, page by page too."""
    body: dict[str, Any] = {"query": QUERY, "sort": ORDER}
    fixed = {**body, "pit": {"id": point, "keep_alive": "1m"}}
    expected = whole(modes[mode], f"/{shop}/_search", body)
    assert indices_of_pit(point) == [shop]
    assert whole(modes[mode], "/_search", fixed) == walked(modes[mode], "/_search", fixed) == expected
    marked = ask(modes[mode], "/_search", fixed)[1]["x-gram-status"]
    assert marked == {"off": "off; reason=mode", "rescue": "off; reason=enough-hits"}.get(mode, "applied")
    assert len(expected) == (100 if mode is Mode.RECALL else 40)


def test_a_point_in_time_of_an_alias_with_a_filter_stays_filtered(
    client: OpenSearch, shop: str, modes: dict[str, str]
) -> None:
    """What the alias hides, codes do not bring back."""
    client.indices.put_alias(index=shop, name="sofas-b1", body={"filter": {"term": {"brand": "b1"}}})
    opened = client.transport.perform_request("POST", "/sofas-b1/_search/point_in_time", params={"keep_alive": "1m"})
    body = {"query": {"match": {"title": "settee"}}, "pit": {"id": opened["pit_id"]}}
    found = answer(modes[Mode.RECALL], "/_search", {**body, "size": 200})[1]["hits"]["hits"]
    client.transport.perform_request("DELETE", "/_search/point_in_time", body={"pit_id": [opened["pit_id"]]})
    client.indices.delete_alias(index=shop, name="sofas-b1")
    assert ({hit["_source"]["brand"] for hit in found}, len(found)) == ({"b1"}, 10)


@pytest.mark.parametrize("identifier", ["%%%", "o9mFQQIBdBZ", 7, None])
def test_a_point_in_time_that_is_none_gets_opensearchs_own_error(
    node: RunningNode, modes: dict[str, str], identifier: Any
) -> None:
    """A broken id: status and body are those of the direct request."""
    body = {"query": QUERY, "pit": {"id": identifier}}
    found, direct = ask(modes[Mode.RECALL], "/_search", body), ask(node.url, "/_search", body)
    assert (found[0], found[2], found[1]["x-gram-status"]) == (direct[0], direct[2], "off; reason=pit")
    assert found[0] >= 400


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_search_after_walks_through_the_whole(shop: str, modes: dict[str, str], mode: Mode) -> None:
    """Sorted by score and id, the pages are the whole, in order, each hit once."""
    body = {"query": QUERY, "sort": ORDER}
    assert walked(modes[mode], f"/{shop}/_search", body) == whole(modes[mode], f"/{shop}/_search", body)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_a_scroll_gives_the_whole(shop: str, modes: dict[str, str], mode: Mode) -> None:
    """The first request is enriched, and its pages follow in its order."""
    body = {"query": QUERY, "sort": ORDER}
    with OpenSearch(modes[mode], timeout=60) as ours:
        page = ours.search(index=shop, body={**body, "size": PAGE}, scroll="1m")
        found = ids(page)
        while hits := ids(page := ours.scroll(body={"scroll_id": page["_scroll_id"], "scroll": "1m"})):
            found += hits
        ours.clear_scroll(scroll_id=page["_scroll_id"])
    assert found == whole(modes[mode], f"/{shop}/_search", body)
    assert len(found) == (100 if mode is Mode.RECALL else 40)


@pytest.mark.parametrize("target", ["/_plugins/_asynchronous_search", "/_async_search", "/shim-shop/_async_search"])
def test_asynchronous_searches_are_left_alone(node: RunningNode, modes: dict[str, str], target: str) -> None:
    """Nothing is added to what is not understood: the direct answer, unmarked."""
    body = {"query": QUERY, "ext": {}}
    found, direct = ask(modes[Mode.RECALL], target, body), ask(node.url, target, body)
    assert (found[0], found[2]) == (direct[0], direct[2])
    assert "x-gram-status" not in found[1]
