"""Any `_bulk` body through the sidecar, beside the same body sent directly; aliases, scripts and data streams too."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opensearchpy import OpenSearch

from gram_plugin.contract.text import Rendering
from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import component_template
from gram_plugin.serve.coding import CodingRules
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import create_sidecar
from sidecars import Pair, WordGenerator, create, ndjson, raw, served, settled, stored

EXAMPLES = int(os.environ.get("SOAK_BODIES", "20"))
"""`make soak` sets a larger number."""
IDS = ("1", "2", "ü/👟 \u200b", "x" * 40)
RULES = CodingRules(Rendering(("title", "brand")))
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def pair(node: RunningNode, client: OpenSearch) -> Iterator[Pair]:
    """Both ways to the node; the model reads title and brand."""
    generator = WordGenerator()
    app = create_sidecar(SidecarSettings(upstream_url=node.url, mapping_age_s=0.0), generator, RULES)
    with served(app) as url, OpenSearch(url, timeout=30) as coded:
        yield Pair(client, coded, url, generator)


@pytest.fixture(scope="module")
def pipeline(client: OpenSearch) -> Iterator[str]:
    """An ingest pipeline that adds a field."""
    name = "write-bodies"
    client.ingest.put_pipeline(id=name, body={"processors": [{"set": {"field": "piped", "value": True}}]})
    yield name
    client.ingest.delete_pipeline(id=name)


TITLES = st.sampled_from(
    ["red shoe", "", "poison", "\ud800 lone 👟", "a\nb\x00", None, 7, ["x", ["y"]], {"de": "schuh"}, "ß" * 300]
)
PRICES = st.sampled_from([1, 0.1, -0.0, "3", "cheap", None, [1, 2], 12345678901234567890123, 1e300])
DOCUMENTS = st.fixed_dictionaries(
    {}, optional={"title": TITLES, "brand": st.sampled_from(["acme", 3, None]), "price": PRICES, "a.b": st.just(1)}
)
RAW = st.sampled_from(
    [
        b'{"title":"a","title":"b"}',
        b'{"price":1e400}',
        b'{"big":123456789012345678901234567890,"real":0.1000000000000000055511151231257827}',
        b' \t{"title" : "spaced"\t,"real":1.10e2 } ',
        b'{"title":"cr"}\r',
        b'{"title":"surrogate \\ud83d"}',
        b'{"":1}',
        b'{"deep":' + b'{"a":' * 30 + b"1" + b"}" * 31,
        b"{}",
        b"[1]",
        b'"text"',
        b"null",
        b'{"title":',
        b'{"title":"x"} rest',
        b"",
    ]
)
CONDITIONS = st.sampled_from(
    [{}] * 6
    + [
        {"if_seq_no": 0, "if_primary_term": 1},
        {"if_seq_no": 1, "if_primary_term": 1},
        {"if_seq_no": 77, "if_primary_term": 1},
        {"if_seq_no": 0},
        {"version": 3, "version_type": "external"},
        {"version": 2, "version_type": "external_gte"},
        {"version": 1},
        {"require_alias": True},
        {"require_alias": False},
        {"pipeline": "write-bodies"},
        {"pipeline": "missing"},
        {"pipeline": "_none"},
        {"_index": "INDEX-alias"},
        {"_index": "INDEX-alias", "require_alias": True},
        {"_index": "INDEX-new"},
        {"_index": "_bad"},
        {"dynamic_templates": {"a": "b"}},
        {"colour": "unknown"},
        {"retry_on_conflict": 3},
        {"_source": ["price"]},
    ]
)
PLACES = st.fixed_dictionaries({}, optional={"_id": st.sampled_from(IDS), "routing": st.sampled_from(["a", "b", "ü"])})


def scripts() -> st.SearchStrategy[dict[str, Any]]:
    """Updates by scripts: harmless, risky, idle, deleting, failing, unknown."""
    sources = [
        "ctx._source.views = 1",
        "ctx._source.title = params.t",
        "ctx._source.putAll(params)",
        "ctx.op = 'none'",
        "ctx.op = 'delete'",
        "ctx._source.price.boom()",
        "no painless (",
    ]
    bodies = [{"script": {"source": source, "params": {"t": "scripted boot"}}} for source in sources]
    more = st.sampled_from([{}, {"upsert": {"title": "made"}}, {"upsert": {}, "scripted_upsert": True}])
    return st.builds(lambda body, extra: {**body, **extra}, st.sampled_from([*bodies, {"script": {"id": "no"}}]), more)


def updates(number: int) -> st.SearchStrategy[dict[str, Any]]:
    """Partial documents; a text is always another one, since a mark makes an update of what would be a no-op."""
    texts = st.sampled_from([{}, {"title": f"new {number}"}, {"title": f"new {number}", "brand": f"b{number}"}])
    documents = st.builds(lambda text, price: {**text, **price}, texts, st.sampled_from([{}, {"price": 5}, {"n": {}}]))
    more = st.sampled_from(
        [{}, {"doc_as_upsert": True}, {"upsert": {"title": "made", "price": 2}}, {"detect_noop": False}]
    )
    return st.builds(lambda document, extra: {"doc": document, **extra}, documents, more) | scripts()


@st.composite
def operations(draw: st.DrawFn) -> list[Any]:
    """The lines of one operation."""
    action = draw(st.sampled_from(["index", "index", "create", "update", "update", "delete"]))
    conditions = draw(CONDITIONS)
    head = {action: {**draw(PLACES), **conditions}}
    if action == "delete":
        return [head]
    if action == "update":
        head[action].setdefault("_id", "1")
        return [head, draw(updates(next(_NUMBERS)))]
    return [head, draw(st.one_of(DOCUMENTS, DOCUMENTS, RAW))]


BODIES = st.builds(
    lambda found, ends: ndjson(*(line for operation in found for line in [*operation, *ends])),
    st.lists(operations(), min_size=1, max_size=8),
    st.sampled_from([[], [], [], [b""], [b" "]]),
)
PARAMETERS = st.sampled_from(
    [
        *[""] * 4,
        "?refresh=true",
        "?routing=q",
        "?pipeline=write-bodies",
        "?require_alias=true",
        "?_source=true",
        "?timeout=60s&wait_for_active_shards=1",
        "?filter_path=items.*.status,errors",
        "?unknown=1",
    ]
)


_DOCUMENT = re.compile("document with id '([^']*)'")  # errors tell it too


def without_gram(answer: Any) -> Any:
    """An answer without the object that the sidecar adds and without times; ids that OpenSearch made become alike."""
    if isinstance(answer, dict):
        kept = {key: value for key, value in answer.items() if key not in {"gram", "ingest_took"}}
        if "_id" in kept and kept["_id"] not in IDS:
            kept["_id"] = "made"
        return {key: without_gram(value) for key, value in kept.items()}
    if isinstance(answer, str):
        return _DOCUMENT.sub(lambda said: said[0] if said[1] in IDS else "document with id 'made'", answer)
    return [without_gram(found) for found in answer] if isinstance(answer, list) else answer


def seen(pair: Pair, index: str, way: OpenSearch, body: bytes, parameters: str) -> list[Any]:
    """The answer to a body in an index of its own, and what that index holds then, whoever asks."""
    create(pair.direct, index)
    pair.direct.indices.put_alias(index=index, name=f"{index}-alias", body={"routing": "r"})
    names = f"{index},{index}-new"
    try:
        answer = raw(way, "POST", f"/{index}/_bulk{parameters}", body.replace(b"INDEX", index.encode()))
        pair.direct.indices.refresh(index=names, ignore_unavailable=True)
        search = {"size": 100, "query": {"match_all": {}}}
        hits = pair.direct.search(index=names, body=search, ignore_unavailable=True)["hits"]["hits"]
        kept = [{key: hit.get(key) for key in ("_index", "_id", "_routing", "_source")} for hit in hits]
    finally:
        pair.direct.indices.delete(index=names, ignore_unavailable=True)
    whole = settled(without_gram([answer, kept]), index)
    return [whole[0], sorted(json.dumps(hit, sort_keys=True) for hit in whole[1])]


@given(body=BODIES, parameters=PARAMETERS)
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],  # making a body smaller would cost minutes; as it is it is short enough to be read
)
def test_every_body_has_the_answer_and_the_documents_of_a_direct_one(
    pair: Pair, pipeline: str, body: bytes, parameters: str
) -> None:
    """Statuses, errors, versions, sequence numbers, routing, documents: all equal but for the object `gram`."""
    name = f"test-bodies-{next(_NUMBERS)}"
    direct = seen(pair, f"{name}-direct", pair.direct, body, parameters)
    assert seen(pair, f"{name}-coded", pair.coded, body, parameters) == direct


def test_writing_through_an_alias_with_routing_reaches_the_same_shard(pair: Pair, index_name: str) -> None:
    """The alias routes, the documents have their codes, and the mark after a script finds its product there."""
    create(pair.direct, index_name)
    alias = f"{index_name}-alias"
    pair.direct.indices.put_alias(index=index_name, name=alias, body={"routing": "r"})
    script = {"script": {"source": "ctx._source.title = 'boot'"}}
    update: list[Any] = [{"update": {"_id": "1"}}, script, {"update": {"_id": "2", "routing": "r"}}, script]
    sent = ndjson({"index": {"_id": "1"}}, {"title": "shoe"}, {"index": {"_id": "2"}}, {"title": "shoe"}, *update)
    _, answer = raw(pair.coded, "POST", f"/{alias}/_bulk", sent)
    assert [next(iter(item.values()))["status"] for item in answer["items"]] == [201, 201, 200, 200]
    assert [found["gram"]["model"] for found in stored(pair.direct, index_name).values()] == ["pending"] * 2
    assert pair.direct.get(index=index_name, id="1", routing="r")["_routing"] == "r"


@pytest.mark.parametrize(
    ("script", "codes", "model"),
    [
        ("ctx._source.price = 3", ["g1/type=shoe"], "g1"),
        ("ctx._source.title = 'boot'", [], "pending"),
        ("ctx._source.remove('title')", [], "pending"),
        ("ctx.op = 'none'", ["g1/type=shoe"], "g1"),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_a_script_leaves_no_stale_code(
    pair: Pair, index_name: str, script: str, codes: list[str], model: str, single: bool
) -> None:
    """A product whose text a script may have changed has no codes and waits; any other keeps what it has."""
    create(pair.direct, index_name)
    pair.coded.index(index=index_name, id="1", body={"title": "shoe"})
    body = {"script": {"source": script}}
    if single:
        pair.coded.update(index=index_name, id="1", body=body, refresh=True)
    else:
        pair.coded.bulk(index=index_name, body=[{"update": {"_id": "1"}}, body], refresh=True)
    pair.direct.indices.refresh(index=index_name)
    found = pair.direct.search(index=index_name, body={"query": {"term": {"gram.model": model}}})["hits"]["hits"]
    assert [(hit["_id"], hit["_source"]["gram"]["codes"]) for hit in found] == [("1", codes)]
    feature = {"rank_feature": {"field": "gram.weights.g1/type=shoe", "linear": {}}}
    assert pair.direct.count(index=index_name, body={"query": feature})["count"] == len(codes)


@pytest.fixture
def stream(client: OpenSearch, index_name: str) -> Iterator[str]:
    """The name of a data stream to be, whose template has no gram fields yet."""
    template(client, index_name, {})
    yield index_name
    client.indices.delete_data_stream(name=index_name)
    client.indices.delete_index_template(name=index_name)


def template(client: OpenSearch, name: str, properties: dict[str, Any]) -> None:
    """The template of the data stream."""
    mappings = {"properties": {"title": {"type": "text"}, **properties}}
    body = {
        "index_patterns": [name],
        "data_stream": {},
        "priority": 900,
        "template": {"mappings": mappings, "settings": {"number_of_replicas": 0}},
    }
    client.indices.put_index_template(name=name, body=body)


def test_a_data_stream_gets_codes_once_its_newest_index_has_the_fields(pair: Pair, stream: str) -> None:
    """Before, documents go in unchanged; `index` is refused by OpenSearch itself; after the rollover they are coded."""
    document = {"@timestamp": "2026-01-01T00:00:00Z", "title": "red shoe"}
    sent = ndjson({"create": {}}, document, {"index": {"_id": "1"}}, document)
    statuses, models = [], []
    for turn in range(2):
        _, answer = raw(pair.coded, "POST", f"/{stream}/_bulk?refresh=true", sent)
        statuses.append([next(iter(item.values()))["status"] for item in answer["items"]])
        hits = pair.direct.search(index=stream, body={"sort": ["_index"]})["hits"]["hits"]
        models = [hit["_source"].get("gram", {}).get("model") for hit in hits]
        if turn == 0:
            template(pair.direct, stream, component_template(weighted=True)["template"]["mappings"]["properties"])
            pair.coded.transport.perform_request("POST", f"/{stream}/_rollover")
    assert (statuses, models) == ([[201, 400], [201, 400]], [None, "g1"])
