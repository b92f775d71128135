"""Held work: what has to go on to its end though the client that asked for it has hung up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response

from gram_plugin.serve.http import RelayedResponse

_log = logging.getLogger(__name__)


class HeldWork:
    """Tasks that no hang-up cancels; `end` waits for them when the program ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """How much is under way."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts work that nobody waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def answer(self, work: Coroutine[Any, Any, Response]) -> Response:
        """The response that the work gives; a caller who is cancelled leaves it running and unread."""
        task: asyncio.Task[Response] = self.start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_drop)
            raise

    async def end(self, timeout_s: float) -> None:
        """Waits for all, at most so many seconds, then cancels what is left."""
        if not self._tasks:
            return
        _, left = await asyncio.wait(self._tasks, timeout=timeout_s)
        if left:
            _log.warning("%d requests with scripts are cut off, their products may keep old codes", len(left))
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _drop(task: asyncio.Task[Response]) -> None:
    if task.cancelled():
        return
    if error := task.exception():
        _log.error("a request whose client is gone failed: %r", error)
    elif isinstance(response := task.result(), RelayedResponse):
        response.close()
