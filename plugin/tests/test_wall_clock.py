"""The wall clock, which operators and time servers set: read only where a date is written down for people."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "gram_plugin"
WALL = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("time", "ctime")} | {
    ("datetime", name) for name in ("now", "utcnow", "today")
}
DATES = {
    "search/calibrate.py": "when an index was calibrated",
    "serve/coding.py": "when a document got its codes",
    "serve/switch.py": "when codes were switched off",
}


def readings(path: Path) -> set[tuple[str, str]]:
    """How a module reads the wall clock: every mention of such a function by its module or class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    imported = {
        (node.module or "", name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    return (found | imported) & WALL


def test_no_deadline_breaker_or_cache_reads_it() -> None:
    """A clock that jumps moves nothing but the dates that are written: all else counts monotonic seconds."""
    read = {str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if readings(path)}
    assert read == set(DATES)
