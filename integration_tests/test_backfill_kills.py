"""`gram backfill` killed with -9 at random moments, beside a writer, in slices, following: what the index ends as."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from backfills import (
    MANIFEST,
    OLD,
    SEED,
    command,
    create,
    hash_of,
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
    wait_for,
)
from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.client import connect

KILLS = int(os.environ.get("SOAK_KILLS", "8"))
"""`make soak` sets a larger number."""
PRODUCTS = 60 * KILLS


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return plain_environment()


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A folder that the server's account can enter; those of pytest are for one account only."""
    with tempfile.TemporaryDirectory(prefix="gram-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder / "node"


def stale(number: int) -> dict[str, dict[str, Any]]:
    """Products by id: some without codes, some with those of an earlier model, some that wait for codes."""
    grams: list[dict[str, Any]] = [{}, {"gram": OLD}, {"gram": {"codes": [], "model": "pending", "at": 0}}]
    return {name: {**found, **grams[at % 3]} for at, (name, found) in enumerate(products(number).items())}


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
    chance, documents = random.Random(SEED), stale(PRODUCTS)
    undisturbed, killed = f"{index_name}-undisturbed", f"{index_name}-killed"
    for name in (undisturbed, killed):
        create(client, name, shards=3)
        put(client, name, documents)
    report = report_of(tmp_path, environment, command(node, undisturbed))
    assert (report["read"], report["coded"]) == (PRODUCTS, PRODUCTS)
    checkpoint, kills = tmp_path / f"{killed}.backfill.json", 0
    for _ in range(KILLS):
        process = start(tmp_path, environment, command(node, killed))
        kills += kill_after(process, checkpoint, chance.randint(1, 6), chance.uniform(0, 0.05))
    assert kills == KILLS, "the runs were too short to be killed: more products are needed"
    report = report_of(tmp_path, environment, command(node, killed))
    assert (report["resumed"], report["failed"], report["pending"]) == (True, 0, 0)
    expected = stored(client, undisturbed)
    assert stored(client, killed) == expected
    assert plain(expected) == plain(documents)
    assert not checkpoint.exists()
    again = report_of(tmp_path, environment, command(node, killed))
    assert (again["read"], again["fresh"], again["coded"]) == (PRODUCTS, PRODUCTS, 0)
    assert stored(client, killed) == expected


def test_a_concurrent_writers_changes_survive_kills(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Every write that was acknowledged is there in the end, and every product has the codes of its text."""
    chance, documents = random.Random(SEED + 1), stale(PRODUCTS)
    create(client, index_name)
    put(client, index_name, documents)
    writer, words = Writer(client, index_name, sorted(documents)), command(node, index_name)
    writer.start()
    try:
        for _ in range(max(2, KILLS // 4)):
            process = start(tmp_path, environment, words)
            checkpoint = tmp_path / f"{index_name}.backfill.json"
            kill_after(process, checkpoint, chance.randint(1, 10), chance.uniform(0, 0.05))
        report_of(tmp_path, environment, words)
    finally:
        writer.end()
    report_of(tmp_path, environment, words)
    found = stored(client, index_name)
    assert plain(found) == {**plain(documents), **writer.expected}
    assert len(writer.expected) > 10
    assert sources_of(found) == hashes_of(found)


def test_processes_share_an_index_in_slices(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Five processes at once on three shards: every product is coded once, by one of them."""
    create(client, index_name, shards=3)
    put(client, index_name, stale(300))
    parts = [command(node, index_name, "--slice", f"{number}/5") for number in range(5)]
    processes = [start(tmp_path, environment, words) for words in parts]
    reports = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert sum(report["read"] for report in reports) == sum(report["coded"] for report in reports) == 300
    assert sum(report["read"] > 0 for report in reports) > 3
    found = hits(client, index_name).values()
    assert {(hit["_version"], hit["_source"]["gram"]["model"]) for hit in found} == {(2, MANIFEST.generation)}


def test_follow_codes_what_is_written_past_the_sidecar_until_sigterm(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """New products, changed texts and marks are found within the interval; SIGTERM ends it with 0 and a report."""
    create(client, index_name)
    put(client, index_name, stale(30))
    process = start(tmp_path, environment, command(node, index_name, "--follow", "--interval", "0.2"))

    def wait_until_coded(name: str, title: str) -> None:
        def is_coded() -> bool:
            found = client.get(index=index_name, id=name)["_source"]
            return bool(found.get("gram", {}).get("source") == hash_of(title))

        wait_for(lambda: is_coded() or process.poll() is not None)

    try:
        wait_until_coded("p29", products(30)["p29"]["title"])
        put(client, index_name, {"new": {"title": "a new lamp"}})
        wait_until_coded("new", "a new lamp")
        client.update(index=index_name, id="p1", body={"doc": {"title": "another text"}})
        wait_until_coded("p1", "another text")
    finally:
        process.terminate()
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    report = json.loads(said)
    assert (report["read"], report["coded"], report["stopped"]) == (30, 32, True)
    assert report["index"] == {"products": 31, "coded": 31, "pending": 0}


def test_a_node_that_is_killed_and_comes_back_is_waited_for(
    environment: dict[str, str], data_folder: Path, tmp_path: Path
) -> None:
    """The backfill lives through kill -9 of the server: no product is left out or changed, and it ends well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = NodeSettings(data=data_folder, port=port, jvm_options=("-XX:TieredStopAtLevel=1",))
    with start_node(settings) as first, connect(first.url) as client:
        create(client, "killed")
        put(client, "killed", products(300))
        # Slow enough that it is in the middle when the server goes.
        process = subprocess.Popen(
            command(first, "killed", "--rate", "30"),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        checkpoint, nothing = tmp_path / "killed.backfill.json", '"coded": 0'
        wait_for(lambda: process.poll() is not None or (checkpoint.exists() and nothing not in checkpoint.read_text()))
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
    assert plain(found) == products(300)
    assert sources_of(found) == hashes_of(found)


def test_lost_points_in_time_leave_nothing_out(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """All points in time of the node are deleted again and again; every product is coded once all the same."""
    create(client, index_name)
    put(client, index_name, stale(400))
    process = start(tmp_path, environment, command(node, index_name))
    checkpoint, deleted, moment = tmp_path / f"{index_name}.backfill.json", 0, 0
    while process.poll() is None:
        found = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        if found != moment:
            moment = found
            answer = client.transport.perform_request("DELETE", "/_search/point_in_time/_all", params={"ignore": 404})
            deleted += len(answer.get("pits", []))
        time.sleep(0.1)
    said = process.communicate()[0]
    assert process.returncode == 0, (tmp_path / "said.log").read_text()
    report = json.loads(said)
    assert deleted > 1
    assert (report["read"], report["coded"], report["failed"]) == (400, 400, 0)
    assert report["index"] == {"products": 400, "coded": 400, "pending": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_its_page_and_it_goes_on_later(
    node: RunningNode,
    client: OpenSearch,
    index_name: str,
    environment: dict[str, str],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """With 130 and the words how to go on; the next run does the rest."""
    create(client, index_name)
    put(client, index_name, stale(60))
    checkpoint = tmp_path / f"{index_name}.backfill.json"
    process = start(tmp_path, environment, command(node, index_name, "--rate", "20"))
    wait_for(lambda: process.poll() is not None or (checkpoint.exists() and '"coded": 0' not in checkpoint.read_text()))
    process.send_signal(number)
    first = json.loads(process.communicate(timeout=60)[0])
    said = (tmp_path / "said.log").read_text()
    assert (process.returncode, "run the same command again" in said) == (130, True), said
    assert (first["stopped"], 0 < first["coded"] < 60) == (True, True)
    second = report_of(tmp_path, environment, command(node, index_name))
    assert (second["resumed"], second["read"], second["coded"]) == (True, 60, 60)


def test_a_checkpoint_of_other_arguments_is_refused(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """The error names what differs and what to do; nothing is written."""
    create(client, index_name)
    put(client, index_name, stale(60))
    process = start(tmp_path, environment, command(node, index_name, "--rate", "20"))
    assert kill_after(process, tmp_path / f"{index_name}.backfill.json", 2)
    before = stored(client, index_name)
    done = run(tmp_path, {**environment, "GRAM_MAX_CODES": "3"}, command(node, index_name), code=2)
    assert "max_codes was 24, is 3" in done.stderr
    assert stored(client, index_name) == before
