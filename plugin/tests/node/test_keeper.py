"""The keeper with real processes: it starts them, and none outlives it or its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gram_plugin.errors import NodeError
from gram_plugin.node.account import server_account
from gram_plugin.node.folder import ClusterFolder, is_locked
from gram_plugin.node.keeper import Job, Order
from gram_plugin.node.launch import Launched, launch_keeper

LIMIT_S = 30.0
SLEEP = ["/bin/sleep", "600"]
STUBBORN = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]


def wait_until(reached: Callable[[], bool]) -> None:
    """Returns as soon as a condition holds; fails after `LIMIT_S` seconds."""
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < deadline
        os.sched_yield()


def exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] not in ("", "Z")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ClusterFolder]:
    """A locked folder."""
    with ClusterFolder.open(tmp_path / "cluster", server_account(uid=1000)) as opened:
        yield opened


def order(folder: ClusterFolder, *commands: list[str], parent: int = 0, remove: str = "") -> Order:
    """An order to run commands in a folder, under our own account."""
    path, environ = str(folder.path), {"PATH": os.environ["PATH"]}
    jobs = [Job(command, environ, path, f"{path}/{n}.log", f"{path}/{n}.exit") for n, command in enumerate(commands)]
    return Order(jobs, parent, -1, -1, remove, grace_s=0.2)


def text_of(path: Path) -> str:
    """Content of a file; "" while there is none."""
    return path.read_text(encoding="ascii") if path.exists() else ""


def end(launched: Launched) -> None:
    """Ends a keeper as its owner does."""
    launched.keeper.terminate()
    launched.keeper.wait(LIMIT_S)


def test_an_order_survives_its_wire_form(folder: ClusterFolder) -> None:
    """What the keeper reads is what was ordered."""
    given = order(folder, SLEEP, STUBBORN, parent=7)
    assert Order.from_json(given.to_json()) == given


def test_a_told_keeper_ends_even_stubborn_servers(folder: ClusterFolder) -> None:
    """Those that ignore SIGTERM are killed after the grace."""
    launched = launch_keeper(order(folder, SLEEP, STUBBORN), folder)
    wait_until(lambda: text_of(folder.path / "1.log") == "ready\n")

    end(launched)

    assert [pid for pid in launched.pids if exists(pid)] == []


def test_a_signal_that_interrupts_the_wait_for_signals_is_heeded(folder: ClusterFolder) -> None:
    """Whichever instruction of the wait it interrupts: these keepers do nothing else than begin to wait."""
    code = "from gram_plugin.node import keeper; keeper.main(poll_s=0)"
    for _ in range(12):
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with keeper:
            try:
                assert keeper.stdin
                assert keeper.stdout
                keeper.stdin.write(order(folder).to_json() + "\n")
                keeper.stdin.flush()
                assert keeper.stdout.readline() == '{"pids": []}\n'
                keeper.terminate()
                assert keeper.wait(LIMIT_S) == 0
            finally:
                keeper.kill()


def test_a_temporary_folder_is_removed_at_the_end(folder: ClusterFolder) -> None:
    """Nothing is left of data that nobody asked to keep."""
    end(launch_keeper(order(folder, SLEEP, remove=str(folder.path)), folder))
    assert not folder.path.exists()


def test_the_end_of_a_server_is_noted_and_the_keeper_stays(folder: ClusterFolder) -> None:
    """Its exit status and log can be read until somebody says stop."""
    launched = launch_keeper(order(folder, ["/bin/sh", "-c", "echo last words; exit 3"], SLEEP), folder)
    wait_until(
        lambda: (folder.path / "0.exit").exists() and (folder.path / "0.exit").read_text(encoding="ascii") == "3\n"
    )
    assert (launched.keeper.poll(), (folder.path / "0.log").read_text(encoding="ascii")) == (None, "last words\n")
    end(launched)


def test_the_lock_lives_as_long_as_the_keeper(tmp_path: Path) -> None:
    """So nobody starts a second cluster there, and nobody trusts a pid after its keeper's end."""
    account = server_account(uid=1000)
    with ClusterFolder.open(tmp_path, account) as opened:
        launched = launch_keeper(order(opened, SLEEP), opened)
    assert is_locked(tmp_path)
    with pytest.raises(NodeError, match="in use by servers that run already"):
        ClusterFolder.open(tmp_path, account)

    end(launched)

    assert not is_locked(tmp_path)


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    """The servers before it are ended again, and the keeper too."""
    refused = pytest.raises(NodeError, match=r"could not be started: .*no-such-java")
    with ClusterFolder.open(tmp_path, server_account(uid=1000)) as opened, refused:
        launch_keeper(order(opened, SLEEP, ["/no-such-java"]), opened)
    assert not is_locked(tmp_path)


def test_servers_of_a_killed_keeper_are_ended_by_the_kernel(folder: ClusterFolder) -> None:
    """Kill -9 of the keeper leaves no server."""
    launched = launch_keeper(order(folder, STUBBORN), folder)

    launched.keeper.send_signal(signal.SIGKILL)
    launched.keeper.wait(LIMIT_S)

    wait_until(lambda: not exists(launched.pids[0]))


def test_the_keeper_follows_a_killed_parent(tmp_path: Path) -> None:
    """Kill -9 of the program that started the cluster ends keeper and servers, and removes the folder."""
    program = f"""
import os, signal, sys
from pathlib import Path
from gram_plugin.node.account import server_account
from gram_plugin.node.folder import ClusterFolder
from gram_plugin.node.keeper import Job, Order
from gram_plugin.node.launch import launch_keeper
path = Path({str(tmp_path / "cluster")!r})
with ClusterFolder.open(path, server_account(uid=1000)) as folder:
    job = Job({SLEEP!r}, dict(os.environ), str(path), str(path / "log"), str(path / "exit"))
    launched = launch_keeper(Order([job], os.getpid(), -1, -1, str(path), 5.0), folder)
print(launched.keeper.pid, *launched.pids, flush=True)
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout as output:
        pids = [int(pid) for pid in output.readline().split()]
    assert len(pids) == 2

    parent.send_signal(signal.SIGKILL)
    parent.wait(LIMIT_S)

    wait_until(lambda: not any(map(exists, pids)))
    assert not (tmp_path / "cluster").exists()
