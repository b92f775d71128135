"""Sidecar and backfill killed with -9 at random moments before a cluster of three whose servers are killed too.

`make soak` does it a hundred times each; the figures are in docs/ingest.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import scan

from backfills import (
    BUNDLE,
    GRAM,
    GRAM_FIELDS,
    OLD,
    SEED,
    command,
    hash_of,
    kill_after,
    plain,
    plain_environment,
    products,
    put,
    report_of,
    start,
)
from cluster import Cluster, running_cluster
from gram_plugin.search.client import connect
from writers import Book, Writer, replay

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
"""Of each program; `make soak` sets a larger number."""
SERVER_EVERY = max(4, KILLS // 10)
"""So many kills of a program come with one of a server."""
WRITERS = 2
PENDING = "pending"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three servers."""
    with running_cluster() as found:
        yield found


@pytest.fixture
def client(cluster: Cluster) -> Iterator[OpenSearch]:
    """A client that knows all three."""
    with connect(cluster.urls[0]) as found:
        yield found


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return plain_environment()


@dataclass
class Sidecar:
    """A `gram sidecar` that always listens at the same port."""

    upstream: str
    log: Path
    environment: Mapping[str, str]
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens while it runs."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            self.port = listener.getsockname()[1]
        said = self.log.stat().st_size if self.log.exists() else 0
        words = [*GRAM, "sidecar", "--url", self.upstream, "--port", str(self.port), "--bundle", str(BUNDLE)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(words, env=dict(self.environment), stdout=log, stderr=log)
        limit = time.monotonic() + 120
        while not re.search(rb"listening on http", self.log.read_bytes()[said:]):
            assert time.monotonic() < limit and self._process.poll() is None, self.log.read_text(encoding="utf-8")
            time.sleep(0.01)

    def kill(self) -> None:
        """Ends it with -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@dataclass
class Killer:
    """Kills servers of the cluster by chance, one at a time, and starts each again at once."""

    cluster: Cluster
    chance: random.Random
    killed: Counter[int] = field(default_factory=Counter)
    done: int = 0

    def count(self) -> None:
        """Every few kills of a program a server dies too; before it all have to be whole again, or data is lost."""
        self.done += 1
        if self.done % SERVER_EVERY == SERVER_EVERY // 2:
            self.cluster.settle()
            number = self.chance.randrange(len(self.cluster.urls))
            self.cluster.kill(number)
            self.killed[number] += 1
            self.cluster.start(number)


def create(client: OpenSearch, index: str) -> None:
    """An index with the gram fields, whose shards have a copy on another server."""
    properties = {"title": {"type": "text"}, "price": {"type": "double"}, **GRAM_FIELDS}
    settings = {"number_of_shards": 3, "number_of_replicas": 1}
    client.indices.create(index=index, body={"mappings": {"properties": properties}, "settings": settings})
    client.cluster.health(index=index, wait_for_status="green", timeout=120)


def stored(client: OpenSearch, index: str) -> dict[str, Any]:
    """Every document of an index by id; of `gram` without the time, weights in one object."""
    client.indices.refresh(index=index)
    found = {hit["_id"]: hit["_source"] for hit in scan(client, index=index, size=2000)}
    for document in found.values():
        if gram := document.get("gram"):
            gram.pop("at", None)
            weights = gram.get("weights")
            gram["weights"] = weights[0] if isinstance(weights, list) and weights else weights or {}
    return found


def digest(documents: Mapping[str, Any]) -> str:
    """One hash over id, text and codes of all products."""
    return hashlib.sha256(json.dumps(sorted(documents.items()), sort_keys=True).encode()).hexdigest()


def has_codes(document: Mapping[str, Any]) -> bool:
    """Whether it was coded, and from the text that it has now."""
    gram = document.get("gram") or {"model": PENDING}
    if gram["model"] == PENDING:
        return False
    assert gram["source"] == hash_of(document["title"]), document
    return True


def test_no_product_is_lost_or_has_stale_codes_when_the_sidecar_is_killed(
    cluster: Cluster, client: OpenSearch, environment: dict[str, str], tmp_path: Path
) -> None:
    """Writers that insist lose nothing; after a backfill the index is that of an undisturbed run, and stays so."""
    killed, undisturbed = "killed", "undisturbed"
    for name in (killed, undisturbed):
        create(client, name)
    chance = random.Random(SEED)
    killer, sidecar = Killer(cluster, chance), Sidecar(cluster.urls[0], tmp_path / "sidecar.log", environment)
    sidecar.start()
    writers = [Writer(number, sidecar.url, killed) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(KILLS):
            until_written(writers, chance.randint(1, 3))
            time.sleep(chance.uniform(0, 0.3))  # reading, coding, waiting for OpenSearch, marking: whatever it does
            sidecar.kill()
            killer.count()
            sidecar.start()
        until_written(writers, 3)
    finally:
        with contextlib.ExitStack() as ends:
            ends.callback(sidecar.kill)
            for writer in writers:
                ends.callback(writer.end)
    cluster.settle()
    book = joined(writers)
    found = stored(client, killed)
    coded = {name for name, document in found.items() if has_codes(document)}
    waiting = found.keys() - coded
    assert plain(found) == book.products
    assert len(coded) + len(waiting) + len(book.refused) == len(book.received)
    assert coded and waiting and book.refused and book.happened["no answer"] >= KILLS // 2
    report_of(tmp_path, environment, command(cluster.node, killed, "--bulk", "500"))
    ended = digest(stored(client, killed))

    sent = {number: writer.sent for number, writer in enumerate(writers)}
    sidecar.start()
    try:
        for _ in range(2):  # the same input twice gives the same index
            calm = replay(sidecar.url, undisturbed, sent)
            assert (calm.products, calm.refused) == (book.products, book.refused)
            report_of(tmp_path, environment, command(cluster.node, undisturbed, "--bulk", "500"))
            assert digest(stored(client, undisturbed)) == ended
    finally:
        sidecar.kill()
    say("sidecar", kills=KILLS, servers=sum(killer.killed.values()), received=len(book.received))
    say("sidecar", indexed=len(coded), pending=len(waiting), refused=len(book.refused), **book.happened)


def test_the_index_ends_as_if_undisturbed_when_the_backfill_is_killed(
    cluster: Cluster, client: OpenSearch, environment: dict[str, str], tmp_path: Path
) -> None:
    """After each kill -9, of it or of a server, the same command goes on; a further run finds nothing to do."""
    chance, documents = random.Random(SEED + 1), stale(60 * KILLS)
    for name in ("backfilled", "calm"):
        create(client, name)
        put(client, name, documents)
    killer = Killer(cluster, chance)
    words, checkpoint, kills = command(cluster.node, "backfilled"), tmp_path / "backfilled.backfill.json", 0
    while kills < KILLS:
        process = start(tmp_path, environment, words)  # and waits where the server that it is to begin with is away
        is_killed = kill_after(process, checkpoint, chance.randint(1, 6), chance.uniform(0, 0.05))
        assert is_killed, "the runs were too short to be killed: more products are needed"
        kills += 1
        killer.count()
    cluster.settle()
    report = report_of(tmp_path, environment, words)
    assert (report["resumed"], report["failed"], report["pending"]) == (True, 0, 0)
    found = stored(client, "backfilled")
    assert (plain(found), all(map(has_codes, found.values()))) == (plain(documents), True)
    report_of(tmp_path, environment, command(cluster.node, "calm"))
    assert digest(stored(client, "calm")) == digest(found)
    again = report_of(tmp_path, environment, words)
    assert (again["read"], again["fresh"], again["coded"]) == (len(documents), len(documents), 0)
    assert digest(stored(client, "backfilled")) == digest(found)
    say("backfill", kills=kills, servers=sum(killer.killed.values()), products=len(found))


def stale(number: int) -> dict[str, dict[str, Any]]:
    """Products by id: some without codes, some with those of an earlier model, some that wait for codes."""
    grams: list[dict[str, Any]] = [{}, {"gram": OLD}, {"gram": {"codes": [], "model": PENDING, "at": 0}}]
    return {name: {**found, **grams[at % 3]} for at, (name, found) in enumerate(products(number).items())}


def joined(writers: list[Writer]) -> Book:
    """What all writers were told."""
    book = Book()
    for writer in writers:
        book.products |= writer.book.products
        book.refused |= writer.book.refused
        book.happened += writer.book.happened
    return book


def until_written(writers: list[Writer], chunks: int) -> None:
    """Returns once each writer has had so many more chunks answered."""
    wanted, limit = [writer.sent + chunks for writer in writers], time.monotonic() + 300
    while any(writer.sent < number for writer, number in zip(writers, wanted, strict=True)):
        assert time.monotonic() < limit, "nothing is taken any more"
        assert all(writer.is_alive() for writer in writers), [writer.error for writer in writers]
        time.sleep(0.005)


def say(what: str, **figures: Any) -> None:
    """Prints figures; pytest shows them with -s."""
    print(f"\n{what}: {', '.join(f'{name} {number}' for name, number in figures.items())}", flush=True)
