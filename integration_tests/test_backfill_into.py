"""`gram backfill --into` against a real OpenSearch: a new index with codes takes the place of the old one."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import AuthorizationException, OpenSearch

from backfills import (
    GRAM,
    SEED,
    command,
    hashes_of,
    hits,
    kill_after,
    plain,
    plain_environment,
    products,
    put,
    report_of,
    run,
    sources_of,
    start,
    stored,
    versions,
)
from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.client import connect


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return plain_environment()


@pytest.fixture
def source(client: OpenSearch, index_name: str) -> str:
    """An index without gram fields behind the alias NAME-live, with settings and an alias of its own kind."""
    name = f"{index_name}-old"
    body = {
        "settings": {
            "number_of_shards": 2,
            "number_of_replicas": 0,
            "analysis": {"analyzer": {"mine": {"type": "custom", "tokenizer": "whitespace"}}},
        },
        "mappings": {
            "_meta": {"owner": "shop"},
            "properties": {"title": {"type": "text", "analyzer": "mine"}, "price": {"type": "double"}},
        },
        "aliases": {f"{index_name}-live": {"filter": {"range": {"price": {"gte": -10_000}}}}},
    }
    client.indices.create(index=name, body=body)
    return name


def test_a_new_index_takes_the_place_of_the_old_one(
    node: RunningNode,
    client: OpenSearch,
    index_name: str,
    source: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Documents, versions, mapping, settings and the alias's filter go over; the source stays as it was."""
    alias = f"{index_name}-live"
    put(client, source, products(25))
    put(client, source, {"p3": {"title": "a second version", "price": 3}})
    put(client, source, {"routed": {"title": "lamp", "price": 1}}, routing="r")
    before = hits(client, source)
    words = command(node, alias, "--into", "auto", "--alias", alias)
    report = report_of(tmp_path, environment, words)
    (name,) = client.indices.get_alias(name=alias)
    assert (report["into"], report["coded"], report["index"]) == (
        name,
        26,
        {"products": 26, "coded": 26, "pending": 0},
    )
    after = stored(client, name)
    assert plain(after) == {key: hit["_source"] for key, hit in before.items()}
    assert versions(client, name) == {key: hit["_version"] for key, hit in before.items()}
    assert sources_of(after) == hashes_of(after)
    assert hits(client, name)["routed"]["_routing"] == "r"
    assert hits(client, source) == before
    with pytest.raises(AuthorizationException):
        client.index(index=source, id="late", body={"title": "written where nobody looks"})
    made = client.indices.get(index=name)[name]
    assert made["aliases"] == {alias: {"filter": {"range": {"price": {"gte": -10_000}}}}}
    assert made["settings"]["index"]["analysis"] == {
        "analyzer": {"mine": {"type": "custom", "tokenizer": "whitespace"}}
    }
    assert made["mappings"]["_meta"]["owner"] == "shop"
    assert made["mappings"]["properties"]["title"] == {"type": "text", "analyzer": "mine"}
    assert client.indices.get(index=source)[source]["aliases"] == {}
    assert list(tmp_path.iterdir()) == []
    again = report_of(tmp_path, environment, words)
    assert (again["into"], again["read"]) == (name, 0)


def test_an_alias_that_is_new_blocks_no_writer(
    node: RunningNode, client: OpenSearch, index_name: str, source: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Whoever writes to the index by its own name has not been told yet."""
    put(client, source, products(5))
    run(tmp_path, environment, command(node, source, "--into", f"{index_name}-new", "--alias", f"{index_name}-first"))
    assert list(client.indices.get_alias(name=f"{index_name}-first")) == [f"{index_name}-new"]
    put(client, source, {"p1": {"title": "still taken"}})


def test_clean_up_takes_only_its_own_that_nothing_leads_to(
    node: RunningNode,
    client: OpenSearch,
    index_name: str,
    source: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Not an index of a like name, not one with any alias, not one by another name; and nothing without --yes."""
    alias = f"{index_name}-live"
    put(client, source, products(3))
    report = report_of(tmp_path, environment, command(node, source, "--into", "auto", "--alias", alias))
    own, stranger = report["into"], f"{alias}-gram-g1-20200101000000"
    client.indices.create(index=stranger)
    words = [*GRAM, "clean-up", alias, "--url", node.url]
    assert run(tmp_path, environment, words).stdout == f"nothing to clean up for {alias}\n"
    client.indices.update_aliases(
        body={"actions": [{"remove": {"index": own, "alias": alias}}, {"add": {"index": own, "alias": f"{alias}-b"}}]}
    )
    assert run(tmp_path, environment, [*words, "--yes"]).stdout == f"nothing to clean up for {alias}\n"
    client.indices.delete_alias(index=own, name=f"{alias}-b")
    assert run(tmp_path, environment, words).stdout == f"{own}: would be deleted with --yes\n"
    assert client.indices.exists(index=own)
    assert run(tmp_path, environment, [*words, "--yes"]).stdout == f"{own}: deleted\n"
    assert not client.indices.exists(index=own)
    assert client.indices.exists(index=stranger)
    assert client.indices.exists(index=source)


def test_the_alias_stays_when_a_product_cannot_be_copied(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Counts differ, so nothing moves; the dead letter has the reason, and the next run goes on once it is repaired."""
    source, alias, name = f"{index_name}-old", f"{index_name}-live", f"{index_name}-new"
    client.indices.create(
        index=source, body={"mappings": {"dynamic": False, "properties": {"title": {"type": "text"}}}}
    )
    client.indices.put_alias(index=source, name=alias)
    put(client, source, {**products(4), "huge": {"title": "lamp", "sku": "x" * 40_000}})
    client.indices.put_mapping(index=source, body={"properties": {"sku": {"type": "keyword"}}})
    words = command(node, source, "--into", name, "--alias", alias)
    said = run(tmp_path, environment, words, code=1).stderr
    assert f"the alias was not moved: {source} has 5 products, {name} has 4" in said
    assert list(client.indices.get_alias(name=alias)) == [source]
    (letter,) = [
        json.loads(line) for line in (tmp_path / f"{source}.backfill.dead-letters.jsonl").read_text().splitlines()
    ]
    assert (letter["id"], letter["status"]) == ("huge", 400)
    put(client, source, {"p1": {"title": "changed"}})
    put(client, source, {"huge": {"title": "lamp", "sku": "small"}})
    client.delete(index=source, id="p2")
    client.delete(index=source, id="p0")
    put(client, source, {"p0": {"title": "deleted and made anew"}})
    report = report_of(tmp_path, environment, words)
    assert (report["read"], report["failed"]) == (4, 0)
    assert list(client.indices.get_alias(name=alias)) == [name]
    assert plain(stored(client, name)) == plain(stored(client, source))
    assert plain(stored(client, name))["p0"] == {"title": "deleted and made anew"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--into", "x"], 2, "--into and --alias belong together"),
        (["--into", "x", "--alias", "y", "--follow"], 2, "without --follow and --slice"),
        (["--into", "{source}", "--alias", "y"], 2, "is both source and new index"),
        (["--into", "x", "--alias", "{source}"], 2, "is the name of an index"),
        (["--into", "{other}", "--alias", "y"], 2, "exists and is no copy"),
        (["--into", "x", "--alias", "{other}-alias"], 2, "besides"),
    ],
)
def test_names_in_use_are_refused(
    node: RunningNode,
    client: OpenSearch,
    index_name: str,
    source: str,
    environment: dict[str, str],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    """Nothing is made or moved."""
    other = f"{index_name}-other"
    client.indices.create(index=other, body={"aliases": {f"{other}-alias": {}}})
    filled = [argument.format(source=source, other=other) for argument in arguments]
    assert said in run(tmp_path, environment, command(node, source, *filled), code).stderr
    assert set(client.indices.get(index=f"{index_name}*,x*")) == {source, other}


class Writer(threading.Thread):
    """Changes, adds and deletes products through the alias until it is told to stop."""

    def __init__(self, client: OpenSearch, alias: str, documents: Mapping[str, Any]) -> None:
        super().__init__()
        self._client = client
        self._alias = alias
        self._chance = random.Random(SEED)
        self._ended = threading.Event()
        self.expected: dict[str, Any] = dict(documents)

    def run(self) -> None:
        """Writes and remembers what was acknowledged."""
        number = 0
        while not self._ended.wait(0.03):
            number += 1
            name = self._chance.choice([*sorted(self.expected), f"new{number}"])
            document = {"title": f"yellow lamp {number}", "price": -number}
            try:
                self._client.index(index=self._alias, id=name, body=document)
            except AuthorizationException:
                continue  # it was on its way to the old index when the alias moved: refused, not lost
            self.expected[name] = document

    def end(self) -> None:
        """Returns after its last write."""
        self._ended.set()
        self.join()


def test_killed_at_random_moments_beside_a_writer_nothing_is_lost(
    node: RunningNode,
    client: OpenSearch,
    index_name: str,
    source: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """After kills in the copy, what was written through the alias before and after it moved is in the new index."""
    alias, chance, documents = f"{index_name}-live", random.Random(SEED), products(300)
    put(client, source, documents)
    words = command(node, alias, "--into", f"{index_name}-new", "--alias", alias, "--checkpoint", "c.json")
    writer = Writer(client, alias, documents)
    writer.start()
    try:
        for _ in range(4):
            process = start(tmp_path, environment, words)
            kill_after(process, tmp_path / "c.json", chance.randint(1, 8), chance.uniform(0, 0.05))
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        # A writer that never pauses may keep the counts apart: then the alias stays, and that is said.
        assert done.returncode == 0 or "the alias was not moved" in done.stderr, done.stderr
    finally:
        writer.end()
    run(tmp_path, environment, words)
    assert list(client.indices.get_alias(name=alias)) == [f"{index_name}-new"]
    run(tmp_path, environment, command(node, alias))
    found = stored(client, f"{index_name}-new")
    assert plain(found) == writer.expected
    assert sources_of(found) == hashes_of(found)


def test_an_older_server_without_weights_is_served_too(environment: dict[str, str], tmp_path: Path) -> None:
    """On 2.19.4 products are coded in place, in parts, and copied; the codes are keywords alone, and stay fresh."""
    settings = NodeSettings(version="2.19.4", jvm_options=("-XX:TieredStopAtLevel=1",))
    with start_node(settings) as node, connect(node.url) as client:
        body = {"settings": {"number_of_shards": 2, "number_of_replicas": 0}, "aliases": {"live": {}}}
        client.indices.create(index="old", body=body)
        put(client, "old", products(100))
        run(tmp_path, environment, [*GRAM, "mapping", "apply", "old", "--url", node.url])
        parts = [
            report_of(tmp_path, environment, command(node, "old", "--slice", f"{number}/5")) for number in range(5)
        ]
        copied = report_of(tmp_path, environment, command(node, "live", "--into", "new", "--alias", "live"))
        found, aliases = hits(client, "new"), client.indices.get_alias(name="live")
    assert sum(part["coded"] for part in parts) == sum(part["read"] for part in parts) == 100
    assert (copied["read"], copied["fresh"], list(aliases)) == (100, 100, ["new"])
    grams = [hit["_source"]["gram"] for hit in found.values()]
    assert [set(gram) for gram in grams] == [{"codes", "model", "source", "at"}] * 100
