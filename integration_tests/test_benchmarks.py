"""Benchmarks of speed run at their smallest size and print tables: what nobody runs is broken when it is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from gram_plugin.node.node import RunningNode

ROOT = Path(__file__).parent.parent
TINY = ROOT / "plugin" / "tests" / "decode" / "tiny_bundle"


def run(script: str, *options: str | Path) -> list[str]:
    """The titles of the tables that a benchmark prints; every row of them must be as long as its head."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *map(str, options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.*\n)+)", done.stdout, flags=re.MULTILINE)
    for _, rows in tables:
        assert len({row.count("|") for row in rows.splitlines()}) == 1, rows
    return [title for title, _ in tables]


def test_decode_compares_and_profiles() -> None:
    """One query on one thread and on two, then where its time goes."""
    assert run("decode", TINY, "--queries", "10", "--profile") == [
        "one query, beam 10, tiny_bundle",
        "where the time goes, one thread, mean of 10 queries",
    ]


def test_codes_tells_what_grows() -> None:
    """Time and memory at two sizes, each with its parts."""
    assert run("codes", TINY, "--codes", "100", "300", "--queries", "10") == [
        "one query, beam 10, one thread, 10 queries",
        "where the time goes, mean ms of a query",
        "memory",
        "seconds to open",
    ]


def test_shim_compares_every_way(node: RunningNode) -> None:
    """One table for each form and number of clients; every search of a way that applies codes was enriched."""
    options = ("--products", "300", "--rounds", "20", "--clients", "2", "--forms", "shop")
    assert run("shim", "--url", node.url, "--bundle", TINY, *options) == [
        "300 products, form shop, 2 clients, 20 requests each"
    ]


def test_throughput_looks_at_batcher_start_and_memory(node: RunningNode) -> None:
    """Three tables; the shim is a process of its own."""
    options = ("--callers", "2", "--texts", "8", "--starts", "1", "--searches", "16", "--products", "300")
    assert run("throughput", TINY, "--url", node.url, *options) == [
        "batcher of the shim, one thread, 8 texts",
        "`gram shim` from its start to ready, 1 start",
        "resident memory of `gram shim`",
    ]


def test_coding_compares_ways_calls_and_lengths() -> None:
    """A table of all ways on the same products, and one for each sweep."""
    assert run("coding", TINY, "--small", "--products", "12", "--round", "6", "--sweep", "4") == [
        "products in a second, 12 products in 2 rounds",
        "one core, by products in a call, 4 products",
        "one core, by length of the text, 4 products",
        "one core, fp32, by tokens in a batch, 4 products, 3 turns",
    ]


def test_ingest_compares_every_way_and_looks_at_the_store(node: RunningNode) -> None:
    """Four ways to write the same products, and the bytes that codes add."""
    assert run("ingest", TINY, "--url", node.url, "--products", "40", "--bulk", "20") == [
        "40 products in bulks of 20, one client",
        "store after a merge to one segment",
    ]


def test_backfill_is_timed_and_its_memory_read(node: RunningNode) -> None:
    """Every product is coded; the memory is told part by part."""
    assert run("backfill", TINY, "--url", node.url, "--products", "60") == ["backfill", "memory of the backfill, MB"]


def test_growth_tells_what_codes_cost_the_store(node: RunningNode) -> None:
    """One table of all forms of `gram`."""
    (title,) = run("growth", TINY, "--url", node.url, "--products", "30")
    assert re.fullmatch(r"bytes a product that `gram` adds, 30 products, [1-9]\.\d codes each", title)


def test_reliability_compares_what_is_said_with_what_comes_true(tmp_path: Path) -> None:
    """Ten bins of the codes of judged queries."""
    catalogue, judgments = tmp_path / "products.jsonl", tmp_path / "judgments.csv"
    catalogue.write_text('{"id": "1", "title": "hp notebook"}\n{"id": "2", "title": "red shoe"}\n', encoding="utf-8")
    judgments.write_text("query,docid,rating\nnotebook,1,2\nshoes,2,1\nnothing,9,1\n", encoding="utf-8")
    (title,) = run("reliability", TINY, catalogue, judgments)
    assert re.fullmatch(r"[1-9]\d codes of queries, expected calibration error 0\.\d{3}", title)
