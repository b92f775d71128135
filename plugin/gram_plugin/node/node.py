"""An OpenSearch of one's own: one or three servers on loopback, started, waited for and ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.account import Account, server_account
from gram_plugin.node.folder import ClusterFolder
from gram_plugin.node.java import fetch_java, find_java
from gram_plugin.node.keeper import Job, Order
from gram_plugin.node.release import DEFAULT_VERSION, Progress, Release, cache_folder, provide
from gram_plugin.node.server import Server, cluster_settings

SYSTEM_CACHE = Path("/var/cache/gram-opensearch")
"""Where root unpacks servers when the unprivileged account cannot enter root's own cache folder."""

_POLL_S = 0.05
_GRACE_S = 15.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeSettings:
    """What kind of OpenSearch to start; every field has a default.

    `data` keeps the data in a folder that outlives the servers (None: a temporary one). `port` 0 takes a free one.
    `user` is the account that root hands over to. `repository` is the URL of a Maven mirror. `settings` are
    further lines of opensearch.yml.
    """

    version: str = DEFAULT_VERSION
    nodes: int = 1
    data: Path | None = None
    port: int = 0
    heap: str = "512m"
    start_timeout_s: float = 120.0
    user: str = ""
    repository: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.nodes not in (1, 3):
            raise ConfigError(f"a cluster of one's own has 1 or 3 nodes, not {self.nodes}")
        if self.port and self.nodes > 1:
            raise ConfigError("--port names one port, three nodes need three", next_step="leave --port out")


@dataclass(frozen=True)
class RunningNode:
    """A started cluster; leaving its `with` block ends it."""

    urls: tuple[str, ...]
    pids: tuple[int, ...]
    folder: Path
    keeper: subprocess.Popen[str]

    @property
    def url(self) -> str:
        """The address of the first server."""
        return self.urls[0]

    def stop(self) -> None:
        """Ends the servers and removes temporary data; a second call does nothing."""
        self.keeper.terminate()
        self.keeper.wait()

    def __enter__(self) -> RunningNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_node(
    settings: NodeSettings | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    detached: bool = False,
    progress: Progress | None = None,
) -> RunningNode:
    """Starts an OpenSearch and returns when its health is green.

    The servers end with this process, however it ends, unless `detached`.

    Raises:
        NodeError: no archive, a taken port, a server that ended or was not healthy in time (with the end of its log).
        JavaError: no fitting Java.
    """
    settings = settings or NodeSettings()
    check_port(settings.port)
    account = server_account(name=settings.user)
    release = Release(settings.version)
    cache = cache_folder(environ)
    servers_folder = readable_cache(cache, account)
    java = find_java(
        release, environ, cache=servers_folder, install=fetch_java(servers_folder), usable=account.can_enter
    )
    home = provide(release, cache, servers_folder, repository=settings.repository, progress=progress)
    with ClusterFolder.open(settings.data, account) as folder:
        servers = [Server(folder.path / f"node-{number}", home, java) for number in range(settings.nodes)]
        for server in servers:
            server.prepare({**cluster_settings(settings.nodes, settings.port), **settings.settings}, settings.heap)
            account.own(server.folder)
        node = _launch(servers, folder, account, detached=detached)
    with _stopped_on_error(node):
        return _ready(node, servers, settings)


def check_port(port: int) -> None:
    """Fails early and clearly when a wanted port is in use; 0 means none is wanted.

    Raises:
        NodeError: another program listens there.
    """
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise NodeError(
            f"port {port} on 127.0.0.1 cannot be used: {error.strerror}",
            next_step="choose another --port, or leave it out to get a free one",
        ) from error


def readable_cache(cache: Path, account: Account) -> Path:
    """The folder for unpacked servers: the cache, or the system's cache when the account cannot enter ours.

    Raises:
        NodeError: the account can enter neither.
    """
    for folder in (cache, SYSTEM_CACHE):
        if account.can_enter(folder):
            return folder
    raise NodeError(
        f"account {account.name!r} can enter neither {cache} nor {SYSTEM_CACHE}",
        next_step="set XDG_CACHE_HOME to a folder that every account can enter",
    )


def _launch(servers: Sequence[Server], folder: ClusterFolder, account: Account, *, detached: bool) -> RunningNode:
    order = Order(
        jobs=[_job(server) for server in servers],
        parent=0 if detached else os.getpid(),
        uid=account.uid,
        gid=account.gid,
        changes_account=account.changes,
        remove=str(folder.path) if folder.temporary else "",
        grace_s=_GRACE_S,
    )
    with (folder.path / "keeper.log").open("w", encoding="utf-8") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "gram_plugin.node.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder.path,
            start_new_session=True,  # Ctrl-C reaches us alone; we end the servers in order
            pass_fds=(folder.lock,),
            text=True,
        )
    answer = _talk(keeper, order)
    if "pids" not in answer:
        keeper.wait()
        raise NodeError(f"OpenSearch could not be started: {answer.get('error', 'the keeper ended')}")
    return RunningNode((), tuple(answer["pids"]), folder.path, keeper)


def _talk(keeper: subprocess.Popen[str], order: Order) -> dict[str, Any]:
    stdin, stdout = keeper.stdin, keeper.stdout
    if stdin is None or stdout is None:
        raise NodeError("the keeper has no pipes")
    with stdout:
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(order.to_json() + "\n")
        answer: dict[str, Any] = json.loads(stdout.readline() or "{}")
    return answer


def _job(server: Server) -> Job:
    return Job(
        command=server.command(),
        environ=server.environ(),
        folder=str(server.folder),
        console=str(server.console),
        exit_file=str(server.exit_file),
    )


@contextmanager
def _stopped_on_error(node: RunningNode) -> Iterator[None]:
    try:
        yield
    except BaseException:  # Ctrl-C too: nothing may stay behind
        node.stop()
        raise


def _ready(node: RunningNode, servers: Sequence[Server], settings: NodeSettings) -> RunningNode:
    deadline = time.monotonic() + settings.start_timeout_s

    def wait_for(what: str, found: Callable[[], bool]) -> None:
        while not found():
            _check_alive(servers)
            if time.monotonic() > deadline:
                raise _failure(servers[0], f"OpenSearch had no {what} after {settings.start_timeout_s:.0f} s")
            time.sleep(_POLL_S)

    wait_for("ports", lambda: all(address(server, kind) for server in servers for kind in ("http", "transport")))
    hosts = "".join(f"{address(server, 'transport')}\n" for server in servers)
    for server in servers:
        server.seed_hosts.write_text(hosts, encoding="ascii")
        server.seed_hosts.chmod(0o644)
    urls = tuple(f"http://{address(server, 'http')}" for server in servers)
    wait_for("green health", lambda: all(is_green(url, len(servers)) for url in urls))
    return RunningNode(urls, node.pids, node.folder, node.keeper)


def address(server: Server, kind: str) -> str:
    """The `host:port` that a server got for `http` or `transport`; "" while it has none."""
    try:
        lines = server.ports_file(kind).read_text(encoding="ascii").split()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("127.0.0.1:")), "")


def is_green(url: str, nodes: int, *, timeout_s: float = 5.0) -> bool:
    """Whether the cluster at `url` is green and has exactly `nodes` members; False while it does not answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout_s)
    try:
        connection.request("GET", "/_cluster/health")
        health = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return bool(health.get("status") == "green" and health.get("number_of_nodes") == nodes)


def _check_alive(servers: Sequence[Server]) -> None:
    for server in servers:
        if server.exit_file.exists():
            raise _failure(server, f"OpenSearch ended with status {server.exit_file.read_text().strip()}")


def _failure(server: Server, finding: str) -> NodeError:
    return NodeError(
        f"{finding} while starting; the end of its log:\n{server.log_tail()}\n",
        next_step="see the first ERROR above",
    )
