"""opensearch-py, unchanged but for its address: its ways to search through the shim, to write through the sidecar."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from opensearchpy import (
    AsyncOpenSearch,
    ConflictError,
    NotFoundError,
    OpenSearch,
    RequestsHttpConnection,
    Search,
    TransportError,
)
from opensearchpy import RequestError as RefusedError
from opensearchpy.helpers import async_bulk, async_scan, async_streaming_bulk, bulk, parallel_bulk, scan, streaming_bulk

from gram_plugin.node.node import RunningNode
from sidecars import Pair, create, plain, settled, stored
from sofas import ids, without_times

TEMPLATE = "python-template"
SOFAS = {str(number) for number in range(120) if number % 6 in (0, 1, 2)}
SOURCE = {"query": {"match": {"title": "{{text}}"}}, "size": 200}


def query(text: str) -> dict[str, Any]:
    """A search for words of the title."""
    return {"query": {"match": {"title": text}}, "size": 200}


@pytest.fixture(scope="module")
def template(client: OpenSearch) -> Iterator[str]:
    """A search template that is stored in the cluster."""
    client.put_script(id=TEMPLATE, body={"script": {"lang": "mustache", "source": SOURCE}})
    yield TEMPLATE
    client.delete_script(id=TEMPLATE)


def pages(client: OpenSearch, index: str, text: str) -> list[Any]:
    """Every page of a point in time."""
    point = client.create_pit(index=index, params={"keep_alive": "1m"})["pit_id"]
    fixed = {**query(text), "size": 25, "pit": {"id": point}, "sort": ["_score", {"_id": "asc"}]}
    found = [client.search(body=fixed)]
    while hits := found[-1]["hits"]["hits"]:
        found.append(client.search(body={**fixed, "search_after": hits[-1]["sort"]}))
    client.delete_pit(body={"pit_id": [point]})
    return found


WAYS: dict[str, Callable[[OpenSearch, str, str], Any]] = {
    "search": lambda client, index, text: client.search(index=index, body=query(text)),
    "msearch": lambda client, index, text: client.msearch(body=[{"index": index}, query(text), {}, query(text)]),
    "stored template": lambda client, index, text: client.search_template(
        index=index, body={"id": TEMPLATE, "params": {"text": text}}
    ),
    "inline template": lambda client, index, text: client.search_template(
        index=index, body={"source": SOURCE, "params": {"text": text}}
    ),
    "scan": lambda client, index, text: list(scan(client, query=query(text), index=index, size=25)),
    "scan in order": lambda client, index, text: list(
        scan(client, query=query(text), index=index, size=25, preserve_order=True)
    ),
    "pages": pages,
    "search objects": lambda client, index, text: (
        Search(using=client, index=index).query("match", title=text)[:200].execute().to_dict()
    ),
}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gzip": {"http_compress": True},
    "requests": {"connection_class": RequestsHttpConnection},
}


def hits_of(answer: Any) -> list[str]:
    """Ids of all hits of an answer, of a list of answers, or of a list of hits; of many searches the first's."""
    if isinstance(answer, list):
        return [name for one in answer for name in ([one["_id"]] if "_id" in one else ids(one))]
    return ids(answer["responses"][0] if "responses" in answer else answer)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_way_to_search_gives_the_direct_answer_or_finds_more(
    node: RunningNode, shop: str, modes: dict[str, str], template: str, name: str, options: dict[str, Any]
) -> None:
    """In `off` the answer is equal; in `rerank` the hits are the same; in `recall` a word of no title finds sofas."""
    way = WAYS[name]

    def asked(url: str, text: str) -> Any:
        with OpenSearch(url, timeout=60, **options) as client:
            return without_times(way(client, shop, text))

    direct = asked(node.url, "red")
    assert asked(modes["off"], "red") == direct
    reranked = hits_of(asked(modes["rerank"], "red"))
    assert sorted(reranked) == sorted(hits_of(direct))
    assert name == "scan" or [hit in SOFAS for hit in reranked] == [True] * 40 + [False] * 20
    assert (hits_of(asked(node.url, "settee")), set(hits_of(asked(modes["recall"], "settee")))) == ([], SOFAS)


def test_a_header_asks_for_another_mode(shop: str, modes: dict[str, str]) -> None:
    """`x-gram-mode` of one search goes before the mode of the shim."""
    with OpenSearch(modes["recall"], timeout=60) as client:
        off = client.search(index=shop, body=query("settee"), headers={"x-gram-mode": "off"})
        assert (ids(off), len(ids(client.search(index=shop, body=query("settee"))))) == ([], 60)


@pytest.fixture
async def asynchronous(modes: dict[str, str]) -> AsyncIterator[AsyncOpenSearch]:
    """An asynchronous client of the shim in `recall`."""
    async with AsyncOpenSearch(modes["recall"], timeout=60) as connected:
        yield connected


async def test_the_asynchronous_client_searches_in_every_way(
    asynchronous: AsyncOpenSearch, shop: str, template: str
) -> None:
    """Search, many searches, templates, scan and pages of a point in time find what the words miss."""
    text = "settee"
    point = (await asynchronous.create_pit(index=shop, params={"keep_alive": "1m"}))["pit_id"]
    many = await asynchronous.msearch(body=[{"index": shop}, query(text)])
    found = {
        "search": ids(await asynchronous.search(index=shop, body=query(text))),
        "msearch": ids(many["responses"][0]),
        "template": ids(
            await asynchronous.search_template(body={"id": template, "params": {"text": text}}, index=shop)
        ),
        "pages": ids(await asynchronous.search(body={**query(text), "pit": {"id": point}, "sort": ["_score"]})),
        "scan": [hit["_id"] async for hit in async_scan(asynchronous, query=query(text), index=shop, size=25)],
    }
    await asynchronous.delete_pit(body={"pit_id": [point]})
    assert {name: (set(hits), len(hits)) for name, hits in found.items()} == dict.fromkeys(found, (SOFAS, 60))


def actions(index: str) -> Iterator[dict[str, Any]]:
    """Documents and other actions for the bulk helpers, good and bad; each id once, so that order does not matter."""
    for n in range(120):
        yield {"_index": index, "_id": str(n), "title": f"shoe number{n}", "price": "cheap" if n % 40 == 7 else n}
    yield {"_op_type": "create", "_index": index, "_id": "there", "title": "created twice"}
    yield {"_op_type": "update", "_index": index, "_id": "changed", "doc": {"title": "brown boot"}}
    yield {"_op_type": "update", "_index": index, "_id": "nothing", "doc": {"title": "boot"}}
    yield {"_op_type": "update", "_index": index, "_id": "upserted", "doc": {"title": "sock"}, "doc_as_upsert": True}
    yield {"_op_type": "delete", "_index": index, "_id": "gone"}
    yield {"_op_type": "delete", "_index": index, "_id": "never"}


def prepared(client: OpenSearch, index: str) -> None:
    """The index with the documents that the actions meet."""
    create(client, index)
    bulk(client, ({"_index": index, "_id": name, "title": "red shoe"} for name in ("there", "changed", "gone")))


def outcome(results: Any, index: str) -> list[Any]:
    """What a helper gave for each action, less what depends on the order in which parallel requests arrive."""
    told = settled([[ok, item] for ok, item in results], index)
    for _, item in told:
        for answer in item.values():
            answer.pop("_seq_no", None)
    return sorted(told, key=repr)


HELPERS: dict[str, Callable[..., Any]] = {
    "streaming": lambda client, found: streaming_bulk(client, found, chunk_size=25, raise_on_error=False),
    "parallel": lambda client, found: parallel_bulk(client, found, thread_count=4, chunk_size=25, raise_on_error=False),
}


def assert_same_and_coded(pair: Pair, direct: str, behind: str) -> None:
    """Both indices hold the same, and behind the sidecar every document has the codes of its title."""
    documents = stored(pair.direct, behind)
    assert plain(documents) == stored(pair.direct, direct)
    written = {name: found for name, found in documents.items() if name != "there"}  # past the sidecar, before
    codes = {
        name: [code.removeprefix("g1/type=") for code in found["gram"]["codes"]] for name, found in written.items()
    }
    assert codes == {name: sorted(found["title"].split()) for name, found in written.items()}
    assert len(documents) == 117 + 3


@pytest.mark.parametrize("helper", HELPERS)
def test_the_helpers_tell_the_same_of_every_action_and_write_codes(pair: Pair, index_name: str, helper: str) -> None:
    """Results and errors item by item are those of direct writing."""
    direct, behind = f"{index_name}-direct", f"{index_name}-behind"
    results = []
    for client, index in ((pair.direct, direct), (pair.coded, behind)):
        prepared(pair.direct, index)
        results.append(outcome(HELPERS[helper](client, actions(index)), index))
    assert results[1] == results[0]
    assert [ok for ok, _ in results[0]].count(False) == 3 + 3
    assert_same_and_coded(pair, direct, behind)


async def test_the_asynchronous_helpers_tell_the_same_of_every_action(
    node: RunningNode, pair: Pair, index_name: str
) -> None:
    """`async_streaming_bulk` item by item, `async_bulk` its count and its errors: as direct writing tells them."""
    results, counts = [], []
    for url, index in ((node.url, f"{index_name}-direct"), (pair.url, f"{index_name}-behind")):
        prepared(pair.direct, index)
        prepared(pair.direct, f"{index}-counted")
        async with AsyncOpenSearch(url, timeout=60) as client:
            told = async_streaming_bulk(client, actions(index), chunk_size=25, raise_on_error=False)
            results.append(outcome([item async for item in told], index))
            counted = actions(f"{index}-counted")
            number, errors = await async_bulk(client, counted, chunk_size=25, raise_on_error=False)
            counts.append([number, settled(errors, f"{index}-counted")])
    assert (results[1], counts[1]) == (results[0], counts[0])
    assert counts[0][0] == 120
    for suffix in ("", "-counted"):
        assert_same_and_coded(pair, f"{index_name}-direct{suffix}", f"{index_name}-behind{suffix}")


REFUSED: dict[type[TransportError], Callable[[OpenSearch, str], Any]] = {
    ConflictError: lambda client, index: client.create(index=index, id="1", body={"title": "created twice"}),
    NotFoundError: lambda client, index: client.update(index=index, id="nothing", body={"doc": {"price": 1}}),
    RefusedError: lambda client, index: client.index(index=index, id="4", body={"price": "cheap"}),
}


def test_single_writes_are_answered_as_directly(node: RunningNode, pair: Pair, index_name: str) -> None:
    """index, create, update, delete, bulk: the same answers; errors are the client's usual exceptions."""
    seen = []
    for client, index in ((pair.direct, f"{index_name}-direct"), (pair.coded, f"{index_name}-behind")):
        create(pair.direct, index)
        told = [
            client.index(index=index, id="1", body={"title": "red shoe"}, refresh=True),
            client.create(index=index, id="2", body={"title": "blue shoe", "price": 2}),
            client.update(index=index, id="1", body={"doc": {"title": "red boot"}}),
            client.delete(index=index, id="2", refresh=True),
            client.bulk(body=[{"index": {"_index": index, "_id": "3"}}, {"title": "sock"}], refresh=True),
        ]
        for error, call in REFUSED.items():
            with pytest.raises(error) as raised:
                call(client, index)
            told.append([raised.value.status_code, raised.value.error, raised.value.info])
        seen.append(settled(told, index))
    assert seen[1] == seen[0]
    documents = stored(pair.direct, f"{index_name}-behind")
    assert {name: found["gram"]["codes"] for name, found in documents.items()} == {
        "1": ["g1/type=boot", "g1/type=red"],
        "3": ["g1/type=sock"],
    }
