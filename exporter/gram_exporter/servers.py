"""Programs of ours as child processes: the sidecar and the shim that the demo and `gram evaluate` talk to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gram_plugin.errors import GramError

UNCACHED = {"GRAM_CACHE_ENTRIES": "0"}
"""Settings of a shim that is measured: several arms ask the same query, and none may ride on another's decoding."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
_LISTENING = re.compile(r"listening on (http://\S+)")


@contextmanager
def running(verb: str, bundle: Path, url: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Runs `gram shim` or `gram sidecar` on a free port while the block runs; gives its URL.

    Args:
        verb: `shim` or `sidecar`.
        bundle: the bundle that it serves.
        url: OpenSearch behind it.
        settings: `GRAM_` variables; those of this process are not handed on.

    Raises:
        GramError: it ended, or was not ready within a minute; with the end of what it said.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")} | dict(settings)
    options = ["--bundle", str(bundle), "--url", url, "--port", "0"]
    with tempfile.NamedTemporaryFile("w+", suffix=f"-gram-{verb}.log") as said:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "gram_plugin.cli", verb, *options],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _ready(process, Path(said.name), verb)
        finally:
            _end(process)


def _ready(process: subprocess.Popen[bytes], said: Path, verb: str) -> str:
    limit = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < limit and process.poll() is None:
        found = _LISTENING.search(said.read_text(encoding="utf-8", errors="replace"))
        if found and _answers(f"{found[1]}/-/ready"):
            return found[1]
        time.sleep(_POLL_S)
    end = "\n".join(said.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    state = "was not ready in time" if process.poll() is None else f"ended with status {process.returncode}"
    raise GramError(f"gram {verb} {state}; it said:\n{end}", next_step=f"run `gram {verb}` by hand")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback, our own server
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
