"""The keeper: the one parent process of all servers, which ends them when it is told to or when its own parent dies.

Run as `python -m gram_plugin.node.keeper`; reads an `Order` as one JSON line from stdin and answers with one:
the pids of the servers, or why they could not be started. It stays until it is told to end, even when
servers end by themselves, so that their logs stay readable. Should the keeper itself be killed, the kernel ends
the servers (Linux only).
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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """One server to start: what, where, and where its output and its exit status go."""

    command: list[str]
    environ: dict[str, str]
    working_folder: str
    console: str
    exit_file: str


@dataclass(frozen=True)
class Order:
    """What a keeper has to keep.

    `parent` is the pid whose end ends the servers, 0 for none. `uid` and `gid` are those of the account to change
    to, -1 for none. `remove` is a folder to delete at the end, "" for none; where there is one, nobody wants the
    data, and the servers are killed without `grace_s` seconds to end in order.
    """

    jobs: list[Job]
    parent: int
    uid: int
    gid: int
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


Servers = dict[str, subprocess.Popen[bytes]]
"""Running servers by the exit file of each."""

Signals = SimpleQueue[int]
"""Signals to end. A handler runs between any two instructions of the waiting thread: a queue's `put` may do that,
an event's `set` would wait for ever for the lock that the interrupted `wait` holds."""


def main(poll_s: float = _POLL_S) -> None:
    """Keeps the servers of the order on stdin until told to stop; looks after them every `poll_s` seconds."""
    told = Signals()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.put(number))
    line = sys.stdin.readline()
    if not line:  # the parent died before it could give its order
        return
    keep(Order.from_json(line), told, poll_s)


def keep(order: Order, told: Signals, poll_s: float = _POLL_S) -> None:
    """Starts the servers, watches them until a signal or the parent's end, and leaves nothing behind."""
    servers: Servers = {}
    try:
        for job in order.jobs:
            servers[job.exit_file] = _start(job, order)
        _answer({"pids": [server.pid for server in servers.values()]})
        _watch(order.parent, servers, told, poll_s)
    except (OSError, subprocess.SubprocessError) as error:
        _answer({"error": str(error)})
    finally:
        _end(list(servers.values()), 0.0 if order.remove else order.grace_s)
        if order.remove:
            shutil.rmtree(order.remove, ignore_errors=True)


def _start(job: Job, order: Order) -> subprocess.Popen[bytes]:
    account: Mapping[str, Any] = {}
    if order.uid >= 0:
        account = {"user": order.uid, "group": order.gid, "extra_groups": []}
    with Path(job.console).open("wb") as console:
        server: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the command is ours, see server.py
            job.command,
            env=job.environ,
            cwd=job.working_folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent(),
            **account,
        )
    return server


def _die_with_parent() -> Callable[[], None] | None:
    """Runs in the child after the change of account, which would clear the flag."""
    if not sys.platform.startswith("linux"):
        return None
    control = ctypes.CDLL(None).prctl

    def ask_kernel() -> None:
        control(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask_kernel


def _watch(parent: int, servers: Servers, told: Signals, poll_s: float) -> None:
    noted: set[str] = set()
    while not _is_told(told, poll_s):
        if parent and os.getppid() != parent:
            return
        for exit_file, server in servers.items():
            if exit_file not in noted and server.poll() is not None:
                Path(exit_file).write_text(f"{server.returncode}\n", encoding="ascii")
                noted.add(exit_file)


def _is_told(told: Signals, within_s: float) -> bool:
    try:
        told.get(timeout=within_s)
    except Empty:
        return False
    return True


def _end(servers: Sequence[subprocess.Popen[bytes]], grace_s: float) -> None:
    """Asks the servers to end, and kills those that have not after `grace_s` seconds in all."""
    deadline = time.monotonic() + grace_s
    if grace_s:
        for server in servers:
            server.terminate()
    for server in servers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(max(deadline - time.monotonic(), 0.0))
    for server in servers:
        server.kill()
        server.wait()


def _answer(document: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
