"""Programs of others that tests run as they are: how they are found, run, and missed with a word what to install."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

LIMIT_S = 120.0


class ProgramError(Exception):
    """A program is not there, or did not do what it was asked; a failure of the test, never a skip."""


def find(name: str, remedy: str) -> Path:
    """Where a program lies.

    Raises:
        ProgramError: it is not on the path; the message ends with the remedy.
    """
    found = shutil.which(name)
    if found is None:
        raise ProgramError(f"{name} is not on the path, and these tests run it as its users do: {remedy}")
    return Path(found)


def output(
    command: Sequence[str | Path],
    *,
    data: bytes | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> bytes:
    """What a program prints until its end.

    Raises:
        ProgramError: it cannot be started, does not end in time, or ends with another code than 0; with what it said.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, input=data, cwd=folder, env=environ, capture_output=True, timeout=LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{words[0]} did not run to its end: {error}") from error
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise ProgramError(f"{' '.join(words[:4])} ended with code {done.returncode}: {said[:1500]}")
    return done.stdout
