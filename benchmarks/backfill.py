"""A backfill of many products: how fast, and whether its memory stays flat.

    python benchmarks/backfill.py [BUNDLE] [--products 20000] [--threads 2] [--url URL]

Products of the sample shop go into an index without codes; then `gram backfill` codes them in a process of its own,
whose memory is read every second. `--products 1000000` takes as long as a million products take. Without a bundle one
of random weights is made; `--small` makes a tiny one, which shows the memory of a million products sooner.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch

from catalogues import bulk_body, place, shop_documents, slices
from figures import Table, resident_bytes, show, show_place
from gram_plugin.progress import Progress
from gram_plugin.search.mappings import apply_to_index

INDEX = "gram-backfill-benchmark"
BULK = 1000
EVERY_S = 1.0
PARTS = 5
"""The memory is told for so many parts of the run."""


@dataclass(frozen=True)
class Run:
    """One backfill: its report, its seconds, and the bytes that it had in memory, one figure for each `EVERY_S`."""

    report: dict[str, Any]
    seconds: float
    resident: Sequence[int]


def main() -> None:
    """Reads the command line, fills the index, runs the backfill, prints the tables."""
    chosen = _arguments()
    show_place()
    with place(chosen.url, chosen.bundle, small=chosen.small) as at:
        fill(at.client, chosen.products, at.progress)
        found = run(at.url, at.bundle, chosen.threads, at.room, chosen.products, at.progress)
        for table in tables(found):
            show(table)
        at.client.indices.delete(index=INDEX)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--products", type=int, default=20_000, help="how many products the index has")
    parser.add_argument("--threads", type=int, default=2, help="cores of the model")
    parser.add_argument("--url", help=f"an OpenSearch; without it one is started. Its index {INDEX} is made anew")
    parser.add_argument("--small", action="store_true", help="a tiny model")
    return parser.parse_args()


def fill(client: OpenSearch, products: int, progress: Progress) -> None:
    """Makes the index anew, with the gram fields and without codes; holds one bulk at a time."""
    client.indices.delete(index=INDEX, ignore_unavailable=True)
    client.indices.create(index=INDEX, body={"settings": {"number_of_shards": 2, "number_of_replicas": 0}})
    apply_to_index(client, INDEX)
    done = 0
    for documents in slices(shop_documents(products), BULK):
        answer = client.bulk(index=INDEX, body=bulk_body(documents))
        if answer["errors"]:
            raise SystemExit(str(answer)[:500])
        done += len(documents)
        progress("filling", done, products)
    client.indices.refresh(index=INDEX)


def run(url: str, bundle: Path, threads: int, room: Path, products: int, progress: Progress) -> Run:
    """One `gram backfill` to its end, watched."""
    words = ["backfill", INDEX, "--url", url, "--bundle", str(bundle.absolute()), "--threads", str(threads), "--json"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    resident: list[int] = []
    began = time.monotonic()
    with (room / "report.json").open("wb") as report, (room / "said.log").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "gram_plugin.cli", *words], cwd=room, env=environ, stdout=report, stderr=said
        )
        while process.poll() is None:
            if found := resident_bytes(process.pid):  # 0 in the moment between its end and our noticing
                resident.append(found)
            progress("backfill", min(_settled(room), products - 1), products)
            time.sleep(EVERY_S)
    spent = time.monotonic() - began
    if process.returncode:
        raise SystemExit((room / "said.log").read_text(encoding="utf-8")[-2000:])
    progress("backfill", products, products)
    return Run(json.loads((room / "report.json").read_text(encoding="utf-8")), spent, resident)


def _settled(room: Path) -> int:
    """Products that are settled by the checkpoint; 0 while there is none, or while it is being replaced."""
    try:
        document = json.loads((room / f"{INDEX}.backfill.json").read_text(encoding="utf-8"))
        return int(document["position"]["tally"]["read"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def tables(found: Run) -> list[Table]:
    """How fast, and the memory in each part of the time."""
    report = found.report
    speed = Table(
        "backfill", ("", "products", "coded", "pending", "failed", "seconds", "products/s", "codes a product")
    )
    counts = [f"{report[name]:,}" for name in ("read", "coded", "pending", "failed")]
    speed.add("in place", *counts, found.seconds, report["coded"] / found.seconds, report["codes_per_product"])
    memory = Table("memory of the backfill, MB", ("part of the time", "least", "most"))
    for part in range(PARTS):
        low, high = (len(found.resident) * edge // PARTS for edge in (part, part + 1))
        seen = found.resident[low : max(high, low + 1)]
        memory.add(f"{part * 100 // PARTS} - {(part + 1) * 100 // PARTS} %", min(seen) / 1e6, max(seen) / 1e6)
    return [speed, memory]


if __name__ == "__main__":
    main()
