"""Runs the commands of README.md in a fresh clone, section by section, as a newcomer would.

A block of ```bash runs unless the line above it is `<!-- not run: reason -->`. The blocks of one section run in one
shell, so what one exports the next one has. The demo's figures must show that codes help.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^([^\n]*)\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION_LIMIT_S = 1500
NOT_A_NEWCOMERS = ("GRAM_", "VIRTUAL_ENV", "MAKE", "MFLAGS", "PYTEST", "PYTHONPATH")
"""Variables of the run that this test is part of."""
DEMO = "make demo"
FIGURES = "work/demo-*/figures.json"
MODES = ("BM25 + codes, rerank", "BM25 + codes, recall")
GAINS = ("nDCG@10", "R@100")


@dataclass(frozen=True)
class Commands:
    """The commands of one section."""

    section: str
    script: str


def sections(readme: str) -> list[Commands]:
    """Every section that has commands to run."""
    found = [Commands(title, "\n".join(blocks(text))) for title, text in SECTION.findall(readme)]
    return [commands for commands in found if commands.script]


def blocks(text: str) -> list[str]:
    """The blocks of a section that are to be run."""
    return [code for above, code in BLOCK.findall(text) if not above.startswith("<!-- not run:")]


def shortcomings(figures: Mapping[str, Any]) -> list[str]:
    """Where the figures of an evaluation do not show that codes help, in words."""
    rows = {row["name"]: row for row in figures["rows"]}
    found = [f"{mode}: not measured" for mode in MODES if mode not in rows]
    for mode in (mode for mode in MODES if mode in rows):
        for measure in GAINS:
            gain = rows[mode]["differences"][measure]
            if not gain["low"] > 0:  # so that NaN is no gain
                found.append(f"{mode}: {measure} {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
        answered = rows[mode]["statuses"]
        if set(answered) != {"applied"}:
            found.append(f"{mode}: searches without codes: {answered}")
    return found


README = sections((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of what is committed here."""
    folder = tmp_path_factory.mktemp("clone") / "gram-opensearch"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(folder)], check=True)
    return folder


@pytest.fixture
def shell(clone: Path, tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Runs a script in the clone and gives its exit status; everything that it left running is ended at the end."""
    groups: list[int] = []

    def run(script: str) -> int:
        path = tmp_path / "commands.sh"
        path.write_text(script, encoding="utf-8")
        command = [shutil.which("bash") or "bash", "-euxo", "pipefail", str(path)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(NOT_A_NEWCOMERS)}
        process = subprocess.Popen(command, cwd=clone, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
        groups.append(process.pid)
        return process.wait(timeout=SECTION_LIMIT_S)

    yield run
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)


def test_every_block_is_found() -> None:
    """No block of commands in the README is overlooked."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sum(len(BLOCK.findall(section)) for _, section in SECTION.findall(text)) == text.count("\n```bash\n") > 1


@pytest.mark.timeout(SECTION_LIMIT_S + 60)
@pytest.mark.parametrize("commands", README, ids=lambda commands: commands.section)
def test_commands_run(commands: Commands, clone: Path, shell: Callable[[str], int]) -> None:
    """All commands of the section succeed, in order, in a clone that nobody prepared; the demo shows a gain."""
    assert shell(commands.script) == 0
    if DEMO in commands.script:
        figures = [json.loads(path.read_text(encoding="utf-8")) for path in clone.glob(FIGURES)]
        assert [shortcomings(found) for found in figures] == [[]]


def test_the_demo_is_run() -> None:
    """One section of the README runs the demo, so its figures are looked at."""
    assert len([commands for commands in README if DEMO in commands.script]) == 1


def _row(mode: str, *lows: float, statuses: Mapping[str, int]) -> dict[str, Any]:
    gains = {name: {"value": 0.1, "low": low, "high": 0.2} for name, low in zip(GAINS, lows, strict=True)}
    return {"name": mode, "differences": gains, "statuses": statuses}


def test_figures_that_fall_short_are_told() -> None:
    """A gain that may be none, a search without codes in the ranking pass and a mode left out; else nothing."""
    rerank, recall = MODES
    good = [_row(mode, 0.01, 0.02, statuses={"applied": 9}) for mode in MODES]
    assert shortcomings({"rows": good}) == []
    late = {"applied": 8, "degraded; reason=late": 1}
    assert shortcomings({"rows": [_row(recall, -0.01, 0.0, statuses=late)]}) == [
        f"{rerank}: not measured",
        f"{recall}: nDCG@10 +0.100 [-0.010, +0.200]",
        f"{recall}: R@100 +0.100 [+0.000, +0.200]",
        f"{recall}: searches without codes: {late}",
    ]
    assert len(shortcomings({"rows": [good[0], _row(recall, float("nan"), 0.1, statuses={})]})) == 2
