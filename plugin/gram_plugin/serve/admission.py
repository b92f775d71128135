"""Admission: how many request bodies are in memory at one time, so that overload is an answer and not memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from gram_plugin.errors import GramError, OverloadError


class TooLargeError(GramError):
    """A body is larger than the server takes (HTTP 413)."""


class Admission:
    """Bounds the bodies in memory: each by `max_body_bytes`, all together by `max_total_bytes` and `max_requests`."""

    def __init__(self, *, max_body_bytes: int, max_total_bytes: int, max_requests: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_total_bytes = max_total_bytes
        self._max_requests = max_requests
        self.total_bytes = 0
        self.requests = 0

    @asynccontextmanager
    async def body_of(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body of a request; its bytes count until the context ends.

        Raises:
            TooLargeError: the body alone is too large.
            OverloadError: with the bodies that are here already it would be too much.
        """
        self.requests += 1
        share = _Share(self)
        try:
            yield await self._read(request, share)
        finally:
            self.requests -= 1
            self.total_bytes -= share.size

    async def _read(self, request: Request, share: _Share) -> bytes:
        fault = share.grow_to(int(request.headers.get("content-length") or 0))
        body = bytearray()
        unread = self._max_body_bytes
        async for piece in request.stream():
            fault = fault or share.grow_to(len(body) + len(piece))
            if fault is None:
                body += piece
                continue
            # What is refused is still read, a while, so that the client sees the answer and not a reset.
            body.clear()
            unread -= len(piece)
            if unread < 0:
                break
        if fault is not None:
            raise fault
        return bytes(body)

    def fault_of(self, size: int, more: int) -> GramError | None:
        """Why a body of `size` bytes, of which `more` do not count yet, has no place here."""
        if size > self._max_body_bytes:
            return TooLargeError(
                f"the body has more than {self._max_body_bytes} bytes",
                next_step="send smaller bulks, or raise GRAM_MAX_BODY_BYTES",
            )
        if self.requests > self._max_requests or self.total_bytes + more > self._max_total_bytes:
            return OverloadError(
                f"{self.requests - 1} write requests of {self.total_bytes} bytes are being worked on",
                next_step="send again later",
            )
        return None


class _Share:
    """The bytes of one body that count."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.size = 0

    def grow_to(self, size: int) -> GramError | None:
        """Counts the body as `size` bytes, or says why it cannot be."""
        more = max(0, size - self.size)
        fault = self._admission.fault_of(size, more)
        if fault is None:
            self.size += more
            self._admission.total_bytes += more
        return fault
