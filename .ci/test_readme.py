"""Runs the commands of README.md in a fresh clone, section by section, as a newcomer would.

A block of ```bash runs unless the line above it is `<!-- not run: reason -->`. The blocks of one section run in one
shell, so what one exports the next one has.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^([^\n]*)\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION_LIMIT_S = 1500
NOT_A_NEWCOMERS = ("GRAM_", "VIRTUAL_ENV", "MAKE", "MFLAGS", "PYTEST", "PYTHONPATH")
"""Variables of the run that this test is part of."""


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
def test_commands_run(commands: Commands, shell: Callable[[str], int]) -> None:
    """All commands of the section succeed, in their order, in a clone that nobody prepared."""
    assert shell(commands.script) == 0
