"""An OpenSearch of one's own: one or three servers on loopback, started, waited for and ended."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.account import Account, server_account
from gram_plugin.node.folder import ClusterFolder
from gram_plugin.node.java import fetch_java, find_java
from gram_plugin.node.keeper import Job, Order
from gram_plugin.node.launch import launch_keeper
from gram_plugin.node.release import DEFAULT_VERSION, Progress, Release, cache_folder, provide
from gram_plugin.node.server import Server, cluster_settings, final_options, jvm_options

SYSTEM_CACHE = Path("/var/cache/gram-opensearch")
"""Where root unpacks servers when the unprivileged account cannot enter root's own cache folder."""

_POLL_S = 0.05
_GRACE_S = 15.0


@dataclass(frozen=True)
class NodeSettings:
    """What kind of OpenSearch to start; every field has a default.

    `data` keeps the data in a folder that outlives the servers (None: a temporary one). `port` 0 takes a free one.
    `user` is the account that root hands over to. `repository` is the URL of a Maven mirror. `jvm_options` are
    further options of Java, `settings` further lines of opensearch.yml.
    """

    version: str = DEFAULT_VERSION
    nodes: int = 1
    data: Path | None = None
    port: int = 0
    heap: str = "512m"
    start_timeout_s: float = 180.0
    user: str = ""
    repository: str = ""
    jvm_options: tuple[str, ...] = ()
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
    servers: tuple[Server, ...]
    keeper: subprocess.Popen[str]
    temporary: bool

    @property
    def url(self) -> str:
        """The address of the first server."""
        return self.urls[0]

    @property
    def folder(self) -> Path:
        """The folder that holds the folders of all servers."""
        return self.servers[0].folder.parent

    def stop(self) -> None:
        """Ends the servers and removes temporary data; a second call does nothing."""
        self.keeper.terminate()
        self.keeper.wait()
        if self.temporary:  # a keeper that was killed could not do it
            shutil.rmtree(self.folder, ignore_errors=True)

    def check_alive(self) -> None:
        """Does nothing while all servers run.

        Raises:
            NodeError: one has ended by itself; with the end of its log.
        """
        for server in self.servers:
            if server.exit_file.exists():
                status = server.exit_file.read_text(encoding="ascii").strip()
                raise _failure(server, f"OpenSearch ended with status {status}")

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
    """Starts an OpenSearch and returns when it is healthy.

    The servers end with this process, however it ends, unless `detached`.

    Raises:
        NodeError: no archive, a taken port, a server that ended or was not healthy in time (with the end of its log).
        JavaError: no fitting Java.
    """
    settings = settings or NodeSettings()
    check_port(settings.port)
    account = server_account(name=settings.user)
    release, cache = Release(settings.version), cache_folder(environ)
    unpacked = readable_cache(cache, account)
    java = find_java(release, environ, cache=unpacked, install=fetch_java(unpacked), usable=account.can_enter)
    home = provide(release, cache, unpacked, repository=settings.repository, progress=progress)
    with ClusterFolder.open(settings.data, account) as folder:
        servers = tuple(Server(folder.path / f"node-{number}", home, java) for number in range(settings.nodes))
        options = _prepare(servers, settings, account)
        order = _order(servers, options, folder, account, parent=0 if detached else os.getpid())
        launched = launch_keeper(order, folder)
    node = RunningNode((), launched.pids, servers, launched.keeper, folder.temporary)
    with _stopped_on_error(node):
        return _ready(node, settings.start_timeout_s)


@contextmanager
def cluster_url(
    url: str = "", settings: NodeSettings | None = None, *, progress: Progress | None = None
) -> Iterator[str]:
    """Resolves 'a URL, or a node of one's own': the URL if one is given, else that of a node which ends with the block.

    Raises:
        ConfigError: `url` is no http or https URL.
        NodeError: there is no URL and no node can be started.
    """
    if url:
        yield check_url(url)
    else:
        with start_node(settings, progress=progress) as node:
            yield node.url


def check_url(url: str) -> str:
    """Returns `url` without a trailing slash, or raises ConfigError if it is no http(s) URL with a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no URL of an OpenSearch", next_step="write it as http://localhost:9200")
    return url.rstrip("/")


def check_port(port: int) -> None:
    """Fails early and clearly when a wanted port is in use; 0 means none is wanted.

    Raises:
        NodeError: another program listens there, or the port is not allowed to us.
    """
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise NodeError(
            f"port {port} on 127.0.0.1 cannot be used: {error}",
            next_step="choose another --port, or leave it out to get a free one",
        ) from error


def readable_cache(cache: Path, account: Account, system: Path = SYSTEM_CACHE) -> Path:
    """The folder for unpacked servers: the cache, or the system's when the account cannot enter ours.

    Raises:
        NodeError: the account can enter neither.
    """
    for folder in (cache, system):
        if account.can_enter(folder):
            return folder
    raise NodeError(
        f"account {account.name!r} can enter neither {cache} nor {system}",
        next_step="set XDG_CACHE_HOME to a folder that every account can enter",
    )


def is_healthy(url: str, nodes: int, *, timeout_s: float = 5.0) -> bool:
    """Whether the cluster at `url` has exactly `nodes` members and every primary shard; False while it does not answer.

    Yellow is healthy: an index with a replica can never become green on one node.
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout_s)
    try:
        connection.request("GET", "/_cluster/health")
        health = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return health.get("status") in ("green", "yellow") and bool(health.get("number_of_nodes") == nodes)


def _prepare(servers: Sequence[Server], settings: NodeSettings, account: Account) -> list[str]:
    """Writes every server's files and returns the Java options that are the same for all."""
    first = servers[0]
    shipped = (first.home / "config" / "jvm.options").read_text(encoding="utf-8")
    options = jvm_options(shipped, settings.heap, settings.jvm_options)
    lines = {**cluster_settings(settings.nodes, settings.port), **settings.settings}
    for server in servers:
        server.prepare(lines, options)
        account.own(server.folder)
    return final_options(first)


def _order(
    servers: Sequence[Server], options: Sequence[str], folder: ClusterFolder, account: Account, parent: int
) -> Order:
    jobs = [
        Job(server.command(options), server.environ(), str(server.home), str(server.console), str(server.exit_file))
        for server in servers
    ]
    return Order(
        jobs=jobs,
        parent=parent,
        uid=account.uid if account.changes else -1,
        gid=account.gid if account.changes else -1,
        remove=str(folder.path) if folder.temporary else "",
        grace_s=_GRACE_S,
    )


@contextmanager
def _stopped_on_error(node: RunningNode) -> Iterator[None]:
    try:
        yield
    except BaseException:  # Ctrl-C too: nothing may stay behind
        node.stop()
        raise


def _ready(node: RunningNode, timeout_s: float) -> RunningNode:
    """Waits for ports, tells the servers of each other, waits for health."""
    deadline = time.monotonic() + timeout_s
    servers = node.servers
    _wait(node, "ports", lambda: all(_has_ports(server) for server in servers), deadline)
    hosts = "".join(f"{server.address('transport')}\n" for server in servers)
    for server in servers:
        server.seed_hosts.write_text(hosts, encoding="ascii")
        server.seed_hosts.chmod(0o644)
    ready = replace(node, urls=tuple(f"http://{server.address('http')}" for server in servers))
    _wait(ready, "healthy cluster", lambda: all(is_healthy(url, len(servers)) for url in ready.urls), deadline)
    return ready


def _has_ports(server: Server) -> bool:
    return bool(server.address("http") and server.address("transport"))


def _wait(node: RunningNode, what: str, found: Callable[[], bool], deadline: float) -> None:
    while not found():
        node.check_alive()
        if time.monotonic() > deadline:
            raise _failure(node.servers[0], f"OpenSearch had no {what} in time")
        time.sleep(_POLL_S)


def _failure(server: Server, finding: str) -> NodeError:
    return NodeError(
        f"{finding} ({server.name}); the end of its log:\n{server.log_tail()}\n",
        next_step="the first ERROR above names the cause; a slow machine needs a higher --timeout",
    )
