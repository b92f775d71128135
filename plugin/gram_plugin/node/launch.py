"""Our end of the keeper: starts its process, gives the order, reads the answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from gram_plugin.errors import NodeError
from gram_plugin.node.folder import ClusterFolder
from gram_plugin.node.keeper import Order


@dataclass(frozen=True)
class Launched:
    """A keeper's process and the pids of its servers."""

    keeper: subprocess.Popen[str]
    pids: tuple[int, ...]


def launch_keeper(order: Order, folder: ClusterFolder) -> Launched:
    """Starts a keeper in a session of its own (Ctrl-C reaches us alone) that holds the folder's lock.

    Raises:
        NodeError: it could not start the servers; nothing of it is left then.
    """
    log = folder.path / "keeper.log"
    with log.open("w", encoding="utf-8") as errors:
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "gram_plugin.node.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            pass_fds=(folder.lock,),
            text=True,
        )
    try:
        answer = _exchange(keeper, order)
    except BaseException:  # Ctrl-C too: an order that nobody waits for must not be kept
        keeper.terminate()
        keeper.wait()
        raise
    if "pids" in answer:
        return Launched(keeper, tuple(answer["pids"]))
    keeper.wait()
    reason = answer.get("error") or log.read_text(encoding="utf-8", errors="replace").strip()
    raise NodeError(f"the servers could not be started: {reason}")


def _exchange(keeper: subprocess.Popen[str], order: Order) -> dict[str, Any]:
    if keeper.stdin is None or keeper.stdout is None:
        raise NodeError("the keeper was started without pipes")
    with keeper.stdout as output:
        with contextlib.suppress(BrokenPipeError), keeper.stdin as orders:
            orders.write(order.to_json() + "\n")
        answer: dict[str, Any] = json.loads(output.readline() or "{}")
    return answer
