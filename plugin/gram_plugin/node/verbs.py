"""The verbs `gram node run|start|stop|status`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node import release
from gram_plugin.node.detached import DEFAULT_NAME, DetachedNode, find_detached, start_detached, stop_detached
from gram_plugin.node.node import NodeSettings, is_healthy, start_node

_POLL_S = 0.2
_DEFAULTS = NodeSettings()

_Version = Annotated[str, typer.Option("--version", help="Version of OpenSearch, such as 3.8.0 or 2.19.4.")]
_Nodes = Annotated[int, typer.Option("--nodes", help="1, or 3 for a cluster of three.")]
_Data = Annotated[Path | None, typer.Option("--data", help="Folder that keeps the data; temporary when left out.")]
_Port = Annotated[int, typer.Option("--port", help="Port for HTTP; 0 takes a free one.")]
_Heap = Annotated[str, typer.Option("--heap", help="Memory of each server's Java heap.")]
_Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for a healthy cluster.")]
_User = Annotated[str, typer.Option("--user", help="Account that root hands over to.")]
_Repository = Annotated[str, typer.Option("--repository", help="URL of a Maven mirror to fetch from.")]
_Set = Annotated[list[str], typer.Option("--set", help="Line for opensearch.yml as KEY=VALUE; VALUE may be JSON.")]
_Java = Annotated[list[str], typer.Option("--java-option", help="Further option of Java, such as -Xss2m.")]
_Name = Annotated[str, typer.Option("--name", help="Which of several nodes that outlive their command.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs of this room to the program."""
    node = typer.Typer(help="An OpenSearch of one's own, on loopback.", no_args_is_help=True)
    node.command("run")(_run)
    node.command("start")(_start)
    node.command("stop")(_stop)
    node.command("status")(_status)
    app.add_typer(node, name="node")


def _run(
    version: _Version = _DEFAULTS.version,
    nodes: _Nodes = _DEFAULTS.nodes,
    data: _Data = None,
    port: _Port = _DEFAULTS.port,
    heap: _Heap = _DEFAULTS.heap,
    timeout: _Timeout = _DEFAULTS.start_timeout_s,
    user: _User = _DEFAULTS.user,
    repository: _Repository = _DEFAULTS.repository,
    lines: _Set = [],  # noqa: B006 - typer copies it
    java_options: _Java = [],  # noqa: B006
) -> None:
    """Start OpenSearch, print its URL, and keep it until Ctrl-C."""
    settings = NodeSettings(
        version, nodes, data, port, heap, timeout, user, repository, tuple(java_options), parse_lines(lines)
    )
    with _signals_exit(), _download_bar() as bar, start_node(settings, progress=bar) as running:
        for url in running.urls:
            typer.echo(url)
        while running.keeper.poll() is None:
            running.check_alive()
            time.sleep(_POLL_S)
        raise NodeError("the servers were ended from outside")


def _start(
    version: _Version = _DEFAULTS.version,
    nodes: _Nodes = _DEFAULTS.nodes,
    data: _Data = None,
    port: _Port = _DEFAULTS.port,
    heap: _Heap = _DEFAULTS.heap,
    timeout: _Timeout = _DEFAULTS.start_timeout_s,
    user: _User = _DEFAULTS.user,
    repository: _Repository = _DEFAULTS.repository,
    lines: _Set = [],  # noqa: B006 - typer copies it
    java_options: _Java = [],  # noqa: B006
    name: _Name = DEFAULT_NAME,
) -> None:
    """Start OpenSearch, print its URL, and leave it running until `gram node stop`."""
    settings = NodeSettings(
        version, nodes, data, port, heap, timeout, user, repository, tuple(java_options), parse_lines(lines)
    )
    with _signals_exit(), _download_bar() as bar:
        detached = start_detached(settings, os.environ, name=name, progress=bar)
    for url in detached.urls:
        typer.echo(url)


def _stop(name: _Name = DEFAULT_NAME) -> None:
    """End the OpenSearch that `gram node start` left running."""
    stopped = stop_detached(os.environ, name=name)
    typer.echo(f"stopped {stopped.url}")


def _status(name: _Name = DEFAULT_NAME) -> None:
    """Print what runs; exit status 1 if nothing does, or if it is not healthy."""
    detached = find_detached(os.environ, name=name)
    if detached is None:
        raise NodeError(f"no node {name!r} runs", next_step="gram node start")
    for line in describe(detached):
        typer.echo(line)
    if ended := detached.ended_servers():
        raise NodeError(
            f"{', '.join(ended)} ended by itself", next_step=f"read {detached.folder / ended[0]}/console.log"
        )
    if not is_healthy(detached.url, len(detached.urls)):
        raise NodeError(f"{detached.url} is not healthy", next_step=f"read {detached.folder}/node-0/console.log")


def describe(detached: DetachedNode) -> list[str]:
    """One line for each thing to know of a running cluster."""
    return [
        f"url      {' '.join(detached.urls)}",
        f"version  {detached.version}",
        f"folder   {detached.folder}",
        f"pids     {' '.join(map(str, detached.pids))} (keeper {detached.keeper_pid})",
    ]


def parse_lines(lines: list[str]) -> dict[str, Any]:
    """Reads `KEY=VALUE` arguments; a value that is no JSON is a string.

    Raises:
        ConfigError: there is no `=`, or nothing before it.
    """
    parsed = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {line!r} is not of the form KEY=VALUE")
        parsed[key] = _json_or_text(value)
    return parsed


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@contextmanager
def _signals_exit() -> Iterator[None]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into an exit that runs every `finally`, so that the servers end first."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _download_bar() -> Iterator[release.Progress]:
    """A bar on stderr that appears with the first byte fetched; stdout stays the URL's alone."""
    columns = (TextColumn("fetching OpenSearch"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("archive", total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total or None)
        if done >= total:
            bar.stop()

    try:
        yield show
    finally:
        bar.stop()
