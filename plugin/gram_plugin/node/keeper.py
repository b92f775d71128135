"""The keeper: the one parent process of all servers, which ends them when it is told to or when its own parent dies.

Run as `python -m gram_plugin.node.keeper`; reads an `Order` as JSON from stdin and answers with one
JSON line: the pids of the servers, or why they could not be started. Servers of a dead keeper are ended by
the kernel (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """One server to start: what, where, and where its output goes."""

    command: list[str]
    environ: dict[str, str]
    folder: str
    console: str
    exit_file: str


@dataclass(frozen=True)
class Order:
    """What a keeper has to keep.

    `parent` is the pid whose end ends the servers, 0 for none; `remove` a folder to delete at the end, "" for none.
    With a folder to delete nobody wants the data, and the servers are killed without a farewell.
    """

    jobs: list[Job]
    parent: int
    uid: int
    gid: int
    changes_account: bool
    remove: str
    grace_s: float

    def to_json(self) -> str:
        """The wire form; inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Reads what `to_json` wrote."""
        document: dict[str, Any] = json.loads(text)
        return cls(**{**document, "jobs": [Job(**job) for job in document["jobs"]]})


def main() -> None:
    """Keeps the servers of the order on stdin until told to stop."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    order = Order.from_json(sys.stdin.readline())
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for job in order.jobs:
            servers.append(_start(job, order))
        _answer({"pids": [server.pid for server in servers]})
        _watch(order, servers, stop)
    except OSError as error:
        _answer({"error": f"{error}"})
    finally:
        end(servers, 0.0 if order.remove else order.grace_s)
        if order.remove:
            shutil.rmtree(order.remove, ignore_errors=True)


def end(servers: Sequence[subprocess.Popen[bytes]], grace_s: float) -> None:
    """Asks the servers to end, and kills those that have not after `grace_s` seconds."""
    if grace_s:
        for server in servers:
            server.terminate()
        for server in servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(grace_s)
    for server in servers:
        server.kill()
        server.wait()


def _start(job: Job, order: Order) -> subprocess.Popen[bytes]:
    account = {"user": order.uid, "group": order.gid, "extra_groups": []} if order.changes_account else {}
    with Path(job.console).open("wb") as console:
        return subprocess.Popen(  # noqa: S603 - the command is ours, see server.py
            job.command,
            env=job.environ,
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent(),
            **account,  # type: ignore[call-overload]
        )


def _die_with_parent() -> Callable[[], None] | None:
    """Runs in the child after the change of account, which would clear the flag."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(order: Order, servers: Sequence[subprocess.Popen[bytes]], stop: threading.Event) -> None:
    running = dict(zip((job.exit_file for job in order.jobs), servers, strict=True))
    while running and not stop.wait(_POLL_S):
        if order.parent and os.getppid() != order.parent:
            return
        for exit_file, server in list(running.items()):
            if server.poll() is not None:
                Path(exit_file).write_text(f"{server.returncode}\n", encoding="ascii")
                del running[exit_file]


def _answer(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
