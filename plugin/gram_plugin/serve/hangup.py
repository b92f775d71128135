"""Stops the work for a client that has hung up."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelOnHangup:
    """ASGI middleware: once the request is read, a disconnect cancels whatever still works on it.

    Cancelling reaches the model queue and cuts the connection to OpenSearch, which stops the search there.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app as ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(receive, asyncio.current_task())
        if not _announces_body(scope):
            watch.listen(unread=True)
        try:
            await self._app(scope, watch.receive, send)
        except asyncio.CancelledError:
            if not watch.forgive():
                raise
        finally:
            watch.stop()


class _Watch:
    """Passes messages on; after the last piece of the body it listens for the disconnect alone."""

    def __init__(self, receive: Receive, worker: asyncio.Task[Any] | None) -> None:
        self._receive = receive
        self._worker = worker
        self._listener: asyncio.Task[None] | None = None
        self._unread = False
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        """The next message of the client, as ASGI."""
        if self._unread:
            self._unread = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._listener is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.listen(unread=False)
        return message

    def listen(self, *, unread: bool) -> None:
        """Starts to listen; `unread` promises the app an empty body that was not asked for yet."""
        self._unread = unread
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if self._worker is not None:
            self._worker.cancel()

    def forgive(self) -> bool:
        """True when the cancellation was ours, which ends here."""
        ours = self._gone.is_set()
        if ours and self._worker is not None:
            self._worker.uncancel()
        return ours

    def stop(self) -> None:
        """Ends the listening."""
        if self._listener is not None:
            self._listener.cancel()


def _announces_body(scope: Scope) -> bool:
    announced = {name for name, value in scope["headers"] if name != b"content-length" or value != b"0"}
    return b"content-length" in announced or b"transfer-encoding" in announced
