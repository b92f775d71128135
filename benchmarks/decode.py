"""Milliseconds to write the codes of one query: `python benchmarks/decode.py [BUNDLE]`.

Without a bundle it makes one of random weights (T5, 4 + 2 layers of 256, int8, 10,000 codes): its codes
are noise, its speed is that of a trained model of this size, or a little worse, since random codes are
near in probability and no beam ends early.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gram_exporter.package import export_bundle
from gram_exporter.parity import Tolerance
from gram_exporter.untrained import Shape, write_untrained
from gram_plugin.contract.codes import Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import OnnxGenerator

TINY = Shape(
    d_model=16, d_ff=24, heads=2, encoder_layers=1, decoder_layers=1, text_tokens=260, types=4, brands=5, codes=40
)
QUERIES = (
    "red running shoes size {}",
    "laptop {} inch 16 gb",
    "wireless headphones under {}",
    "{} litre kettle",
    "sofa {}",
)
ANYTHING = Tolerance(logits=1.0, same_best_code=0.0, common_codes=0.0)


def main() -> None:
    """Reads the command line, makes or opens the bundle, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--queries", type=int, default=500, help="how many queries are timed")
    parser.add_argument("--tiny", type=Path, help="only write the tiny fp32 bundle of the decoder's tests to a folder")
    chosen = parser.parse_args()
    if chosen.tiny:
        make_bundle(chosen.tiny, TINY, "fp32")
        return
    with tempfile.TemporaryDirectory() as room:
        bundle = chosen.bundle or make_bundle(Path(room) / "bundle", Shape(), "int8")
        Console().print(table(bundle, chosen.queries))


def make_bundle(target: Path, shape: Shape, precision: str) -> Path:
    """Writes a bundle of random weights."""
    with tempfile.TemporaryDirectory() as room:
        write_untrained(Path(room), shape)
        return export_bundle(Path(room), target, precision=precision, tolerance=ANYTHING).path


def table(bundle: Path, queries: int) -> Table:
    """Times one query at a time, warm, with one thread and with two."""
    found = Table(title=f"decode, beam 10, {queries} queries, {bundle.name}")
    for name in ("threads", "codes", "p50 ms", "p99 ms"):
        found.add_column(name, justify="right")
    for threads in (1, 2):
        generator = OnnxGenerator.open(bundle, threads=threads)
        spent = times_ms(generator, queries)
        p50, p99 = np.percentile(spent, [50, 99])
        found.add_row(str(threads), f"{len(generator.codebook):,}", f"{p50:.2f}", f"{p99:.2f}")
    return found


def times_ms(generator: OnnxGenerator, queries: int) -> list[float]:
    """Milliseconds of each query after twenty to get warm, rendering and tokenising included."""
    asked = [QUERIES[number % len(QUERIES)].format(number) for number in range(queries + 20)]
    spent = []
    for query in asked:
        start = time.perf_counter()
        generator.generate([render_query(query)], Role.QUERY)
        spent.append(1000 * (time.perf_counter() - start))
    return spent[20:]


if __name__ == "__main__":
    main()
