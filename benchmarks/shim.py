"""What the query shim costs: the same searches straight to OpenSearch and through it, side by side in one run.

    python benchmarks/shim.py [--url URL] [--products 20000] [--rounds 500] [--clients 1 4]

The model is a stand-in that answers at once, so the table shows the shim alone; the decoder has its own benchmark.
Every round asks one new text of every way in changing order, so that all meet the same caches and the same noise.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import logging
import multiprocessing
import random
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk
from rich.console import Console
from rich.table import Table

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, write_calibration
from gram_plugin.search.query import Mode
from gram_plugin.serve.program import run_program
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

INDEX = "gram-shim-benchmark"
WORDS = [f"word{number}" for number in range(2000)]
TYPES = [f"type{number}" for number in range(200)]
SEED = 7


@dataclass(frozen=True)
class StandIn:
    """A model that gives ten codes to every text, at once."""

    generation: str = "g1"

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As the protocol says."""
        return [[_code(zlib.crc32(text.encode()) + step, 0.9 / (step + 1)) for step in range(limit)] for text in texts]


def _code(number: int, probability: float) -> ScoredCode:
    return ScoredCode(Code.of([Attribute("type", TYPES[number % len(TYPES)])]), probability)


@dataclass(frozen=True)
class Way:
    """One way to ask: where, how, and whether the text was asked there before."""

    name: str
    url: str
    path: str
    searches: bool = True
    repeated: bool = False


@contextlib.contextmanager
def shim(upstream_url: str, mode: Mode) -> Iterator[str]:
    """A shim in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ShimSettings(upstream_url=upstream_url, port=port, mode=mode, budget_ms=1000)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(settings,), daemon=True)
    process.start()
    try:
        _await(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _serve(settings: ShimSettings) -> None:
    logging.basicConfig(level=logging.WARNING)
    run_program(create_shim(settings, StandIn()), settings, lambda _: None)


def _await(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as asked:
            asked.request("GET", "/-/ready")
            if asked.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise SystemExit("the shim did not get ready within 60 s")


@contextlib.contextmanager
def opensearch(url: str | None) -> Iterator[str]:
    """The OpenSearch at `url`, or one of our own."""
    if url:
        yield url
        return
    from gram_plugin.node.node import NodeSettings, start_node

    with start_node(NodeSettings()) as node:
        yield node.url


def fill(url: str, products: int) -> None:
    """Makes the index anew: ten words a product, one code."""
    with OpenSearch(url, timeout=120) as client:
        client.indices.delete(index=INDEX, ignore_unavailable=True)
        client.indices.create(index=INDEX, body={"settings": {"number_of_shards": 1, "number_of_replicas": 0}})
        apply_to_index(client, INDEX)
        write_calibration(client, INDEX, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
        bulk(client, _products(products), chunk_size=2000)
        client.indices.forcemerge(index=INDEX, max_num_segments=1)
        client.indices.refresh(index=INDEX)


def _products(count: int) -> Iterator[dict[str, object]]:
    chance = random.Random(SEED)
    for number in range(count):
        stored = _code(chance.randrange(len(TYPES)), 1.0).code.stored("g1")
        gram = {"codes": [stored], "weights": {stored: 0.9}, "model": "g1", "source": "0" * 32}
        title = " ".join(chance.choices(WORDS, k=10))
        yield {"_index": INDEX, "_id": str(number), "_source": {"title": title, "gram": gram}}


class Asker:
    """One client with a kept connection to each way."""

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = ways
        self._connections = {way.url: _connection(way.url) for way in ways}

    def round(self, text: str, turn: int) -> dict[str, float]:
        """Milliseconds of each way for one text; repeated ways last."""
        first = [way for way in self._ways if not way.repeated]
        rotated = first[turn % len(first) :] + first[: turn % len(first)]
        return {way.name: self._ask(way, text) for way in [*rotated, *(way for way in self._ways if way.repeated)]}

    def _ask(self, way: Way, text: str) -> float:
        body = json.dumps({"query": {"match": {"title": text}}, "_source": False}) if way.searches else None
        connection = self._connections[way.url]
        began = time.perf_counter()
        connection.request(
            "POST" if body else "GET", way.path, body, {"content-type": "application/json"} if body else {}
        )
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"{way.name}: status {response.status}")
        return (time.perf_counter() - began) * 1000


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)


def measure(ways: Sequence[Way], rounds: int, clients: int) -> dict[str, list[float]]:
    """Milliseconds by way, over all clients; the first tenth of the rounds warms up."""
    found: list[dict[str, float]] = []

    def work(client: int) -> None:
        chance, asker = random.Random(f"{SEED}-{clients}-{client}"), Asker(ways)
        warm = rounds // 10
        for turn in range(rounds + warm):
            times = asker.round(" ".join([*chance.choices(WORDS, k=2), f"new{clients}x{client}x{turn}"]), turn)
            if turn >= warm:
                found.append(times)

    _run_threads([lambda number=number: work(number) for number in range(clients)])
    return {way.name: [times[way.name] for times in found] for way in ways}


def _run_threads(jobs: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def report(console: Console, times: dict[str, list[float]], ways: Sequence[Way], clients: int) -> None:
    """One table: each way's median and p99, and their ratio to the direct one of its kind."""
    table = Table(title=f"{clients} client{'s' if clients > 1 else ''}, {len(times[ways[0].name])} requests each")
    for column in ("way", "p50 ms", "p99 ms", "p50 added ms", "p50 ratio", "p99 ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in ways:
        base = next(other for other in ways if other.searches is way.searches)
        (p50, p99), (base50, base99) = _percentiles(times[way.name]), _percentiles(times[base.name])
        numbers = (p50, p99, p50 - base50, p50 / base50, p99 / base99)
        table.add_row(way.name, *(f"{number:.2f}" for number in numbers))
    console.print(table)


def _percentiles(times: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98]


def main() -> None:
    """Runs all of it and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url")
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    console = Console(width=100)
    with opensearch(arguments.url) as direct:
        fill(direct, arguments.products)
        with shim(direct, Mode.OFF) as plain, shim(direct, Mode.RERANK) as ours:
            path = f"/{INDEX}/_search"
            ways = [
                Way("search, direct", direct, path),
                Way("search, off", plain, path),
                Way("search, applied", ours, path),
                Way("search, applied from cache", ours, path, repeated=True),
                Way("GET /, direct", direct, "/", searches=False),
                Way("GET /, relayed", plain, "/", searches=False),
            ]
            for clients in arguments.clients:
                report(console, measure(ways, arguments.rounds, clients), ways, clients)


if __name__ == "__main__":
    main()
