"""The sidecar before a real OpenSearch: the same index and the same answers as writing directly, plus codes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from opensearchpy import AsyncOpenSearch, OpenSearch
from opensearchpy.helpers import async_bulk, bulk, streaming_bulk

from gram_plugin.search.mappings import component_template
from sidecars import FIELDS, Pair, create, ndjson, plain, raw, settled, stored


@pytest.fixture
async def asynchronous(pair: Pair) -> AsyncIterator[AsyncOpenSearch]:
    """An asynchronous client of the sidecar."""
    async with AsyncOpenSearch(pair.url, timeout=30) as connected:
        yield connected


MIXED = ndjson(
    {"index": {"_id": "1"}},
    {"title": "red shoe", "price": 9.5},
    {"create": {"_id": "1"}},
    {"title": "created twice"},
    {"index": {"_id": "2"}},
    {"title": "bad price", "price": "cheap"},
    {"delete": {"_id": "missing"}},
    {"index": {"_id": "3"}},
    b'{"title": "broken',
    {"update": {"_id": "missing"}},
    {"doc": {"price": 1}},
    {"index": {"_id": "4", "if_seq_no": 77, "if_primary_term": 1}},
    {"title": "conflict"},
    {"index": {"_id": "5"}},
    {"title": "\ud800 lone 👟 \x00\x1f", "deep": {"a": {"b": [1, {"c": None}]}}},
    {"index": {"_id": "6"}},
    {"title": ["array", ["of", "texts"]], "big": 12345678901234567, "real": 0.1},
    b"",
    {"index": {"_id": "7"}},
    b'{"title":"exponent","price":1e400}',
    {"index": {"_id": "8"}},
    [1, 2],
    {"index": {"_id": "9"}},
    {"title": "poison"},
    {"update": {"_id": "1"}},
    {"doc": {"price": 10}},
    {"index": {"_id": "10"}},
    {},
)


def test_every_item_gets_the_answer_that_opensearch_gives_directly(pair: Pair, index_name: str) -> None:
    """Of a bulk with every kind of success and failure, each result and each stored document is the same."""
    direct, coded = f"{index_name}-direct", f"{index_name}-coded"
    create(pair.direct, direct)
    create(pair.direct, coded)
    expected = raw(pair.direct, "POST", f"/{direct}/_bulk", MIXED)
    found = raw(pair.coded, "POST", f"/{coded}/_bulk", MIXED)
    assert settled(found, coded) == settled(expected, direct)
    assert plain(stored(pair.direct, coded)) == stored(pair.direct, direct)
    assert expected[1]["errors"] is True


@pytest.mark.parametrize(
    "body",
    [
        ndjson({"index": {"_id": "1"}}, {"title": "a"}, b"{oops", {"index": {"_id": "2"}}, {"title": "b"}),
        ndjson({"index": {"_id": "1"}}, {"title": "a"}, {"explode": {"_id": "2"}}, {"title": "b"}),
        ndjson({"index": {"_id": "1"}}, {"title": "a"})[:-1],
        ndjson({"index": {"_id": "1"}}, {"title": "a"}, {"update": {"_id": "1"}}, b"{oops"),
        ndjson({"index": {"_id": "1"}, "create": {}}, {"title": "a"}),
        ndjson({"index": {"_id": "1"}}, {"title": "a"}, {"index": {"_id": "2"}}),
        b"\n",
        b"",
    ],
)
def test_a_malformed_bulk_is_refused_by_opensearch_itself(pair: Pair, index_name: str, body: bytes) -> None:
    """A malformed line gives OpenSearch's own error and the same documents, nothing indexed twice."""
    direct, coded = f"{index_name}-direct", f"{index_name}-coded"
    create(pair.direct, direct)
    create(pair.direct, coded)
    expected = raw(pair.direct, "POST", f"/{direct}/_bulk", body)
    assert settled(raw(pair.coded, "POST", f"/{coded}/_bulk", body), coded) == settled(expected, direct)
    assert plain(stored(pair.direct, coded)) == stored(pair.direct, direct)


def test_documents_can_be_found_by_their_codes(pair: Pair, index_name: str) -> None:
    """Codes and weights written through the sidecar answer a `rank_feature` query."""
    create(pair.direct, index_name)
    pair.coded.index(index=index_name, id="1", body={"title": "Red Shoe"}, refresh=True)
    feature = {"rank_feature": {"field": "gram.weights.g1/type=shoe", "linear": {}}}
    hits = pair.coded.search(index=index_name, body={"query": feature})["hits"]["hits"]
    assert [(hit["_id"], hit["_score"]) for hit in hits] == [("1", 0.5)]
    assert stored(pair.direct, index_name)["1"]["gram"]["codes"] == ["g1/type=red", "g1/type=shoe"]


def actions(index: str, number: int) -> Iterator[dict[str, Any]]:
    """Documents for the bulk helpers."""
    return ({"_index": index, "_id": str(n), "title": f"shoe number{n}"} for n in range(number))


def assert_all_coded(client: OpenSearch, index: str, number: int) -> None:
    """Every document is there with the codes of its title."""
    expected = {str(n): [f"g1/type={f'number{n}'[:9]}", "g1/type=shoe"] for n in range(number)}
    assert {name: found["gram"]["codes"] for name, found in stored(client, index).items()} == expected


@pytest.mark.parametrize("helper", [bulk, lambda *args, **kwargs: list(streaming_bulk(*args, **kwargs))])
def test_the_bulk_helpers_of_opensearch_py_work_unchanged(
    pair: Pair, index_name: str, helper: Callable[..., Any]
) -> None:
    """`helpers.bulk` and `helpers.streaming_bulk` write through the sidecar as they do directly."""
    create(pair.direct, index_name)
    helper(pair.coded, actions(index_name, 120), chunk_size=50)
    assert_all_coded(pair.direct, index_name, 120)


async def test_the_asynchronous_bulk_helper_works_unchanged(
    pair: Pair, asynchronous: AsyncOpenSearch, index_name: str
) -> None:
    """`helpers.async_bulk` writes through the sidecar as it does directly."""
    create(pair.direct, index_name)
    await async_bulk(asynchronous, actions(index_name, 120), chunk_size=50)
    assert_all_coded(pair.direct, index_name, 120)


def test_compressed_bulks_are_coded(pair: Pair, index_name: str) -> None:
    """A client with `http_compress` gets codes too."""
    create(pair.direct, index_name)
    with OpenSearch(pair.url, http_compress=True) as compressing:
        bulk(compressing, actions(index_name, 5))
    assert_all_coded(pair.direct, index_name, 5)


def test_the_same_input_twice_gives_the_same_index(pair: Pair, index_name: str) -> None:
    """The time of the codes too, while they are remembered: the model reads no text twice."""
    create(pair.direct, index_name)
    bulk(pair.coded, actions(index_name, 30))
    once = stored(pair.direct, index_name, times=True)
    bulk(pair.coded, actions(index_name, 30))
    assert stored(pair.direct, index_name, times=True) == once
    assert len([text for text in pair.generator.texts if text != "warm up"]) == 30


def test_an_update_that_repeats_what_is_there_is_as_little_as_directly(pair: Pair, index_name: str) -> None:
    """Each result of an update is that of direct OpenSearch, and so is the version: a repeated one writes nothing."""
    direct, coded = f"{index_name}-direct", f"{index_name}-coded"
    found = {}
    for name, client in ((direct, pair.direct), (coded, pair.coded)):
        create(pair.direct, name)
        client.index(index=name, id="1", body={"title": "red shoe", "price": 1.5})
        documents = [{"title": "red shoe"}, {"title": "boot"}, {"title": "boot", "price": 1.5}, {"title": "red shoe"}]
        bodies = [{"doc": document} for document in documents]
        single = [client.update(index=name, id="1", body=body) for body in [*bodies, bodies[-1]]]
        lines = ndjson({"update": {"_id": "1"}}, bodies[-1], {"update": {"_id": "1"}}, bodies[1])
        _, bulk = raw(client, "POST", f"/{name}/_bulk", lines)
        found[name] = [(one["result"], one["_version"]) for one in (*single, *(at["update"] for at in bulk["items"]))]
    assert found[coded] == found[direct]
    assert [result for result, _ in found[direct]] == ["noop", "updated", "noop", "updated", "noop", "noop", "updated"]


def test_an_index_without_the_fields_gets_no_gram_field(pair: Pair, index_name: str) -> None:
    """Documents go in as they are and dynamic mapping sees no code."""
    create(pair.direct, index_name, gram=False)
    bulk(pair.coded, actions(index_name, 3))
    properties = pair.direct.indices.get_mapping(index=index_name)[index_name]["mappings"]["properties"]
    assert properties == FIELDS
    assert stored(pair.direct, index_name)["2"] == {"title": "shoe number2"}


def test_an_index_to_be_gets_codes_when_its_template_brings_the_fields(pair: Pair, index_name: str) -> None:
    """The first bulk creates the index from a template composed of the component, and is coded."""
    component, template = f"{index_name}-component", f"{index_name}-template"
    pair.direct.cluster.put_component_template(name=component, body=component_template(weighted=True))
    pair.direct.indices.put_index_template(
        name=template,
        body={"index_patterns": [f"{index_name}*"], "composed_of": [component], "priority": 900},
    )
    try:
        bulk(pair.coded, actions(index_name, 3))
        assert_all_coded(pair.direct, index_name, 3)
    finally:
        pair.direct.indices.delete_index_template(name=template)
        pair.direct.cluster.delete_component_template(name=component)


def test_writing_through_an_alias_uses_the_fields_of_its_write_index(pair: Pair, index_name: str) -> None:
    """Of an alias over an old index without the fields and a new one with them, the one written to decides."""
    create(pair.direct, f"{index_name}-old", gram=False)
    create(pair.direct, f"{index_name}-new")
    alias = f"{index_name}-alias"
    pair.direct.indices.put_alias(index=f"{index_name}-old", name=alias)
    pair.direct.indices.put_alias(index=f"{index_name}-new", name=alias, body={"is_write_index": True})
    bulk(pair.coded, actions(alias, 3))
    assert_all_coded(pair.direct, f"{index_name}-new", 3)


def test_a_failing_model_costs_the_codes_and_nothing_else(pair: Pair, index_name: str) -> None:
    """Every document is indexed, and a search for what has to be indexed again finds them all."""
    create(pair.direct, index_name)
    pair.generator.down = True
    assert bulk(pair.coded, actions(index_name, 20), refresh=True) == (20, [])
    assert pair.direct.count(index=index_name, body={"query": {"term": {"gram.model": "pending"}}})["count"] == 20


def test_an_update_of_the_title_leaves_no_stale_code(pair: Pair, index_name: str) -> None:
    """The old codes and weights are gone from document and index; the new ones are those of the new title."""
    create(pair.direct, index_name)
    pair.coded.index(index=index_name, id="1", body={"title": "shoe"})
    pair.coded.update(index=index_name, id="1", body={"doc": {"price": 3}}, refresh=True)
    assert stored(pair.direct, index_name)["1"]["gram"]["codes"] == ["g1/type=shoe"]
    pair.coded.update(index=index_name, id="1", body={"doc": {"title": "boot"}}, refresh=True)
    features = [{"rank_feature": {"field": f"gram.weights.g1/type={word}", "linear": {}}} for word in ("shoe", "boot")]
    counts = [pair.direct.count(index=index_name, body={"query": feature})["count"] for feature in features]
    found = stored(pair.direct, index_name)["1"]
    assert (counts, found["gram"]["codes"], found["gram"]["weights"]) == (
        [0, 1],
        ["g1/type=boot"],
        [{"g1/type=boot": 0.5}],
    )
    pair.generator.down = True
    pair.coded.update(index=index_name, id="1", body={"doc": {"title": "sock"}}, refresh=True)
    pending = {"codes": [], "weights": [], "source": None, "model": "pending"}
    assert stored(pair.direct, index_name)["1"] == {"title": "sock", "price": 3, "gram": pending}


def test_a_text_of_one_megabyte_is_indexed_whole_and_coded(pair: Pair, index_name: str) -> None:
    """What the model reads is bounded; what the index keeps is all of it."""
    create(pair.direct, index_name)
    title = "x " * 500_000
    pair.coded.index(index=index_name, id="1", body={"title": title})
    found = stored(pair.direct, index_name)["1"]
    assert (found["title"], found["gram"]["codes"]) == (title, ["g1/type=x"])
