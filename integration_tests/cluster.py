"""Three servers of one cluster, any of which can be killed with -9 and started again at its old address."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from gram_plugin.node.account import Account, server_account
from gram_plugin.node.keeper import Job, Order
from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.node.server import Server, final_options

SETTINGS = NodeSettings(
    nodes=3,
    heap="256m",
    # Optimising Java code further would cost more CPU time than these tests can win back.
    jvm_options=("-XX:TieredStopAtLevel=1",),
)
_HEALTHY_S = 180


@dataclass
class Cluster:
    """A running cluster; each server that was started again has a keeper of its own."""

    node: RunningNode
    options: list[str]
    account: Account
    pids: list[int]
    keepers: dict[int, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of the servers, which never change."""
        return self.node.urls

    def kill(self, number: int) -> None:
        """Ends a server with -9; returns when it is gone."""
        os.kill(self.pids[number], signal.SIGKILL)
        limit, exit_file = time.monotonic() + 30, self.node.servers[number].exit_file
        while not exit_file.exists():
            assert time.monotonic() < limit, "the server did not end"
            time.sleep(0.01)
        if keeper := self.keepers.pop(number, None):
            _end(keeper)

    def start(self, number: int) -> None:
        """Starts a killed server with its data, at its old addresses; does not wait for it."""
        server = self.node.servers[number]
        ports = [f"-E{kind}.port={_port(server, kind)}" for kind in ("http", "transport")]
        server.exit_file.unlink()
        job = Job(
            [*server.command(self.options), *ports],
            server.environ(),
            str(server.home),
            str(server.console),
            str(server.exit_file),
        )
        uid, gid = (self.account.uid, self.account.gid) if self.account.changes else (-1, -1)
        order = Order([job], parent=os.getpid(), uid=uid, gid=gid, remove="", grace_s=0.0)
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "gram_plugin.node.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self.keepers[number] = keeper
        assert keeper.stdin is not None and keeper.stdout is not None
        with keeper.stdin, keeper.stdout:
            keeper.stdin.write(order.to_json() + "\n")
            keeper.stdin.close()
            (self.pids[number],) = json.loads(keeper.stdout.readline())["pids"]

    def settle(self) -> None:
        """Returns once all three servers are there and every shard has its copy."""
        limit = time.monotonic() + _HEALTHY_S
        while not all(map(_is_green, self.urls)):
            assert time.monotonic() < limit, self.node.servers[0].log_tail()
            time.sleep(0.1)


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Three servers; all of them end with the block."""
    with start_node(SETTINGS) as node:
        found = Cluster(node, final_options(node.servers[0]), server_account(), list(node.pids))
        try:
            yield found
        finally:
            for keeper in found.keepers.values():
                _end(keeper)


def _end(keeper: subprocess.Popen[str]) -> None:
    keeper.terminate()
    keeper.wait()


def _port(server: Server, kind: str) -> int:
    """The port that the server had; it keeps its file until it writes it anew."""
    return int(server.address(kind).rpartition(":")[2])


def _is_green(url: str) -> bool:
    try:
        with OpenSearch(url, timeout=5, max_retries=0) as client:
            health = client.cluster.health()
    except OpenSearchException:
        return False
    return bool(health["status"] == "green" and health["number_of_nodes"] == SETTINGS.nodes)
