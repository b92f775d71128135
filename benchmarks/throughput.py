"""Texts a second with many callers, seconds to ready, memory: `python benchmarks/throughput.py [BUNDLE]`.

The batcher is the shim's, with its settings; MiniLM-L6 stands behind the same batcher and is asked in turn with the
decoder. Start-up and memory are those of `gram shim` in a process of its own before an OpenSearch with a small shop,
every search a text that no cache knows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from bundles import make_bundle, shop_queries
from figures import Spread, Table, resident_bytes, show, show_place
from gram_plugin.contract.bundle import read_manifest
from gram_plugin.contract.codes import Generator, Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.progress import Progress, reporting
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.settings import ShimSettings
from minilm import MiniLM, export_encoder
from shim import await_ready, new_word, opensearch
from shopindex import fill

SEARCHERS = 4
STEPS = 4
WARM = 20
TURNS = 4
"""Decoder and rival take turns so many times at each number of callers."""
BUDGET_MS = "5000"


def main() -> None:
    """Reads the command line, prints the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--url", help="an OpenSearch; without it one of our own is started")
    parser.add_argument("--products", type=int, default=2000, help="size of the shop that is searched")
    parser.add_argument("--encoder", type=Path, help="checkpoint folder of the rival")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--texts", type=int, default=1000, help="texts at each number of callers")
    parser.add_argument("--starts", type=int, default=5, help="how often the shim is started")
    parser.add_argument("--searches", type=int, default=10_000, help="searches between two looks at the memory")
    parser.add_argument("--seconds", type=float, default=240.0, help="longest time for those searches")
    chosen = parser.parse_args()
    show_place()
    with contextlib.ExitStack() as opened:
        room = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        progress = opened.enter_context(reporting(Console(stderr=True)))
        bundle = chosen.bundle or make_bundle(room / "random-weights")
        rival = export_encoder(chosen.encoder, room / "minilm")
        show(batching(bundle, rival, chosen.callers, chosen.texts, progress))
        url = opened.enter_context(opensearch(chosen.url, None, chosen.products))
        show(starting(bundle, url, chosen.starts, progress))
        index = fill(url, chosen.products, read_manifest(bundle).generation, progress)
        show(memory(bundle, url, index, chosen.searches, chosen.seconds, progress))


def batching(bundle: Path, rival: Path | None, callers: Sequence[int], texts: int, progress: Progress) -> Table:
    """Texts a second behind the shim's batcher, one thread."""
    models: dict[str, Generator] = {"decoder": OnnxGenerator.open(bundle, threads=1)}
    if rival:
        models["MiniLM-L6"] = MiniLM.open(rival, threads=1)
    columns = ("callers", "", "texts a second", "p50 ms", "p99 ms", "texts a second, to MiniLM-L6")
    table = Table(f"batcher of the shim, one thread, {texts:,} texts", columns)
    queries = [render_query(text) for text in shop_queries()]
    for count in callers:
        found = {name: _Turn([], 0.0) for name in models}
        for turn in range(TURNS):
            asked = [queries[(turn * texts // TURNS + n) % len(queries)] for n in range(max(count, texts // TURNS))]
            for name, model in models.items():
                found[name] = found[name].with_more(asyncio.run(_ask_all(model, asked, count)))
            progress(f"{count} caller{'s' if count > 1 else ''}", turn + 1, TURNS)
        base = found["MiniLM-L6"].per_second if rival else 0.0
        for name, own in found.items():
            spread = Spread.of(own.times_ms)
            ratio = own.per_second / base if base else ""
            table.add(str(count), name, f"{own.per_second:,.0f}", spread.p50, spread.p99, ratio)
    return table


@dataclass(frozen=True)
class _Turn:
    """What callers waited, in milliseconds each, and how long all of it took."""

    times_ms: list[float]
    seconds: float

    @property
    def per_second(self) -> float:
        """Texts that were answered in a second."""
        return len(self.times_ms) / self.seconds

    def with_more(self, other: _Turn) -> _Turn:
        """Both together."""
        return _Turn([*self.times_ms, *other.times_ms], self.seconds + other.seconds)


async def _ask_all(model: Generator, texts: Sequence[str], callers: int) -> _Turn:
    settings = ShimSettings(upstream_url="http://127.0.0.1:9200")
    batcher = Batcher(
        model,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_ms,
        max_queue=settings.max_queue,
        limit=settings.max_codes,
        newest_first=True,
    )
    await batcher.start()
    times: list[float] = []
    waiting = iter(texts)

    async def call() -> None:
        for text in waiting:
            start = time.perf_counter()
            await batcher.codes(text, Role.QUERY)
            times.append(1000 * (time.perf_counter() - start))

    for text in texts[:WARM]:
        await batcher.codes(text, Role.QUERY)
    start = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    spent = time.perf_counter() - start
    await batcher.stop()
    return _Turn(times, spent)


@dataclass(frozen=True)
class Running:
    """A `gram shim` in a process of its own."""

    url: str
    pid: int
    ready_s: float


@contextlib.contextmanager
def gram_shim(upstream: str, bundle: Path | None) -> Iterator[Running]:
    """Runs until the end; `ready_s` counts from before the process is made."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    environment["GRAM_BUDGET_MS"] = BUDGET_MS
    options = ["--url", upstream, "--port", str(port), *(("--bundle", str(bundle)) if bundle else ())]
    command = [sys.executable, "-m", "gram_plugin.cli", "shim", *options]
    url, start = f"http://127.0.0.1:{port}", time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_ready(url)
        yield Running(url, child.pid, time.perf_counter() - start)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def starting(bundle: Path, upstream: str, starts: int, progress: Progress) -> Table:
    """Seconds from the command to an answer of `/-/ready`."""
    size = sum(path.stat().st_size for path in bundle.iterdir()) / 1e6
    table = Table(
        f"`gram shim` from its start to ready, {starts} start{'s' if starts > 1 else ''}",
        ("", "least s", "median s", "most s"),
    )
    for name, own in (("without a bundle", None), (f"with a bundle of {size:,.0f} MB", bundle)):
        seconds = []
        for done in range(starts):
            with gram_shim(upstream, own) as shim:
                seconds.append(shim.ready_s)
            progress(f"start {name}", done + 1, starts)
        table.add(name, min(seconds), Spread.of(seconds).p50, max(seconds))
    return table


def memory(bundle: Path, upstream: str, index: str, searches: int, most_s: float, progress: Progress) -> Table:
    """Resident memory of `gram shim` when it is ready, while and after it answers searches."""
    table = Table("resident memory of `gram shim`", ("searches answered", "MB", "since ready, MB", "a second"))
    with gram_shim(upstream, bundle) as shim:
        first = resident_bytes(shim.pid)
        table.add("0", first / 1e6, 0.0, "")
        start = time.monotonic()
        for done in _search(shim.url, index, searches, start + most_s, partial(progress, "searches")):
            now = resident_bytes(shim.pid)
            table.add(f"{done:,}", now / 1e6, (now - first) / 1e6, f"{done / (time.monotonic() - start):,.0f}")
        peak = _peak_bytes(shim.pid)
        table.add("at most, at any time", peak / 1e6, (peak - first) / 1e6, "")
    return table


def _search(url: str, index: str, searches: int, until: float, told: Callable[[int, int], None]) -> Iterator[int]:
    """Asks in four steps, gives how many were answered after each; ends early when the time is over."""
    each, done = max(1, searches // STEPS // SEARCHERS), 0
    with ThreadPoolExecutor(SEARCHERS) as pool:
        for step in range(STEPS):
            seeds = [f"{step}-{number}" for number in range(SEARCHERS)]
            done += sum(pool.map(lambda seed: _answered(url, index, seed, each, until), seeds))
            told(done, STEPS * SEARCHERS * each)
            yield done
            if time.monotonic() > until:
                return


def _answered(url: str, index: str, seed: str, searches: int, until: float) -> int:
    """How many searches one client had answered, each with codes, by the end of its count or of the time."""
    chance, queries, parts = random.Random(seed), shop_queries(), urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    with contextlib.closing(connection):
        for done in range(searches):
            if time.monotonic() > until:
                return done
            body = {"query": {"match": {"title": f"{chance.choice(queries)} {new_word(chance)}"}}}
            connection.request("POST", f"/{index}/_search", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.getheader("x-gram-status") != "applied":
                raise SystemExit(f"a search was not enriched: x-gram-status {response.getheader('x-gram-status')!r}")
    return searches


def _peak_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", text)[0])


if __name__ == "__main__":
    main()
