"""Figures of a measurement: percentiles, Markdown tables, and the line that says where and when they were taken."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median and 99th percentile of some times, in the unit of the times."""

    p50: float
    p99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Spread:
        """That of at least one time."""
        p50, p99 = np.percentile(times, [50, 99])
        return cls(float(p50), float(p99))


@dataclass(frozen=True)
class Table:
    """A table to be pasted into a page: the first column is text, the others are numbers or short words."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str | float) -> None:
        """One more row; numbers get two decimals."""
        self.rows.append([cell if isinstance(cell, str) else f"{cell:,.2f}" for cell in cells])

    def markdown(self) -> str:
        """The title in bold, then the table."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = (f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows))
        return "\n".join((f"**{self.title}**", "", *lines, "", ""))


def show(table: Table) -> None:
    """Prints a table to stdout at once: what comes later may take minutes."""
    sys.stdout.write(table.markdown())
    sys.stdout.flush()


def show_place() -> None:
    """Prints date, machine and library: figures mean nothing without them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    library = f"onnxruntime {version('onnxruntime')}, Python {platform.python_version()}"
    busy = f"load {os.getloadavg()[0]:.1f} before the start"
    sys.stdout.write(f"{when}, {cores} cores of {_processor()}, {busy}, {library}.\n\n")
    sys.stdout.flush()


def _processor() -> str:
    """The processor's name as Linux tells it, else the architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def resident_bytes(pid: int | str = "self") -> int:
    """Memory of a process that is in RAM now; Linux alone tells it in this way."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
