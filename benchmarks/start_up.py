"""Measures how long `gram` takes to answer `--version` and `--help`: people wait for it at every command.

usage: python benchmarks/start_up.py [RUNS]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

GRAM = Path(sys.executable).with_name("gram")
DEFAULT_RUNS = 15


def main(runs: int) -> None:
    """Prints best, median and worst of each command in milliseconds, after one run that warms the disk cache."""
    sys.stdout.write(f"{'command':<16} {'best':>6} {'median':>6} {'worst':>6}  ms, {runs} runs\n")
    for option in ("--version", "--help"):
        elapsed_ms = [seconds_of(option) * 1000 for _ in range(runs + 1)][1:]
        figures = f"{min(elapsed_ms):6.0f} {median(elapsed_ms):6.0f} {max(elapsed_ms):6.0f}"
        sys.stdout.write(f"{f'gram {option}':<16} {figures}\n")


def seconds_of(option: str) -> float:
    """Wall-clock seconds of one run of the program."""
    start = time.perf_counter()
    subprocess.run([GRAM, option], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_RUNS)
