"""Decode time and memory as the codebook grows: `python benchmarks/codes.py [BUNDLE] [--codes 10000 250000 2500000]`.

Every size is in a process of its own: the same graphs and attributes, those of the bundle or of one of random weights
(1,051 attributes), and more random combinations of them; the linear arm is random too. All processes live at one time
and are asked in turn, query by query, so that noise meets all. What grows is told part by part: memory in processes
that open one part after another, time with every part watched.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from bundles import LINEAR_SHARE, make_bundle, random_linear, shop_queries
from figures import Spread, Table, resident_bytes, show, show_place
from gram_plugin.contract.bundle import CODEBOOK, LINEAR, MANIFEST, read_manifest, write_bundle
from gram_plugin.contract.codebook import read_codebook
from gram_plugin.contract.codes import Attribute, Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.finder import CodeFinder
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.linear import LinearArm
from gram_plugin.decode.trie import Columns, trie_of
from gram_plugin.progress import Progress, reporting
from parts import DECODER, WHOLE, WRITTEN, Clock, watched

LATER_TYPES = 3
"""A random code is an attribute of the first type, then perhaps one of each of so many others."""
LATER_CHANCE = 0.7
WARM = 10
Item = TypeVar("Item")
WHOLE_PART = "all of the bundle, as it serves"


@dataclass(frozen=True)
class Opened:
    """What opening one part cost: seconds, and bytes that stay in memory."""

    part: str
    seconds: float
    grown_bytes: int


def main() -> None:
    """Reads the command line, makes the bundles, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="whose graphs and attributes are taken")
    parser.add_argument("--codes", type=int, nargs="+", default=[10_000, 250_000, 2_500_000], help="sizes, least first")
    parser.add_argument("--queries", type=int, default=200, help="queries timed at every size")
    parser.add_argument("--seconds", type=float, default=120.0, help="longest time for the queries")
    chosen = parser.parse_args()
    show_place()
    with tempfile.TemporaryDirectory() as name, reporting(Console(stderr=True)) as progress:
        bundles = _bundles(Path(name), chosen.bundle, chosen.codes, progress)
        parts = [_alone(weigh, bundle) for bundle in _told(bundles, "opening part by part", progress)]
        asked = [render_query(text) for text in shop_queries()[: chosen.queries + WARM]]
        with ExitStack() as served:
            processes = [served.enter_context(_serving(bundle)) for bundle in bundles]
            whole = [process.recv() for process in _told(processes, "opening for serving", progress)]
            times = _asked_in_turn(processes, asked, chosen.seconds, progress)
            for process in processes:
                process.send(None)
            clocks = [process.recv() for process in processes]
    opened = [[*own, all_] for own, all_ in zip(parts, whole, strict=True)]
    for table in (
        _times(chosen.codes, times),
        _parts(chosen.codes, clocks),
        _grown(chosen.codes, opened),
        _seconds(chosen.codes, opened),
    ):
        show(table)


def _told(items: Sequence[Item], stage: str, progress: Progress) -> Iterator[Item]:
    """The items, each told of before it is worked on."""
    for done, item in enumerate(items):
        progress(stage, done, len(items))
        yield item
    progress(stage, len(items), len(items))


def _bundles(room: Path, base: Path | None, sizes: Sequence[int], progress: Progress) -> list[Path]:
    """One bundle of every size; the graphs are exported once."""
    progress("bundles: exporting graphs", 0, len(sizes) + 1)
    if base is None:
        base = room / "base"
        _alone(_make_base, base)
    found = []
    for done, size in enumerate(sizes, start=1):
        progress(f"bundles: {size:,} codes", done, len(sizes) + 1)
        found.append(room / f"{size:,}")
        _alone(_make_sized, base, found[-1], size)
    progress("bundles", len(sizes) + 1, len(sizes) + 1)
    return found


def _make_base(target: Path) -> None:
    from gram_exporter.untrained import Shape

    make_bundle(target, Shape(), "int8", with_linear=False)


def _make_sized(base: Path, target: Path, codes: int) -> None:
    """The base with another codebook of the same attributes, and a linear arm of its size."""
    staging = target.with_name(f"{target.name}.staging")
    shutil.copytree(base, staging)
    (staging / MANIFEST).unlink()
    texts = random_codes(read_codebook(base / CODEBOOK).attributes, codes)
    (staging / CODEBOOK).write_text("".join(f"{text}\t3\n" for text in texts), encoding="utf-8")
    random_linear(codes).for_serving().save(staging / LINEAR)
    write_bundle(staging, target, replace(read_manifest(base), linear_share=LINEAR_SHARE, products=10 * codes))


def random_codes(attributes: Sequence[Attribute], count: int) -> list[str]:
    """Texts of distinct codes of one to four attributes, sorted; every attribute is a code by itself."""
    found = set(map(str, attributes))
    by_type: dict[str, list[str]] = {}
    for attribute in attributes:
        by_type.setdefault(attribute.type, []).append(str(attribute))
    first, *later = (by_type[name] for name in _types_of_codes({name: len(own) for name, own in by_type.items()}))
    most = len(found) + len(first) * (math.prod(len(own) + 1 for own in later) - 1)
    if not len(found) <= count <= most // 2:
        raise SystemExit(f"codes of these attributes can be {len(found):,} to {most // 2:,} many, not {count:,}")
    rng = np.random.default_rng(0)
    while len(found) < count:
        columns = [rng.choice([*own, ""], size=count, p=_chances(len(own))) for own in later]
        for parts in zip(rng.choice(first, size=count).tolist(), *(own.tolist() for own in columns), strict=True):
            found.add("|".join(filter(None, parts)))
            if len(found) == count:
                break
    return sorted(found)


def _types_of_codes(sizes: Mapping[str, int]) -> list[str]:
    """The first type of the canonical order and the richest of the others, in that order."""
    first, *others = sizes
    richest = set(sorted(others, key=lambda name: -sizes[name])[:LATER_TYPES])
    return [first, *(name for name in others if name in richest)]


def _chances(values: int) -> list[float]:
    return [*[LATER_CHANCE / values] * values, 1 - LATER_CHANCE]


def weigh(bundle: Path) -> list[Opened]:
    """Opens the parts that grow with the codes, one after another; all stay open."""
    found: list[Opened] = []

    def step(part: str, opening: Callable[[], Any]) -> Any:
        before, start = _settled_bytes(), time.perf_counter()
        opened = opening()
        seconds = time.perf_counter() - start
        found.append(Opened(part, seconds, _settled_bytes() - before))
        return opened

    codebook = step("codebook", lambda: read_codebook(bundle / CODEBOOK))
    columns = Columns(0, 1, 0)
    trie = step("trie", lambda: trie_of(codebook, columns))
    kept = step("product tags", lambda: CodeFinder(codebook, trie, columns))
    kept = kept, step("linear arm", lambda: LinearArm.load(bundle / LINEAR, len(codebook)))
    return found


def _settled_bytes() -> int:
    """Memory of this process once all that is free has been given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def _alone(job: Callable[..., Any], *given: Any) -> Any:
    """The answer of a function that runs in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(job, *given).result()


@contextmanager
def _serving(bundle: Path) -> Iterator[Connection]:
    """A process that has a bundle open and decodes what it is sent."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(bundle, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def _serve(bundle: Path, asked: Connection) -> None:
    """Tells what opening cost, then answers each text with milliseconds, and None with where the time went."""
    before, start = _settled_bytes(), time.perf_counter()
    generator = OnnxGenerator.open(bundle)
    seconds = time.perf_counter() - start
    asked.send(Opened(WHOLE_PART, seconds, _settled_bytes() - before))
    clock = Clock()
    timed = watched(generator, clock)
    while (text := _received(asked)) is not None:
        start = time.perf_counter()
        generator.generate([text], Role.QUERY)
        asked.send(1000 * (time.perf_counter() - start))
        with clock.part(WHOLE):
            timed.generate([text], Role.QUERY)
    asked.send(clock)


def _received(asked: Connection) -> str | None:
    try:
        text: str | None = asked.recv()
    except EOFError:
        return None
    return text


def _asked_in_turn(
    processes: Sequence[Connection], asked: Sequence[str], most_s: float, progress: Progress
) -> list[list[float]]:
    """Milliseconds of each process for each text, the first `WARM` left out."""
    times: list[list[float]] = [[] for _ in processes]
    until = time.monotonic() + most_s
    for turn, text in enumerate(asked, start=1):
        for process, own in zip(processes, times, strict=True):
            process.send(text)
            own.append(process.recv())
        progress("queries", turn, len(asked))
        if time.monotonic() > until and turn > 2 * WARM:
            break
    return [own[WARM:] for own in times]


def _grown(sizes: Sequence[int], opened: Sequence[Sequence[Opened]]) -> Table:
    """Memory of every part at every size; a code's bytes are what the largest size has more than the smallest."""
    columns = ("part", *(f"{size:,} codes, MB" for size in sizes), "bytes a code", "goal")
    table = Table("memory", columns)
    for part in [found.part for found in opened[0]]:
        _add_memory(table, part, sizes, [_bytes_of(found, {part}) for found in opened])
    _add_memory(table, "codebook and trie", sizes, [_bytes_of(found, {"codebook", "trie"}) for found in opened], "64")
    return table


def _bytes_of(opened: Sequence[Opened], parts: set[str]) -> int:
    return sum(found.grown_bytes for found in opened if found.part in parts)


def _add_memory(table: Table, part: str, sizes: Sequence[int], grown: Sequence[int], goal: str = "") -> None:
    each = (grown[-1] - grown[0]) / max(1, sizes[-1] - sizes[0])
    table.add(part, *(f"{found / 1e6:,.0f}" for found in grown), f"{each:,.0f}", goal)


def _seconds(sizes: Sequence[int], opened: Sequence[Sequence[Opened]]) -> Table:
    table = Table("seconds to open", ("part", *(f"{size:,} codes" for size in sizes)))
    for at, part in enumerate(found.part for found in opened[0]):
        table.add(part, *(found[at].seconds for found in opened))
    return table


def _times(sizes: Sequence[int], times: Sequence[Sequence[float]]) -> Table:
    columns = ("codes", "p50 ms", "p99 ms", "p50 to the least", "p99 to the least", "goal")
    table = Table(f"one query, beam 10, one thread, {len(times[0])} queries", columns)
    least = Spread.of(times[0])
    for size, own in zip(sizes, times, strict=True):
        found = Spread.of(own)
        table.add(f"{size:,}", found.p50, found.p99, found.p50 / least.p50, found.p99 / least.p99, "1.20")
    return table


def _parts(sizes: Sequence[int], clocks: Sequence[Clock]) -> Table:
    table = Table("where the time goes, mean ms of a query", ("part", *(f"{size:,} codes" for size in sizes)))
    means = [{part: 1000 * spent / own.calls[WHOLE] for part, spent in own.shares().items()} for own in clocks]
    for part in means[0]:
        table.add(part, *(own[part] for own in means))
    table.add("generator by itself", *(1000 * own.seconds[WRITTEN] / own.calls[WHOLE] for own in clocks))
    table.add("decoder steps, count", *(own.calls[DECODER] / own.calls[WHOLE] for own in clocks))
    return table


if __name__ == "__main__":
    main()
