"""A `gram shim` in a process of its own, whose memory and files can be counted, and clients that leave it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sofas import ask

PROGRAM = ("-m", "gram_plugin.cli")


@dataclass
class Process:
    """A `gram shim` in a process of its own, so that its memory and its files can be counted."""

    url: str
    pid: int
    bundle: Path
    killed: bool = False

    def kill(self) -> None:
        """Ends it without a warning, as a machine does that has no more memory."""
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)

    def counted(self, metric: str) -> float:
        """The value of a counter with its labels, 0 before the first."""
        page = ask(self.url, "/-/metrics", method="GET")[2].decode()
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(metric + " "))

    def resident_kib(self) -> int:
        """Memory of the process in KiB."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0])

    def files(self) -> int:
        """Open files and sockets of the process."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def renewed(self, outcome: str, count: int) -> None:
        """Asks for the bundle to be opened again; returns once so many ended in this way."""
        os.kill(self.pid, signal.SIGHUP)
        limit, line = time.monotonic() + 60, f'gram_bundles_total{{outcome="{outcome}"}} {count}.0'
        while line.encode() not in ask(self.url, "/-/metrics", method="GET")[2]:
            assert time.monotonic() < limit

    def crowd(self, files: int, limit_s: float = 60.0) -> None:
        """Returns once the process has so many files open: clients that wait, and their searches at OpenSearch."""
        limit = time.monotonic() + limit_s
        while self.files() < files:
            assert time.monotonic() < limit, (self.files(), files)

    def settle(self, files: int, limit_s: float = 60.0) -> None:
        """Returns once the process has no more than so many files open and no text waits for its model."""
        limit = time.monotonic() + limit_s
        while self.files() > files or b'"waiting":0' not in ask(self.url, "/-/ready", method="GET")[2]:
            assert time.monotonic() < limit, (self.files(), files)


@contextlib.contextmanager
def shim_process(
    upstream: str, bundle: Path, said: Path, settings: Mapping[str, str], program: Sequence[str] = PROGRAM
) -> Iterator[Process]:
    """Runs until the end; what it prints goes to the file `said`. Ended by itself it is a failure."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}
    options = ["--url", upstream, "--port", "0", "--bundle", str(bundle)]
    command = [sys.executable, *program, "shim", *options]
    with said.open("wb") as log:
        child = subprocess.Popen(command, env={**environment, **settings}, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 60
        while not (found := re.search(r"listening on (http://\S+)", said.read_text(encoding="utf-8"))):
            assert time.monotonic() < limit and child.poll() is None, said.read_text(encoding="utf-8")
        process = Process(found[1], child.pid, bundle)
        yield process
        assert process.killed or child.poll() is None
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def hang_up(url: str, target: str, number: int) -> socket.socket:
    """Asks, and is ready to leave: with an end of file, or, every second one, with a reset."""
    parts = urlsplit(url)
    body = json.dumps({"query": {"match": {"title": f"red couch {number}"}}}).encode()
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)
    if number % 2:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    # Every third one leaves in the middle of its body.
    connection.sendall(head.encode() + (body[:10] if number % 3 == 0 else body))
    return connection
