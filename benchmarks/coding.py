"""Products coded in a second, against MiniLM-L6 embedding the same products: `python benchmarks/coding.py [BUNDLE]`.

Ours is the whole library call, from document to `gram` object; the rival gets the rendered text and gives a vector. All
ways take turns on the same products, which none has seen before, so that noise meets all. Without a bundle one of
random weights is made (T5, 4 + 2 layers of 256, int8, 10,000 codes): its text tokens are shorter and its beams wider
than a trained one's, so it is slower. The rival needs the extra [rivals] or `--encoder`; else its rows are missing.
The last column counts what the cores worked, so it holds on a busy machine too. A bundle of fp32 reads several texts at
once and gets one more table: by the bound of tokens in a batch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from catalogues import Document, Item, bundle_of, shop_documents, slices
from figures import Table, show, show_place
from gram_plugin.contract.bundle import read_manifest
from gram_plugin.contract.codes import MAX_PRODUCT_CODES, Role
from gram_plugin.contract.text import Rendering, render_product
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.progress import Progress, reporting
from gram_plugin.serve.productcoder import ProductCoder

CORES = 2
RIVAL_BATCH = 8
"""Its best here: larger batches pad more and leave the caches; the sweep of calls shows it."""
CALLS = (1, 8, 64, 256)
"""Products in a call, for the sweep."""
LENGTHS = (20, 80, 320, 1000)
"""Characters of a product, for the sweep."""
TOKENS = (1, 256, 512, 1024, 2048, 4096, 1_000_000)
"""Bounds of a batch in tokens, padding included, for the sweep; 1 is text by text."""
TURNS = 3
"""How often every bound has its turn."""
RIVAL = "MiniLM-L6"

Work = Callable[[Sequence[Document]], object]


@dataclass
class Way:
    """One way to turn products into what is stored, and what each round took: wall-clock, and this process's cores."""

    name: str
    cores: int
    work: Work
    here: bool = True
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def run(self, documents: Sequence[Document]) -> None:
        """One round."""
        began = time.process_time()
        self.seconds.append(seconds_of(self.work, documents))
        self.cpu_s.append(time.process_time() - began)


class Embedder:
    """The rival: rendered texts in batches of like length, in one session."""

    def __init__(self, folder: Path, rendering: Rendering, threads: int, batch: int = RIVAL_BATCH) -> None:
        from minilm import MiniLM  # here, because torch takes seconds to import, and ours does without

        self._model = MiniLM.open(folder, threads=threads)
        self._rendering = rendering
        self._batch = batch

    def embed(self, documents: Sequence[Document]) -> None:
        """One vector for each document; it is thrown away."""
        texts = sorted((render_product(found, self._rendering) for found in documents), key=len)
        for start in range(0, len(texts), self._batch):
            self._model.encode(texts[start : start + self._batch])


def main() -> None:
    """Reads the command line, makes what is not given, prints the tables."""
    chosen = _arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a way of one core has one
    show_place()
    with tempfile.TemporaryDirectory() as room, reporting(Console(stderr=True)) as progress:
        bundle = bundle_of(chosen.bundle, Path(room), small=chosen.small)
        rival = None if chosen.small else _rival(chosen.encoder, Path(room) / "minilm")
        show(side_by_side(bundle, rival, chosen.products, chosen.round, progress))
        show(by_call(bundle, rival, chosen.sweep, progress))
        show(by_length(bundle, rival, chosen.sweep, progress))
        if read_manifest(bundle).precision == "fp32":
            show(by_tokens(bundle, chosen.sweep, progress))


def _rival(checkpoint: Path | None, folder: Path) -> Path | None:
    from minilm import export_encoder

    return export_encoder(checkpoint, folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--products", type=int, default=1200, help="how many products every way codes")
    parser.add_argument("--round", type=int, default=100, help="products of one turn")
    parser.add_argument("--sweep", type=int, default=256, help="products for each point of the two sweeps")
    parser.add_argument("--encoder", type=Path, help="checkpoint folder of the rival")
    parser.add_argument("--small", action="store_true", help="a tiny model and no rival, to see that all of it runs")
    return parser.parse_args()


def side_by_side(bundle: Path, rival: Path | None, products: int, size: int, progress: Progress) -> Table:
    """Every way in turn on the same slice of products, slice after slice; who goes first changes every time."""
    with ExitStack() as stack:
        forked = list(_in_processes(bundle, rival, stack))
        ways = [*_in_this_process(bundle, rival, stack), *forked]
        warm, *rounds = slices(shop_documents(products + size), size)
        for way in ways:
            way.work(warm)
        for turn, documents in enumerate(rounds):
            for way in _rotated(ways, turn):
                way.run(documents)
            progress("coding", turn + 1, len(rounds))
    return _table(ways, [len(documents) for documents in rounds])


def _in_processes(bundle: Path, rival: Path | None, stack: ExitStack) -> Iterator[Way]:
    coders = stack.enter_context(_processes(_open_coder, (bundle,)))
    yield Way("codes, a process for each core", CORES, coders, here=False)
    if rival:
        embedders = stack.enter_context(_processes(_open_embedder, (rival, read_manifest(bundle).rendering)))
        yield Way(f"{RIVAL}, a process for each core", CORES, embedders, here=False)


def _in_this_process(bundle: Path, rival: Path | None, stack: ExitStack) -> Iterator[Way]:
    alone = stack.enter_context(ProductCoder.open(bundle, threads=1))
    both = stack.enter_context(ProductCoder.open(bundle, threads=CORES))
    yield Way("codes, one core", 1, alone.gram_of)
    yield Way("codes, one process", CORES, both.gram_of)
    if rival:
        rendering = read_manifest(bundle).rendering
        yield Way(f"{RIVAL}, one core", 1, Embedder(rival, rendering, 1).embed)
        yield Way(f"{RIVAL}, one process", CORES, Embedder(rival, rendering, CORES).embed)


@contextmanager
def _processes(opening: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[Work]:
    """Work shared by a process for each core, as workers of Spark and Ray would."""
    # A fork has what this process has imported, and is safe only before a model is open here: all fork at once.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(CORES, mp_context=context, initializer=opening, initargs=arguments) as pool:
        list(pool.map(str, range(CORES)))

        def work(documents: Sequence[Document]) -> object:
            shares = [documents[number::CORES] for number in range(CORES)]
            return list(pool.map(_work_of_process, shares))

        yield work


_worker: dict[str, Work] = {}


def _open_coder(bundle: Path) -> None:
    _worker["work"] = ProductCoder.shared(bundle).gram_of


def _open_embedder(folder: Path, rendering: Rendering) -> None:
    _worker["work"] = Embedder(folder, rendering, 1).embed


def _work_of_process(documents: Sequence[Document]) -> object:
    return _worker["work"](documents)


def _rotated(ways: Sequence[Item], turn: int) -> list[Item]:
    first = turn % len(ways)
    return [*ways[first:], *ways[:first]]


def seconds_of(work: Work, documents: Sequence[Document]) -> float:
    """Wall-clock seconds."""
    start = time.perf_counter()
    work(documents)
    return time.perf_counter() - start


def _table(ways: Sequence[Way], sizes: Sequence[int]) -> Table:
    """Medians over the rounds; the ratio is that of each round to the rival's best way on as many cores."""
    table = Table(
        f"products in a second, {sum(sizes):,} products in {len(sizes)} rounds",
        ("way", "cores", "products/s", "p10", "p90", f"to {RIVAL}'s best", "core ms a product"),
    )
    best = {way.cores: way for way in sorted(ways, key=_median_s, reverse=True) if way.name.startswith(RIVAL)}
    for way in ways:
        speeds = [size / seconds for size, seconds in zip(sizes, way.seconds, strict=True)]
        tenths = statistics.quantiles(speeds, n=10) if len(speeds) > 1 else speeds
        core_ms = 1000 * sum(way.cpu_s) / sum(sizes) if way.here else ""
        table.add(
            way.name, str(way.cores), statistics.median(speeds), tenths[0], tenths[-1], _ratio(way, best), core_ms
        )
    return table


def _median_s(way: Way) -> float:
    return statistics.median(way.seconds)


def _ratio(way: Way, best: Mapping[int, Way]) -> float | str:
    rival = best.get(way.cores)
    if rival is None:
        return ""
    return statistics.median(theirs / ours for ours, theirs in zip(way.seconds, rival.seconds, strict=True))


def by_call(bundle: Path, rival: Path | None, products: int, progress: Progress) -> Table:
    """One core, products of the sample shop, by the number of products in one call (the rival's: in one batch)."""
    table = Table(f"one core, by products in a call, {products:,} products", ("products in a call", *_COLUMNS))
    documents, rendering = list(shop_documents(products)), read_manifest(bundle).rendering
    with ProductCoder.open(bundle) as coder:
        for done, size in enumerate(CALLS):
            embed = Embedder(rival, rendering, 1, batch=size).embed if rival else None
            _add(table, str(size), list(slices(documents, size)), coder.gram_of, embed)
            progress("sweep of calls", done + 1, len(CALLS))
    return table


def by_length(bundle: Path, rival: Path | None, products: int, progress: Progress) -> Table:
    """One core, calls of 64, by the length of the rendered text."""
    table = Table(f"one core, by length of the text, {products:,} products", ("characters", *_COLUMNS))
    rendering = read_manifest(bundle).rendering
    texts = [render_product(found, rendering) for found in shop_documents(4 * products)]
    embed = Embedder(rival, rendering, 1).embed if rival else None
    with ProductCoder.open(bundle) as coder:
        for done, length in enumerate(LENGTHS):
            documents = [_of_length(texts, number, length, rendering) for number in range(products)]
            _add(table, str(length), list(slices(documents, 64)), coder.gram_of, embed)
            progress("sweep of lengths", done + 1, len(LENGTHS))
    return table


def by_tokens(bundle: Path, products: int, progress: Progress) -> Table:
    """One core, the model by itself, calls of 64 and of all products, by `max_batch_tokens`; bounds take turns."""
    generator = OnnxGenerator.open(bundle)
    texts = [render_product(found, generator.manifest.rendering) for found in shop_documents(products)]
    calls: dict[str, list[Sequence[str]]] = {"calls of 64": list(slices(texts, 64)), "one call": [texts]}
    spent = dict.fromkeys(((name, bound) for name in calls for bound in TOKENS), 0.0)
    for turn in range(TURNS):
        for bound in _rotated(TOKENS, 2 * turn):
            reader = replace(generator, max_batch_tokens=bound)
            for name, batches in calls.items():
                start = time.perf_counter()
                for batch in batches:
                    reader.generate(batch, Role.PRODUCT, MAX_PRODUCT_CODES)
                spent[name, bound] += time.perf_counter() - start
        progress("sweep of tokens", turn + 1, TURNS)
    title = f"one core, fp32, by tokens in a batch, {products:,} products, {TURNS} turns"
    table = Table(title, ("most tokens", *(f"{name}, products/s" for name in calls)))
    for bound in TOKENS:
        table.add(str(bound), *(TURNS * products / spent[name, bound] for name in calls))
    return table


_COLUMNS = ("codes, products/s", f"{RIVAL}, products/s", "ratio")


def _of_length(texts: Sequence[str], number: int, length: int, rendering: Rendering) -> Document:
    """A product whose fields together have so many characters, cut from the texts of others."""
    long = " ".join(texts[number : number + 1 + length // 40])[:length]
    most = rendering.max_field_chars
    parts = (long[start : start + most] for start in range(0, length, most))
    return dict(zip(rendering.fields, parts, strict=False))


def _add(table: Table, name: str, calls: Sequence[Sequence[Document]], ours: Work, theirs: Work | None) -> None:
    """One row; both ways take turns call by call."""
    spent = {"ours": 0.0, "theirs": 0.0}
    for documents in calls:
        spent["ours"] += seconds_of(ours, documents)
        spent["theirs"] += seconds_of(theirs, documents) if theirs else 0.0
    number = sum(map(len, calls))
    cells = (number / spent["theirs"], spent["theirs"] / spent["ours"]) if theirs else ("", "")
    table.add(name, number / spent["ours"], *cells)


if __name__ == "__main__":
    main()
