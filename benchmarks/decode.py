"""Milliseconds to write the codes of one query, against MiniLM-L6 encoding it: `python benchmarks/decode.py [BUNDLE]`.

Without a bundle it makes one of random weights (T5, 4 + 2 layers of 256, int8, 10,000 codes, a linear arm): its codes
are noise, its speed is that of a trained model of this size, or a little worse, since random codes are near in
probability and no beam ends early. Decoder and rival take turns query by query, so that noise meets both; both read
the text and tokenise it. The rival needs the extra [rivals] or `--encoder`; without it its columns stay empty.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from bundles import make_bundle, shop_queries
from figures import Spread, Table, show, show_place
from gram_plugin.contract.codes import Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.progress import Progress, reporting
from minilm import MiniLM, export_encoder
from parts import DECODER, WHOLE, Clock, watched

WARM = 20
PAUSE_S = 0.005
"""Between two questions to models of several threads: onnxruntime's threads spin a little while after each."""
OURS, RIVAL = "decoder", "MiniLM-L6"

Answer = Callable[[str], object]


def main() -> None:
    """Reads the command line, makes or opens the bundle, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--queries", type=int, default=1000, help="how many queries are timed")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest time for each number of threads")
    parser.add_argument("--encoder", type=Path, help="checkpoint folder of the rival")
    parser.add_argument("--profile", action="store_true", help="also where the time goes, part by part")
    parser.add_argument("--tiny", type=Path, help="only write the tiny fp32 bundle of the decoder's tests to a folder")
    chosen = parser.parse_args()
    if chosen.tiny:
        make_tiny(chosen.tiny)
        return
    show_place()
    with tempfile.TemporaryDirectory() as room, reporting(Console(stderr=True)) as progress:
        bundle = chosen.bundle or make_bundle(Path(room) / "random-weights")
        rival = export_encoder(chosen.encoder, Path(room) / "minilm")
        queries = [render_query(text) for text in shop_queries()]
        asked = [queries[number % len(queries)] for number in range(chosen.queries + WARM)]
        show(compared(bundle, rival, asked, chosen.seconds, progress))
        if chosen.profile:
            show(profile(bundle, asked))


def make_tiny(target: Path) -> None:
    """Writes the bundle that lies beside the decoder's tests."""
    from gram_exporter.untrained import Shape

    sizes = {"d_model": 16, "d_ff": 24, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "text_tokens": 260}
    make_bundle(target, Shape(**sizes, types=4, brands=5, codes=40), "fp32", with_linear=False)


def compared(bundle: Path, rival: Path | None, asked: Sequence[str], most_s: float, progress: Progress) -> Table:
    """One query at a time, warm, with one thread and with two."""
    table = Table(
        f"one query, beam 10, {bundle.name}",
        ("threads", "", "queries", "p50 ms", "p99 ms", "p99 / p50", "p50 to MiniLM-L6", "p99 to MiniLM-L6"),
    )
    for threads in (1, 2):
        pause_s = PAUSE_S if threads > 1 else 0.0
        told = partial(progress, f"decode on {threads} thread{'s' if threads > 1 else ''}")
        times = in_turns(_models(bundle, rival, threads), asked, pause_s, most_s, told)
        _add_rows(table, threads, times)
    return table


def _models(bundle: Path, rival: Path | None, threads: int) -> dict[str, Answer]:
    generator = OnnxGenerator.open(bundle, threads=threads)
    models: dict[str, Answer] = {OURS: lambda text: generator.generate([text], Role.QUERY)}
    if rival:
        encoder = MiniLM.open(rival, threads=threads)
        models[RIVAL] = lambda text: encoder.encode([text])
    return models


def in_turns(
    models: Mapping[str, Answer],
    asked: Sequence[str],
    pause_s: float,
    most_s: float,
    told: Callable[[int, int], None],
) -> dict[str, list[float]]:
    """Milliseconds of each model for each query, the first `WARM` left out; who goes first changes every time."""
    times: dict[str, list[float]] = {name: [] for name in models}
    names, until = list(models), time.monotonic() + most_s
    for turn, text in enumerate(asked):
        for name in names if turn % 2 else reversed(names):
            time.sleep(pause_s)
            start = time.perf_counter()
            models[name](text)
            times[name].append(1000 * (time.perf_counter() - start))
        told(turn + 1, len(asked))
        if time.monotonic() > until and turn > 2 * WARM:
            break
    return {name: found[WARM:] for name, found in times.items()}


def _add_rows(table: Table, threads: int, times: Mapping[str, Sequence[float]]) -> None:
    spreads = {name: Spread.of(found) for name, found in times.items()}
    rival = spreads.get(RIVAL)
    for name, found in spreads.items():
        ratios = (found.p50 / rival.p50, found.p99 / rival.p99) if rival else ("", "")
        count = f"{len(times[name]):,}"
        table.add(str(threads), name, count, found.p50, found.p99, found.p99 / found.p50, *ratios)


def profile(bundle: Path, asked: Sequence[str]) -> Table:
    """Milliseconds of every part of one query, one thread."""
    generator, clock = OnnxGenerator.open(bundle, threads=1), Clock()
    for text in asked[:WARM]:
        generator.generate([text], Role.QUERY)
    timed = watched(generator, clock)
    for text in asked[WARM:]:
        with clock.part(WHOLE):
            timed.generate([text], Role.QUERY)
    count = len(asked) - WARM
    table = Table(f"where the time goes, one thread, mean of {count:,} queries", ("part", "ms", "share", "calls"))
    for name, seconds in sorted(clock.shares().items(), key=lambda item: -item[1]):
        calls = clock.calls[name] / count
        table.add(name, 1000 * seconds / count, f"{seconds / clock.seconds[WHOLE]:.0%}", calls if calls else "")
    table.add("whole", 1000 * clock.seconds[WHOLE] / count, "100%", f"{clock.calls[DECODER] / count:.2f} decoder steps")
    return table


if __name__ == "__main__":
    main()
