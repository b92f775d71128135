"""`gram backfill` as a person runs it, against a real OpenSearch: what it codes, what it leaves, what it says."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from backfills import (
    BUNDLE,
    GRAM,
    GRAM_FIELDS,
    MANIFEST,
    OLD,
    SEED,
    create,
    plain,
    plain_environment,
    products,
    put,
    report_of,
    run,
    start,
    stored,
    versions,
    wait_for,
)
from faultproxy import FaultProxy
from gram_plugin.node.node import RunningNode


@pytest.fixture
def index(client: OpenSearch, index_name: str) -> str:
    """An index of two shards with the gram fields."""
    create(client, index_name)
    return index_name


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return plain_environment()


def backfill(
    folder: Path, environment: Mapping[str, str], node: RunningNode, index: str, *arguments: str
) -> dict[str, Any]:
    """The report of one `gram backfill` that must end well."""
    return report_of(folder, environment, [*GRAM, *to(node, index), "--json", *arguments])


def to(node: RunningNode, index: str) -> list[str]:
    """The words of a `gram backfill`."""
    return ["backfill", index, "--url", node.url, "--bundle", str(BUNDLE)]


@contextmanager
def sidecar(node: RunningNode, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a running `gram sidecar`."""
    command = [*GRAM, "sidecar", "--url", node.url, "--port", "0", "--bundle", str(BUNDLE)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield next(line.split()[-1] for line in process.stderr if line.startswith("listening on "))
    finally:
        process.terminate()
        process.communicate(timeout=30)


HOSTILE: dict[str, Any] = {
    "surrogate": {"title": "\ud800 shoe \udfff"},
    "controls": {"title": "\x00\x07 shoe \x1b\x85"},
    "large": {"title": "shoe " * 200_000},
    "array": {"title": ["red shoe", ["nested", ["deeper"]], None, 5]},
    "object": {"title": None, "nested": {"a": {"b": [{"c": 1}]}}},
    "none": {"price": 1},
    "empty": {},
    "emoji": {"title": "👟 мягкий диван ソファ"},
}


def test_the_same_codes_as_the_sidecar_and_ingest(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """A document written directly, by `gram ingest` or through the sidecar ends with the same `gram` object."""
    documents = {**products(30), **{name: found for name, found in HOSTILE.items() if name != "surrogate"}}
    for name in ("direct", "ingested", "sidecar"):
        create(client, f"{index_name}-{name}")
    put(client, f"{index_name}-direct", documents)
    catalogue = tmp_path / "products.jsonl"
    catalogue.write_text("".join(json.dumps({"id": name, **found}) + "\n" for name, found in documents.items()))
    arguments = ["--index", f"{index_name}-ingested", "--url", node.url, "--bundle", str(BUNDLE)]
    run(tmp_path, environment, [*GRAM, "ingest", str(catalogue), *arguments])
    with sidecar(node, environment) as url, OpenSearch(url, timeout=60) as coded:
        put(coded, f"{index_name}-sidecar", documents)
    report = backfill(tmp_path, environment, node, f"{index_name}-direct")
    found = {name: stored(client, f"{index_name}-{name}") for name in ("direct", "ingested", "sidecar")}
    grams = {name: {key: document["gram"] for key, document in found[name].items()} for name in found}
    assert grams["direct"] == grams["ingested"] == grams["sidecar"]
    assert plain(found["direct"]) == documents
    assert (report["coded"], report["pending"], report["failed"]) == (len(documents), 0, 0)
    for name in ("ingested", "sidecar"):
        report = backfill(tmp_path, environment, node, f"{index_name}-{name}")
        assert (report["read"], report["fresh"], report["coded"]) == (len(documents), len(documents), 0)


def test_codes_of_an_earlier_generation_are_replaced(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """No old code is left to be found, neither as keyword nor as weight, whatever shape the old object had."""
    shapes: dict[str, Any] = {
        "object": {"gram": OLD},
        "array": {"gram": {**OLD, "weights": [OLD["weights"]]}},
        "list": {"gram": [OLD]},
        "dotted": {"gram.codes": ["g0/type=old"], "gram.model": "g0"},
        "both": {"gram": OLD, "gram.codes": ["g0/type=old"]},
    }
    put(client, index, {name: {"title": f"grey sofa {name}", **found} for name, found in shapes.items()})
    old = [
        {"term": {"gram.codes": "g0/type=old"}},
        {"rank_feature": {"field": "gram.weights.g0/type=old", "linear": {}}},
        {"term": {"gram.model": "g0"}},
    ]
    before = [client.count(index=index, body={"query": query})["count"] for query in old]
    assert before == [5, 4, 5]
    report = backfill(tmp_path, environment, node, index)
    assert (report["read"], report["coded"]) == (5, 5)
    client.indices.refresh(index=index)
    assert [client.count(index=index, body={"query": query})["count"] for query in old] == [0, 0, 0]
    assert client.count(index=index, body={"query": {"term": {"gram.model": MANIFEST.generation}}})["count"] == 5
    again = backfill(tmp_path, environment, node, index)
    assert (again["read"], again["fresh"], again["coded"]) == (5, 5, 0)


def test_only_what_is_stale_is_written(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """A text changed past the sidecar, a pending, an older and a new product are coded; the others stay."""
    put(client, index, products(20))
    backfill(tmp_path, environment, node, index)
    client.update(index=index, id="p1", body={"doc": {"title": "a yellow lamp"}})
    client.update(index=index, id="p2", body={"doc": {"gram": {"model": "pending", "codes": []}}})
    client.update(index=index, id="p3", body={"doc": {"gram": {"model": "g0"}}})
    client.update(index=index, id="p4", body={"doc": {"price": 99}})
    put(client, index, {"p5": {"title": "written past the sidecar"}, "new": {"title": "a new sofa"}})
    client.indices.refresh(index=index)
    before = versions(client, index)
    report = backfill(tmp_path, environment, node, index)
    assert (report["read"], report["fresh"], report["coded"]) == (21, 16, 5)
    changed = {name for name, version in versions(client, index).items() if version != before[name]}
    assert changed == {"p1", "p2", "p3", "p5", "new"}
    assert report["index"] == {"products": 21, "coded": 21, "pending": 0}


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_server_that_is_away_at_the_start_is_waited_for(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path, words: tuple[str]
) -> None:
    """It says so, and begins once somebody listens."""
    put(client, index, products(3))
    with FaultProxy(node.url).running() as proxy:
        proxy.refuse()
        begin = ["backfill", index, "--url", proxy.url, "--bundle", str(BUNDLE), "--json", *words]
        process = start(tmp_path, environment, [*GRAM, *begin])
        said = tmp_path / "said.log"
        wait_for(lambda: process.poll() is not None or "try 1 of 20 failed, again soon" in said.read_text())
        proxy.listen()
        report, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said.read_text()
    assert json.loads(report)["products" if words else "coded"] == 3


def test_hostile_documents_never_stop_it(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Surrogates, a megabyte, control characters, arrays: each is coded or marked, and nothing else changes."""
    put(client, index, {**HOSTILE, **products(5)})
    report = backfill(tmp_path, environment, node, index, "--bulk", "4")
    found = stored(client, index)
    assert plain(found) == {**HOSTILE, **products(5)}
    assert report["read"] == report["coded"] + report["pending"] == len(found)
    assert {name for name, document in found.items() if document["gram"]["model"] == "pending"} <= {"surrogate"}
    again = backfill(tmp_path, environment, node, index, "--bulk", "4")
    assert (again["coded"], again["fresh"] + again["pending"], again["pending"]) == (0, len(found), report["pending"])


HOSTILE_DOCUMENTS = int(os.environ.get("SOAK_DOCUMENTS", "1000"))
"""`make soak` sets a larger number."""
PIECES = [
    "sofa ",
    "\ud800",
    "\udfff",
    "\x00",
    "\x1f",
    "\u202e",
    "\ufeff",
    "👟",
    "ﬀ",
    "İ",
    "a\u0301",
    "％|=.",
    "\u2028",
    "\n",
]


def hostile_value(chance: random.Random, depth: int = 0) -> Any:
    """Whatever may stand in a field that takes anything."""
    kind = chance.randrange(8 if depth < 12 else 5)
    if kind < 3:
        return "".join(chance.choices(PIECES, k=chance.randrange(40)))
    if kind < 5:
        return chance.choice([None, True, -0.0, 1e300, 2**63 - 1, "", "x" * 40_000])
    if kind < 7:
        return [hostile_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice("abc"): hostile_value(chance, depth + 1) for _ in range(chance.randrange(3))}


def text_value(chance: random.Random) -> Any:
    """What a text field takes: texts, numbers, arrays of arrays of them."""
    flat = [found for _ in range(4) if not isinstance(found := hostile_value(chance, 12), dict)]
    return chance.choice([flat[0], flat, [flat, [flat]]]) if flat else None


def test_documents_of_hostile_text_are_all_settled(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Coded or marked, every one; nothing but `gram` changes, and a second run finds nothing to write."""
    properties = {"title": {"type": "text"}, "any": {"type": "object", "enabled": False}, **GRAM_FIELDS}
    client.indices.create(index=index_name, body={"mappings": {"properties": properties}})
    chance = random.Random(SEED)
    documents = {f"h{n}": {"title": text_value(chance), "any": hostile_value(chance)} for n in range(HOSTILE_DOCUMENTS)}
    names = sorted(documents)
    for at in range(0, len(names), 100):
        put(client, index_name, {name: documents[name] for name in names[at : at + 100]})
    report = backfill(tmp_path, environment, node, index_name)
    assert report["read"] == report["coded"] + report["pending"] == len(documents)
    assert report["coded"] > report["pending"]
    assert json.dumps(plain(stored(client, index_name)), sort_keys=True) == json.dumps(documents, sort_keys=True)
    again = backfill(tmp_path, environment, node, index_name)
    assert (again["coded"], again["failed"], again["pending"]) == (0, 0, report["pending"])


def test_products_of_a_data_stream_are_coded(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """In the indices behind it, a rolled-over one included."""
    gram = {"mappings": {"properties": GRAM_FIELDS}}
    template = {"index_patterns": [f"{index_name}*"], "data_stream": {}, "template": gram, "priority": 500}
    client.indices.put_index_template(name=index_name, body=template)
    try:
        for number in range(2):
            for product in range(5):
                body = {"@timestamp": product, "title": f"sofa {number} {product}"}
                client.index(index=index_name, body=body, op_type="create", refresh=True)
            client.indices.rollover(alias=index_name)
        report = backfill(tmp_path, environment, node, index_name)
        assert (report["coded"], report["index"]) == (10, {"products": 10, "coded": 10, "pending": 0})
    finally:
        client.indices.delete_data_stream(name=index_name)
        client.indices.delete_index_template(name=index_name)


def test_routed_products_of_an_alias_are_coded(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Products keep their routing, and all indices behind an alias are read."""
    for name in ("a", "b"):
        create(client, f"{index_name}-{name}", shards=3)
        for number in range(6):
            body = {"title": f"sofa {number}"}
            client.index(index=f"{index_name}-{name}", id=str(number), routing=f"r{number}", body=body)
    client.indices.put_alias(index=f"{index_name}-*", name=f"{index_name}-all")
    report = backfill(tmp_path, environment, node, f"{index_name}-all")
    assert (report["coded"], report["index"]) == (12, {"products": 12, "coded": 12, "pending": 0})


def test_what_opensearch_refuses_is_a_dead_letter(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """A product that no longer fits its mapping fails alone, with id and reason, and the exit code is 1."""
    properties = {"title": {"type": "text"}, **GRAM_FIELDS}
    client.indices.create(index=index_name, body={"mappings": {"dynamic": False, "properties": properties}})
    put(client, index_name, {"p1": {"title": "sofa"}, "huge": {"title": "lamp", "sku": "x" * 40_000}})
    client.indices.put_mapping(index=index_name, body={"properties": {"sku": {"type": "keyword"}}})
    done = run(tmp_path, environment, [*GRAM, *to(node, index_name), "--json"], code=1)
    report, letters = json.loads(done.stdout), tmp_path / f"{index_name}.backfill.dead-letters.jsonl"
    assert (report["coded"], report["failed"]) == (1, 1)
    (letter,) = [json.loads(line) for line in letters.read_text().splitlines()]
    assert (letter["id"], letter["status"], letter["document"]["_index"]) == ("huge", 400, index_name)
    assert "immense term" in letter["reason"]
    assert str(letters.name) in done.stderr


def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Counts by state, an estimate by a timed sample, codes of some products."""
    put(client, index, {**products(7), "old": {"title": "sofa", "gram": OLD}, "empty": {}})
    before = versions(client, index)
    report = backfill(tmp_path, environment, node, index, "--dry-run")
    states = {"fresh": 0, "missing": 8, "pending": 0, "generation": 1, "text": 0, "fields": 0}
    assert (report["products"], report["stale"], report["states"]) == (9, 9, states)
    assert (report["without_text"], report["unreadable"], report["sampled"]) == (1, 0, 9)
    assert report["estimated_s"] == report["sample_s"] > 0
    assert len(report["examples"]) == 5
    assert versions(client, index) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--slice", "2/2"], 2, "--slice is '2/2'"),
        (["--url", "http://127.0.0.1:9"], 1, "failed"),
    ],
)
def test_mistakes_are_named(
    node: RunningNode,
    index: str,
    environment: dict[str, str],
    tmp_path: Path,
    arguments: Iterable[str],
    code: int,
    said: str,
) -> None:
    """What is wrong, and the next step; nothing is left behind."""
    done = run(tmp_path, environment, [*GRAM, "backfill", index, "--bundle", str(BUNDLE), *arguments], code)
    assert (said in done.stderr, "next:" in done.stderr) == (True, True), done.stderr
    assert list(tmp_path.iterdir()) == []
