"""A cluster that outlives the command which started it: its state file, and how it is found and ended again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.folder import is_locked
from gram_plugin.node.node import NodeSettings, start_node
from gram_plugin.node.release import Progress

DEFAULT_NAME = "default"
_POLL_S = 0.05
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class DetachedNode:
    """What later commands must know of a detached cluster.

    The pids are only believed while the keeper holds the lock in `folder`, so a pid that the system gave to
    another program is never signalled.
    """

    name: str
    version: str
    urls: tuple[str, ...]
    folder: Path
    keeper_pid: int
    pids: tuple[int, ...]

    @property
    def url(self) -> str:
        """The address of the first server."""
        return self.urls[0]

    @property
    def is_running(self) -> bool:
        """Whether its keeper lives."""
        return is_locked(self.folder)

    def ended_servers(self) -> tuple[str, ...]:
        """Names of servers that ended by themselves."""
        return tuple(sorted(path.parent.name for path in self.folder.glob("node-*/exit")))


def start_detached(
    settings: NodeSettings, environ: Mapping[str, str], *, name: str = DEFAULT_NAME, progress: Progress | None = None
) -> DetachedNode:
    """Starts a cluster that outlives this process, and notes it under `name`.

    Raises:
        NodeError: one of that name runs already, or it cannot be started.
    """
    path = state_path(environ, name)
    if found := find_detached(environ, name=name):
        raise NodeError(f"node {name!r} runs already at {found.url}", next_step=f"gram node stop --name {name}")
    node = start_node(settings, environ=environ, detached=True, progress=progress)
    detached = DetachedNode(name, settings.version, node.urls, node.folder, node.keeper.pid, node.pids)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(detached), "folder": str(detached.folder)}, indent=2), encoding="utf-8")
    except BaseException:  # a cluster that nobody can find again must not stay
        node.stop()
        raise
    node.keeper.returncode = 0  # it outlives us on purpose; otherwise Python warns of a process left running
    return detached


def find_detached(environ: Mapping[str, str], *, name: str = DEFAULT_NAME) -> DetachedNode | None:
    """The running cluster of that name; None, and a stale state file removed, if there is none."""
    path = state_path(environ, name)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tuples = {key: tuple(document[key]) for key in ("urls", "pids")}
        detached = DetachedNode(**{**document, **tuples, "folder": Path(document["folder"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NodeError(f"{path} is no state of a node: {error!r}", next_step=f"delete it (rm '{path}')") from error
    if not detached.is_running:
        path.unlink(missing_ok=True)
        return None
    return detached


def stop_detached(environ: Mapping[str, str], *, name: str = DEFAULT_NAME) -> DetachedNode:
    """Ends the cluster of that name and returns what it was.

    Raises:
        NodeError: there is none, or it did not end in time.
    """
    detached = find_detached(environ, name=name)
    if detached is None:
        raise NodeError(f"no node {name!r} runs", next_step="gram node start")
    with contextlib.suppress(ProcessLookupError):
        os.kill(detached.keeper_pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while detached.is_running:
        if time.monotonic() > deadline:
            raise NodeError(
                f"node {name!r} did not end in {_STOP_TIMEOUT_S:.0f} s",
                next_step=f"kill -9 {detached.keeper_pid} {' '.join(map(str, detached.pids))}",
            )
        time.sleep(_POLL_S)
    state_path(environ, name).unlink(missing_ok=True)
    return detached


def state_path(environ: Mapping[str, str], name: str) -> Path:
    """`$XDG_STATE_HOME/gram-opensearch/nodes/NAME.json`, by default below `~/.local/state`.

    Raises:
        ConfigError: the name would not be a plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise ConfigError(f"node name {name!r} is not made of letters, digits, _ and -")
    configured = Path(environ.get("XDG_STATE_HOME", ""))
    root = configured if configured.is_absolute() else Path.home() / ".local" / "state"
    return root / "gram-opensearch" / "nodes" / f"{name}.json"
