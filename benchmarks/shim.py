"""What the query shim costs: the same searches straight to OpenSearch and through it, side by side in one run.

    python benchmarks/shim.py [--products 1000000 --data FOLDER] [--bundle BUNDLE] [--clients 1 4 16]

The index is the sample shop, the texts are its shoppers' queries, each with a new word behind it, so that no cache
knows it. A stand-in that answers at once shows the shim alone; a real decoder (the bundle's, else one of random
weights) shows what a new query costs in all. Every round asks one text of every way in changing order, so that all
meet the same caches and the same noise. Clients, shims and OpenSearch share one machine's cores: with more clients
than cores everything waits for everything, and what the shim computes is missing to OpenSearch.
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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from bundles import make_bundle
from figures import Spread, Table, show, show_place
from gram_plugin.contract.bundle import read_manifest
from gram_plugin.contract.codes import MAX_CODES, Generator, Role, ScoredCode
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.node.node import NodeSettings, start_node
from gram_plugin.progress import reporting
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.program import run_program
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim
from shopindex import CALIBRATED_POINTS, fill, forms, query_codes

SEED = 7
BUDGET_MS = 5000.0
"""No search is to be degraded here: what is measured is the whole cost, not how well a budget hides it."""
LETTERS = "bcdfghjklmnpqrstvwxz"
RELAYED_GOAL_MS = 1.0
LARGE, LARGE_HEAP = 100_000, "2g"
"""From so many products on OpenSearch is given more memory, and every table more time."""


@dataclass(frozen=True)
class StandIn:
    """A model that knows every text's codes and answers at once; the last word of a text is nothing to it."""

    codes: Mapping[str, list[ScoredCode]]
    generation: str

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As the protocol says."""
        return [self.codes_of(text)[:limit] for text in texts]

    def codes_of(self, text: str) -> list[ScoredCode]:
        """Of a rendered text; none for one that no shopper asked, such as the shim's own at its start."""
        return self.codes.get(text.rpartition(" ")[0], [])


@dataclass(frozen=True)
class Way:
    """One way to ask: where, how, what of its answers is expected, and whether the text was asked there before.

    `enriched`: the search brings the clause along that the shim would have added.
    """

    name: str
    url: str
    goal: str = ""
    searches: bool = True
    repeated: bool = False
    enriched: bool = False
    status: str = ""


@dataclass(frozen=True)
class Load:
    """How much is asked: of each way `rounds` texts in all by so many clients, for at most so many seconds."""

    clients: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Search:
    """What is searched: the path, the form of the query with `{text}`, the texts, and what the shim would add.

    `max_codes` is the shim's.
    """

    path: str
    form: str
    texts: Sequence[str]
    stand_in: StandIn
    mode: Mode
    max_codes: int

    def body(self, text: str) -> dict[str, Any]:
        """The search as a client sends it."""
        found: dict[str, Any] = json.loads(self.form.replace("{text}", json.dumps(text)[1:-1]))
        return found

    def enriched(self, text: str) -> dict[str, Any]:
        """The search as the shim sends it."""
        settings = ClauseSettings(
            strength=CALIBRATED_POINTS, max_codes=self.max_codes, window=ShimSettings.rerank_window
        )
        codes = self.stand_in.codes_of(render_query(text))
        return enrich(self.body(text), codes, self.stand_in.generation, settings, self.mode, text=text)


def main() -> None:
    """Runs all of it and prints the tables."""
    chosen = _arguments()
    show_place()
    with contextlib.ExitStack() as opened:
        progress = opened.enter_context(reporting(Console(stderr=True)))
        room = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        bundle = chosen.bundle or make_bundle(room / "random-weights")
        generation = read_manifest(bundle).generation
        direct = opened.enter_context(opensearch(chosen.url, chosen.data, chosen.products))
        index = fill(direct, chosen.products, generation, progress)
        codes = query_codes()
        stand_in = StandIn({render_query(text): own for text, own in codes.items()}, generation)
        settings = ShimSettings(upstream_url=direct, mode=chosen.mode, budget_ms=BUDGET_MS, max_codes=chosen.max_codes)
        plain = opened.enter_context(shim(replace(settings, mode=Mode.OFF), None))
        quick = opened.enter_context(shim(settings, stand_in))
        whole = opened.enter_context(shim(settings, bundle))
        ways = _ways(direct, plain, quick, whole)
        is_large = chosen.products >= LARGE
        for name in chosen.forms:
            body = json.dumps({"query": forms()[name], "_source": ["title", "brand", "price_eur"]})
            search = Search(f"/{index}/_search", body, list(codes), stand_in, chosen.mode, chosen.max_codes)
            for clients in chosen.clients:
                stage = f"{chosen.products:,} products, form {name}, {clients} client{'s' if clients > 1 else ''}"
                load = Load(clients, chosen.rounds, chosen.seconds or (180 if is_large else 60))
                show(table(measure(ways, search, load, partial(progress, stage)), ways, stage))


def _ways(direct: str, plain: str, quick: str, whole: str) -> list[Way]:
    """The first of each kind is what the others are compared with.

    Args:
        direct: URL of OpenSearch.
        plain: of a shim that is off.
        quick: of a shim with the stand-in.
        whole: of a shim with a decoder.
    """
    return [
        Way("search, direct", direct),
        Way("search with its clause, direct", direct, enriched=True),
        Way("search, off", plain, status="off"),
        Way("search, applied, stand-in", quick, status="applied"),
        Way("search, applied, decoder", whole, "1.1, 1.3", status="applied"),
        Way("search, applied, from cache", quick, "1.05", repeated=True, status="applied"),
        Way("GET /, direct", direct, searches=False),
        Way("GET /, relayed", plain, f"+{RELAYED_GOAL_MS:g} ms", searches=False),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="an OpenSearch; without it one of our own is started")
    parser.add_argument("--products", type=int, default=20_000, help="size of the index")
    parser.add_argument("--data", type=Path, help="folder that keeps the data of our own OpenSearch for the next run")
    parser.add_argument("--bundle", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument(
        "--mode", type=Mode, default=Mode.RERANK, choices=[Mode.RERANK, Mode.RECALL], help="of the shim"
    )
    parser.add_argument("--max-codes", type=int, default=MAX_CODES, help="most codes in a clause, as GRAM_MAX_CODES")
    parser.add_argument("--forms", nargs="+", default=["title", "shop"], choices=["title", "shop"], help="of the query")
    parser.add_argument("--rounds", type=int, default=600, help="texts asked of every way, all clients together")
    parser.add_argument("--seconds", type=float, help="longest time for each table; 60, from 100,000 products on 180")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    return parser.parse_args()


@contextlib.contextmanager
def opensearch(url: str | None, data: Path | None, products: int) -> Iterator[str]:
    """The OpenSearch at `url`, or one of our own."""
    if url:
        yield url
        return
    settings = NodeSettings(data=data, heap=LARGE_HEAP) if products >= LARGE else NodeSettings(data=data)
    with start_node(settings) as node:
        yield node.url


@contextlib.contextmanager
def shim(settings: ShimSettings, model: StandIn | Path | None) -> Iterator[str]:
    """A shim in a process of its own, on a free port, ready to be asked."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = replace(settings, port=port)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(settings, model), daemon=True)
    process.start()
    try:
        await_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _serve(settings: ShimSettings, model: StandIn | Path | None) -> None:
    logging.basicConfig(level=logging.WARNING)
    generator: Generator | None = OnnxGenerator.open(model) if isinstance(model, Path) else model
    run_program(create_shim(settings, generator), settings, lambda _: None)


def await_ready(url: str, most_s: float = 120.0) -> None:
    """Returns once a program says that it is ready."""
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), contextlib.closing(_connection(url)) as asked:
            asked.request("GET", "/-/ready")
            if asked.getresponse().status == 200:
                return
        time.sleep(0.01)
    raise SystemExit(f"{url} did not get ready within {most_s:g} s")


class Asker:
    """One client with a kept connection to each way."""

    def __init__(self, ways: Sequence[Way], search: Search) -> None:
        self._ways, self._search = ways, search
        self._connections = {way.url: _connection(way.url) for way in ways}

    def round(self, text: str, turn: int) -> dict[str, float]:
        """Milliseconds of each way for one text; repeated ways last."""
        first = [way for way in self._ways if not way.repeated]
        rotated = first[turn % len(first) :] + first[: turn % len(first)]
        return {way.name: self._ask(way, text) for way in [*rotated, *(way for way in self._ways if way.repeated)]}

    def _ask(self, way: Way, text: str) -> float:
        found = self._search.enriched(text) if way.enriched else self._search.body(text)
        body = json.dumps(found)
        connection = self._connections[way.url]
        began = time.perf_counter()
        if way.searches:
            connection.request("POST", self._search.path, body, {"content-type": "application/json"})
        else:
            connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        spent = (time.perf_counter() - began) * 1000
        _check(way, response)
        return spent


def _check(way: Way, response: http.client.HTTPResponse) -> None:
    """A search that was degraded would be quick for nothing: the run ends."""
    found = response.getheader("x-gram-status") or ""
    if response.status != 200 or not found.startswith(way.status):
        raise SystemExit(f"{way.name}: status {response.status}, x-gram-status {found!r}")


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)


def measure(
    ways: Sequence[Way], search: Search, load: Load, told: Callable[[int, int], None]
) -> dict[str, list[float]]:
    """Milliseconds by way, over all clients; the first tenth of the rounds warms up."""
    found: list[dict[str, float]] = []
    failed: list[BaseException] = []
    rounds, until = max(1, load.rounds // load.clients), time.monotonic() + load.seconds
    warm = max(1, rounds // 10)

    def work(client: int) -> None:
        # Of every form other texts: the shims keep what they decoded.
        chance = random.Random(f"{SEED}-{search.form}-{load.clients}-{client}")
        asker = Asker(ways, search)
        for turn in range(rounds + warm):
            if failed or (time.monotonic() > until and turn > 2 * warm):
                return
            times = asker.round(f"{chance.choice(search.texts)} {new_word(chance)}", turn)
            if turn >= warm:
                found.append(times)
                told(len(found), rounds * load.clients)

    def guarded(client: int) -> None:
        try:
            work(client)
        except BaseException as error:  # noqa: BLE001 - told below, by the thread that can end the program
            failed.append(error)

    _run_threads([lambda number=number: guarded(number) for number in range(load.clients)])
    if failed:
        raise failed[0]
    told(rounds * load.clients, rounds * load.clients)
    return {way.name: [times[way.name] for times in found] for way in ways}


def new_word(chance: random.Random) -> str:
    """Letters alone: digits would make it a model number, which the shim treats with care."""
    return "".join(chance.choices(LETTERS, k=10))


def _run_threads(jobs: Sequence[Callable[[], Any]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def table(times: dict[str, list[float]], ways: Sequence[Way], title: str) -> Table:
    """Each way's median and p99, and their ratio to the direct one of its kind."""
    columns = ("way", "p50 ms", "p99 ms", "added at p50, ms", "p50 ratio", "p99 ratio", "goal")
    found = Table(f"{title}, {len(times[ways[0].name]):,} requests each", columns)
    for way in ways:
        base = next(other for other in ways if other.searches is way.searches)
        own, first = Spread.of(times[way.name]), Spread.of(times[base.name])
        found.add(way.name, own.p50, own.p99, own.p50 - first.p50, own.p50 / first.p50, own.p99 / first.p99, way.goal)
    return found


if __name__ == "__main__":
    main()
