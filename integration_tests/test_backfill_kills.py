"""`gram backfill` killed with -9 at random moments, beside a writer, in slices, following: what the index ends as."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from gram_plugin.contract.bundle import read_manifest
from gram_plugin.contract.text import render_product, source_hash
from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.client import connect
from gram_plugin.search.mappings import component_template

GRAM = [sys.executable, "-m", "gram_plugin.cli"]
BUNDLE = Path(__file__).parents[1] / "plugin/tests/decode/tiny_bundle"
MANIFEST = read_manifest(BUNDLE)
KILLS = int(os.environ.get("SOAK_KILLS", "8"))
"""`make soak` sets a larger number."""
PRODUCTS = 60 * KILLS
SEED = 20261121


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}


def create(client: OpenSearch, index: str) -> None:
    """An index of three shards with the gram fields."""
    gram = component_template(weighted=True)["template"]["mappings"]["properties"]
    properties = {"title": {"type": "text"}, "price": {"type": "double"}, **gram}
    settings = {"number_of_shards": 3, "number_of_replicas": 0}
    client.indices.create(index=index, body={"mappings": {"properties": properties}, "settings": settings})


def products(number: int) -> dict[str, dict[str, Any]]:
    """Products by id; some have codes of an earlier model, some wait for codes."""
    old = {"codes": ["g0/type=old"], "weights": {"g0/type=old": 0.5}, "model": "g0", "source": "0", "at": 0}
    grams: list[dict[str, Any]] = [{}, {"gram": old}, {"gram": {"codes": [], "model": "pending", "at": 0}}]
    return {
        f"p{n}": {"title": f"grey velvet sofa {n} with a tall back", "price": n, **grams[n % 3]} for n in range(number)
    }


def put(client: OpenSearch, index: str, documents: Mapping[str, Any]) -> None:
    """Writes documents past every sidecar."""
    lines = [line for name, found in documents.items() for line in ({"index": {"_id": name}}, found)]
    answer = client.bulk(index=index, body=lines, refresh=True)
    assert not answer["errors"], answer


def stored(client: OpenSearch, index: str) -> dict[str, Any]:
    """Every document of an index by id; of `gram` without the time, weights in one object."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, body={"size": 10_000, "query": {"match_all": {}}})["hits"]["hits"]
    documents = {hit["_id"]: hit["_source"] for hit in hits}
    for document in documents.values():
        if gram := document.get("gram"):
            gram.pop("at", None)
            weights = gram.get("weights")
            gram["weights"] = weights[0] if isinstance(weights, list) and weights else weights or {}
    return documents


def plain(documents: Mapping[str, Any]) -> dict[str, Any]:
    """The documents without their `gram` objects."""
    return {name: {key: value for key, value in found.items() if key != "gram"} for name, found in documents.items()}


def hash_of(title: str) -> str:
    """What `gram.source` is for a product of this title."""
    return source_hash(render_product({"title": title}, MANIFEST.rendering), MANIFEST.generation)


def command(node: RunningNode, index: str, *arguments: str) -> list[str]:
    """One `gram backfill` of small pages, so that there are many moments to die at."""
    return [
        *GRAM,
        *("backfill", index, "--url", node.url, "--bundle", str(BUNDLE)),
        *("--json", "--bulk", "10", "--threads", "1", *arguments),
    ]


def run(folder: Path, environment: Mapping[str, str], words: list[str]) -> dict[str, Any]:
    """The report of a run that must end well."""
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def wait_for(condition: Callable[[], bool], limit_s: float = 120) -> None:
    """Until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)


def kill_after(process: subprocess.Popen[bytes], checkpoint: Path, changes: int, later_s: float = 0.0) -> bool:
    """Kills a process some time after its checkpoint has changed so many times; False when it ended before."""
    seen, moments = 0, 0
    while process.poll() is None and seen < changes:
        found = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        seen += found != moments
        moments = found
        time.sleep(0.0005)
    time.sleep(later_s)  # reading, coding, writing or saving: whatever it does then
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


class Writer(threading.Thread):
    """Changes titles and prices, and adds products, past every sidecar, until it is told to stop."""

    def __init__(self, client: OpenSearch, index: str, names: list[str]) -> None:
        super().__init__()
        self._client = client
        self._index = index
        self._names = names
        self._chance = random.Random(SEED)
        self._ended = threading.Event()
        self.expected: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Writes and remembers what was acknowledged."""
        number = 0
        while not self._ended.wait(0.02):
            number += 1
            name = self._chance.choice([*self._names, f"new{number}"])
            document = {"title": f"yellow lamp {number}", "price": -number}
            body = {"doc": document, "doc_as_upsert": True}
            self._client.update(index=self._index, id=name, body=body, retry_on_conflict=20)
            self.expected[name] = document

    def end(self) -> None:
        """Returns after its last write."""
        self._ended.set()
        self.join()


def test_killed_at_random_moments_the_index_ends_as_if_undisturbed(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """After each kill -9 the same command goes on; codes and all else equal an undisturbed run's, and stay so."""
    chance, documents = random.Random(SEED), products(PRODUCTS)
    undisturbed, killed = f"{index_name}-undisturbed", f"{index_name}-killed"
    for name in (undisturbed, killed):
        create(client, name)
        put(client, name, documents)
    report = run(tmp_path, environment, command(node, undisturbed))
    assert (report["read"], report["coded"]) == (PRODUCTS, PRODUCTS)
    kills = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(node, killed),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        kills += kill_after(
            process, tmp_path / f"{killed}.backfill.json", chance.randint(1, 6), chance.uniform(0, 0.05)
        )
    assert kills == KILLS, "the runs were too short to be killed: more products are needed"
    report = run(tmp_path, environment, command(node, killed))
    assert (report["resumed"], report["failed"], report["pending"]) == (True, 0, 0)
    expected = stored(client, undisturbed)
    assert stored(client, killed) == expected
    assert plain(expected) == plain(documents)
    assert not (tmp_path / f"{killed}.backfill.json").exists()
    again = run(tmp_path, environment, command(node, killed))
    assert (again["read"], again["fresh"], again["coded"]) == (PRODUCTS, PRODUCTS, 0)
    assert stored(client, killed) == expected


def test_a_concurrent_writers_changes_survive_kills(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Every write that was acknowledged is there in the end, and every product has the codes of its text."""
    chance, documents = random.Random(SEED + 1), products(PRODUCTS)
    create(client, index_name)
    put(client, index_name, documents)
    writer = Writer(client, index_name, sorted(documents))
    writer.start()
    try:
        for _ in range(max(2, KILLS // 4)):
            process = subprocess.Popen(
                command(node, index_name),
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            kill_after(
                process, tmp_path / f"{index_name}.backfill.json", chance.randint(1, 10), chance.uniform(0, 0.05)
            )
        run(tmp_path, environment, command(node, index_name))
    finally:
        writer.end()
    run(tmp_path, environment, command(node, index_name))
    found = stored(client, index_name)
    assert plain(found) == {**plain(documents), **writer.expected}
    assert len(writer.expected) > 10
    sources = {name: document["gram"]["source"] for name, document in found.items()}
    assert sources == {name: hash_of(document["title"]) for name, document in found.items()}


def test_processes_share_an_index_in_slices(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Five processes at once on three shards: every product is coded once, by one of them."""
    create(client, index_name)
    put(client, index_name, products(300))
    processes = [
        subprocess.Popen(
            command(node, index_name, "--slice", f"{number}/5"),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for number in range(5)
    ]
    reports = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert sum(report["read"] for report in reports) == sum(report["coded"] for report in reports) == 300
    assert sum(report["read"] > 0 for report in reports) > 3
    body = {"size": 1000, "query": {"match_all": {}}, "version": True, "_source": ["gram.model"]}
    client.indices.refresh(index=index_name)
    hits = client.search(index=index_name, body=body)["hits"]["hits"]
    assert {(hit["_version"], hit["_source"]["gram"]["model"]) for hit in hits} == {(2, MANIFEST.generation)}


def test_follow_codes_what_is_written_past_the_sidecar_until_sigterm(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """New products, changed texts and marks are found within the interval; SIGTERM ends it with 0 and a report."""
    create(client, index_name)
    put(client, index_name, products(30))

    def has_codes(name: str, title: str) -> bool:
        found = client.get(index=index_name, id=name)["_source"]
        return bool(found.get("gram", {}).get("source") == hash_of(title))

    process = subprocess.Popen(
        command(node, index_name, "--follow", "--interval", "0.2"),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: has_codes("p29", "grey velvet sofa 29 with a tall back") or process.poll() is not None)
        put(client, index_name, {"new": {"title": "a new lamp"}})
        wait_for(lambda: has_codes("new", "a new lamp") or process.poll() is not None)
        client.update(index=index_name, id="p1", body={"doc": {"title": "another text"}})
        wait_for(lambda: has_codes("p1", "another text") or process.poll() is not None)
    finally:
        process.terminate()
        said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    report = json.loads(said[0])
    assert (report["read"], report["coded"], report["stopped"]) == (30, 32, True)
    assert report["index"] == {"products": 31, "coded": 31, "pending": 0}


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A folder that the server's account can enter; those of pytest are for one account only."""
    with tempfile.TemporaryDirectory(prefix="gram-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder / "node"


def test_a_node_that_is_killed_and_comes_back_is_waited_for(
    environment: dict[str, str], data_folder: Path, tmp_path: Path
) -> None:
    """The backfill lives through kill -9 of the server: no product is left out or changed, and it ends well."""
    documents = products(300)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = NodeSettings(data=data_folder, port=port, jvm_options=("-XX:TieredStopAtLevel=1",))
    with start_node(settings) as first, connect(first.url) as client:
        create(client, "killed")
        put(client, "killed", documents)
        # Slow enough that it is in the middle when the server goes.
        words = command(first, "killed", "--rate", "30")
        process = subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        checkpoint = tmp_path / "killed.backfill.json"
        wait_for(
            lambda: (checkpoint.exists() and '"coded": 0' not in checkpoint.read_text()) or process.poll() is not None
        )
        for pid in first.pids:
            os.kill(pid, signal.SIGKILL)
    try:
        with start_node(settings) as second, connect(second.url) as client:
            said = process.communicate(timeout=300)
            assert process.returncode == 0, said
            found = stored(client, "killed")
    finally:
        process.kill()
        process.wait()
    report = json.loads(said[0])
    assert (report["read"], report["fresh"] + report["coded"], report["failed"]) == (300, 300, 0)
    assert "lost, another one is opened" in said[1]
    assert plain(found) == plain(documents)
    assert {name: document["gram"]["source"] for name, document in found.items()} == {
        name: hash_of(document["title"]) for name, document in documents.items()
    }


def test_lost_points_in_time_leave_nothing_out(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """All points in time of the node are deleted again and again; every product is coded once all the same."""
    create(client, index_name)
    put(client, index_name, products(400))
    process = subprocess.Popen(
        command(node, index_name), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    checkpoint, deleted, moment = tmp_path / f"{index_name}.backfill.json", 0, 0
    while process.poll() is None:
        found = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        if found != moment:
            moment = found
            answer = client.transport.perform_request("DELETE", "/_search/point_in_time/_all", params={"ignore": 404})
            deleted += len(answer.get("pits", []))
        time.sleep(0.1)
    report = json.loads(process.communicate()[0])
    assert deleted > 1
    assert (report["read"], report["coded"], report["failed"]) == (400, 400, 0)
    assert report["index"] == {"products": 400, "coded": 400, "pending": 0}


def test_a_checkpoint_of_other_arguments_is_refused(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """The error names what differs and what to do; nothing is written."""
    create(client, index_name)
    put(client, index_name, products(60))
    process = subprocess.Popen(
        command(node, index_name, "--rate", "20"),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert kill_after(process, tmp_path / f"{index_name}.backfill.json", 2)
    before = stored(client, index_name)
    done = subprocess.run(
        command(node, index_name),
        cwd=tmp_path,
        env={**environment, "GRAM_MAX_CODES": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "max_codes was 24, is 3" in done.stderr) == (2, True), done.stderr
    assert stored(client, index_name) == before
