"""`_bulk` through the sidecar against `_bulk` straight to OpenSearch, and what codes cost the index.

    python benchmarks/ingest.py [BUNDLE] [--products 4000] [--bulk 500] [--url URL]

Every round sends one slice of the sample shop, with the same client and ready bodies: direct, direct with codes that
are ready, through the sidecar cold, and through the sidecar again (warm: the codes are remembered), each into an index
of its own. After a merge to one segment the stores tell the bytes of codes and weights for each product. Without a
bundle one of random weights is made, whose codes are of another number and length than a trained one's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opensearchpy import OpenSearch

from catalogues import bulk_body, place, shop_documents, slices
from figures import Table, show, show_place
from gram_plugin.progress import Progress
from gram_plugin.search.mappings import apply_to_index
from gram_plugin.serve.productcoder import ProductCoder

NAME = "gram-ingest-benchmark"
PLAIN, READY, COLD, WARM = "direct", "direct, codes ready", "sidecar, cold", "sidecar, warm"
WAYS = (PLAIN, READY, COLD, WARM)
LINE_S = 120.0


@dataclass
class Way:
    """One way to write, where it goes, and its seconds of each round."""

    name: str
    url: str
    index: str
    seconds: list[float] = field(default_factory=list)

    def send(self, body: bytes) -> None:
        """One bulk, timed; an item that failed ends the run."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        began = time.perf_counter()
        connection.request("POST", f"/{self.index}/_bulk", body, {"content-type": "application/x-ndjson"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        self.seconds.append(time.perf_counter() - began)
        connection.close()
        if response.status != 200 or answer["errors"]:
            raise SystemExit(f"{self.name}: {str(answer)[:500]}")


def main() -> None:
    """Reads the command line, starts what is not given, prints the tables."""
    chosen = _arguments()
    show_place()
    with place(chosen.url, chosen.bundle, small=chosen.small) as at:
        with sidecar(at.bundle, at.url, chosen.threads) as coded:
            urls = {PLAIN: at.url, READY: at.url, COLD: coded, WARM: coded}
            ways = {name: Way(name, urls[name], f"{NAME}-{number}") for number, name in enumerate(WAYS)}
            for name, way in ways.items():
                make_index(at.client, way.index, codes=name != PLAIN)
            bodies = rounds(at.bundle, chosen.products, chosen.bulk, chosen.threads)
            measure(ways, bodies, -(-chosen.products // chosen.bulk), at.progress)
        show(speeds(ways, chosen.products, chosen.bulk))
        show(growth(at.client, ways, at.progress))
        at.client.indices.delete(index=f"{NAME}-*")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--products", type=int, default=4000, help="how many products every way writes")
    parser.add_argument("--bulk", type=int, default=500, help="products in one bulk")
    parser.add_argument("--threads", type=int, default=2, help="cores of the sidecar's model")
    parser.add_argument("--url", help="an OpenSearch; without it one is started. Indices of this name are made anew")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that all of it runs")
    return parser.parse_args()


@contextmanager
def sidecar(bundle: Path, upstream: str, threads: int) -> Iterator[str]:
    """A `gram sidecar` in a process of its own; ready when the block begins."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    numbers = {"PORT": port, "THREADS": threads, "CODING_TIMEOUT_S": 3600}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    environ |= {f"GRAM_{name}": str(value) for name, value in numbers.items()}
    environ |= {"GRAM_UPSTREAM_URL": upstream, "GRAM_BUNDLE": str(bundle)}
    words = [sys.executable, "-m", "gram_plugin.cli", "sidecar"]
    process = subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + LINE_S
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with suppress(OSError):
            connection.request("GET", "/-/ready")
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.05)
    raise SystemExit("the sidecar did not get ready")


def make_index(client: OpenSearch, index: str, *, codes: bool) -> None:
    """One shard, no replica, dynamic text fields as a shop has them; made anew."""
    client.indices.delete(index=index, ignore_unavailable=True)
    settings = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"}
    client.indices.create(index=index, body={"settings": settings})
    if codes:
        apply_to_index(client, index)


def rounds(bundle: Path, products: int, bulk: int, threads: int) -> Iterator[Mapping[str, bytes]]:
    """For each slice the body that each way sends."""
    with ProductCoder.open(bundle, threads=threads) as coder:
        for documents in slices(shop_documents(products), bulk):
            plain = bulk_body(documents)
            yield {PLAIN: plain, READY: bulk_body(documents, coder.gram_of(documents)), COLD: plain, WARM: plain}


def measure(ways: Mapping[str, Way], bodies: Iterator[Mapping[str, bytes]], number: int, progress: Progress) -> None:
    """Round after round; who goes first changes, but what is warm comes after what is cold."""
    orders = ([PLAIN, READY, COLD, WARM], [COLD, WARM, PLAIN, READY], [READY, COLD, PLAIN, WARM])
    for turn, body in enumerate(bodies):
        for name in orders[turn % len(orders)]:
            ways[name].send(body[name])
        progress("ingest", turn + 1, number)


def speeds(ways: Mapping[str, Way], products: int, bulk: int) -> Table:
    """Products in a second by way; medians of the rounds, the first left out where there are more."""
    columns = ("way", "products/s", "ms a bulk, p50", "to direct")
    table = Table(f"{products:,} products in bulks of {bulk}, one client", columns)
    base = _after_first(ways[PLAIN])
    for way in ways.values():
        spent = _after_first(way)
        ratio = statistics.median(theirs / ours for ours, theirs in zip(spent, base, strict=True))
        table.add(way.name, bulk / statistics.median(spent), 1000 * statistics.median(spent), ratio)
    return table


def _after_first(way: Way) -> Sequence[float]:
    """The first bulk makes the mapping, and wakes whatever sleeps."""
    return way.seconds[1:] or way.seconds


def growth(client: OpenSearch, ways: Mapping[str, Way], progress: Progress) -> Table:
    """Bytes of the store, merged to one segment, with and without codes; what the sidecar wrote is looked at."""
    table = Table(
        "store after a merge to one segment", ("index", "products", "MB", "bytes a product", "codes a product")
    )
    base = 0.0
    for done, name in enumerate((PLAIN, COLD)):
        found = _store(client, ways[name].index)
        codes = _codes(client, ways[name].index) if name != PLAIN else 0.0
        table.add(name, f"{found.products:,}", found.size / 1e6, found.size / found.products, codes)
        base = base or found.size / found.products
        progress("merge", done + 1, 2)
    table.add("codes and weights", "", "", found.size / found.products - base, "")
    return table


@dataclass(frozen=True)
class _Store:
    products: int
    size: int


def _store(client: OpenSearch, index: str) -> _Store:
    client.indices.forcemerge(index=index, max_num_segments=1)
    client.indices.flush(index=index)
    client.indices.refresh(index=index)
    found: Any = client.indices.stats(index=index, metric="store,docs")["_all"]["primaries"]
    return _Store(found["docs"]["count"], found["store"]["size_in_bytes"])


def _codes(client: OpenSearch, index: str) -> float:
    """Mean number of codes of a product."""
    body = {"size": 0, "aggs": {"codes": {"value_count": {"field": "gram.codes"}}}}
    found: Any = client.search(index=index, body=body)
    return float(found["aggregations"]["codes"]["value"] / found["hits"]["total"]["value"])


if __name__ == "__main__":
    main()
