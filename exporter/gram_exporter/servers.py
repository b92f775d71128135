"""Programs of ours as child processes: the sidecar and the shim that the demo and `gram evaluate` talk to."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gram_plugin.errors import GramError
from gram_plugin.search.client import address

MEASURED = {"GRAM_CACHE_ENTRIES": "0", "GRAM_REQUIRE_MODEL": "true"}
"""Settings of a shim that is measured.

Several arms ask the same query, and none may ride on another's decoding; a plain proxy must not pass for codes.
"""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
_LISTENING = re.compile(r"listening on (http://\S+)")


@contextmanager
def running(
    verb: str, bundle: Path, url: str, settings: Mapping[str, str], *, start_timeout_s: float = START_TIMEOUT_S
) -> Iterator[str]:
    """Runs `gram shim` or `gram sidecar` on a free port while the block runs; gives its URL.

    Args:
        verb: `shim` or `sidecar`.
        bundle: the bundle that it serves.
        url: OpenSearch behind it; credentials in it are left out, the caller's requests carry their own.
        settings: `GRAM_` variables; of those of this process only the certificates to trust are handed on.
        start_timeout_s: longest wait until it is ready.

    Raises:
        GramError: it ended, or was not ready in time; with the end of what it said.
    """
    upstream = address(url)
    trust = {"GRAM_CA_FILE": upstream.ca_file} if upstream.ca_file else {}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    options = ["--bundle", str(bundle), "--url", upstream.url, "--port", "0"]
    with tempfile.NamedTemporaryFile("w+", suffix=f"-gram-{verb}.log") as said:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "gram_plugin.cli", verb, *options],
            env={**inherited, **trust, **settings},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _ready(process, Path(said.name), verb, start_timeout_s)
        finally:
            _end(process)


def _ready(process: subprocess.Popen[bytes], said: Path, verb: str, timeout_s: float) -> str:
    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit and process.poll() is None:
        found = _LISTENING.search(said.read_text(encoding="utf-8", errors="replace"))
        if found and _answers(f"{found[1]}/-/ready"):
            return found[1]
        time.sleep(_POLL_S)
    end = "\n".join(said.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    state = "was not ready in time" if process.poll() is None else f"ended with status {process.returncode}"
    raise GramError(f"gram {verb} {state}; it said:\n{end}", next_step=f"run `gram {verb}` by hand")


def _answers(url: str) -> bool:
    # A proxy of the environment cannot reach our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
