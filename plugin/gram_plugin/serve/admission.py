"""Admission: how many request bodies are in memory at one time, so that overload is an answer and not memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.requests import Request

from gram_plugin.errors import GramError, OverloadError


class TooLargeError(GramError):
    """A body is larger than the server takes (HTTP 413)."""


class SlowBodyError(GramError):
    """A body stopped arriving (HTTP 408)."""


class Admission:
    """Bounds the bodies in memory: each by `max_body_bytes`, all together by `max_total_bytes` and `max_requests`.

    Bytes count when they are here, so a client that announces a body and does not send it takes no room from others.

    Args:
        max_body_bytes: largest body.
        max_total_bytes: most bytes of all bodies; several times the largest, or few fit beside each other.
        max_requests: most requests at one time.
        max_documents: documents that may wait for codes before a further request is refused.
        read_timeout_s: longest wait in seconds for each piece of a body; None waits as long as the client.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int,
        max_total_bytes: int,
        max_requests: int,
        max_documents: int,
        read_timeout_s: float | None = None,
    ) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_total_bytes = max_total_bytes
        self._max_requests = max_requests
        self._max_documents = max_documents
        self._read_timeout_s = read_timeout_s
        self.total_bytes = 0
        self.requests = 0
        self.documents = 0

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator[Share]:
        """The whole body of a request; its bytes, and what else its share holds, count until the context ends.

        Raises:
            TooLargeError: the body alone is too large.
            OverloadError: with the bodies that are here already it would be too much.
            SlowBodyError: the client stopped sending it.
        """
        self.requests += 1
        share = Share(self)
        try:
            share.body = await self._read(request, share)
            yield share
        finally:
            self.requests -= 1
            share.give_back()

    @contextmanager
    def coding(self, documents: int) -> Iterator[None]:
        """Counts the documents of a request until the context ends, when they have their codes.

        A request alone may have more than `max_documents`, or it could never be taken.

        Raises:
            OverloadError: `max_documents` wait already.
        """
        if self.documents >= self._max_documents:
            raise OverloadError(f"{self.documents} documents wait for codes already", next_step="send again later")
        self.documents += documents
        try:
            yield
        finally:
            self.documents -= documents

    async def _read(self, request: Request, share: Share) -> bytes:
        declared = int(request.headers.get("content-length") or 0)
        fault = self._too_large(declared) or self._too_many()
        body = bytearray()
        unread = self._max_body_bytes
        async for piece in self._pieces(request):
            fault = fault or self._too_large(len(body) + len(piece)) or share.grow(len(piece))
            if fault is None:
                body += piece
                continue
            # What is refused is still read, a while, so that the client sees the answer and not a reset.
            body.clear()
            share.give_back()
            unread -= len(piece)
            if unread < 0:
                break
        if fault is not None:
            raise fault
        return bytes(body)

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        while True:
            try:
                async with asyncio.timeout(self._read_timeout_s):
                    piece = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise SlowBodyError(
                    f"no more of the body came for {self._read_timeout_s} s",
                    next_step="send it again, and look at the network between",
                ) from None
            yield piece

    def _too_large(self, size: int) -> GramError | None:
        if size <= self._max_body_bytes:
            return None
        return TooLargeError(
            f"the body has more than {self._max_body_bytes} bytes",
            next_step="send smaller bulks, or raise GRAM_MAX_BODY_BYTES",
        )

    def _too_many(self) -> GramError | None:
        return self._overload() if self.requests > self._max_requests else None

    def no_room(self, held: int, more: int) -> GramError | None:
        """Why there is no room for `more` bytes of a request that holds so many already; None where there is."""
        if held + more > self._max_total_bytes:
            return TooLargeError(
                f"the request alone takes more than {self._max_total_bytes} bytes of memory",
                next_step="send smaller bulks, or raise GRAM_MAX_BODY_BYTES",
            )
        return self._overload() if self.total_bytes + more > self._max_total_bytes else None

    def _overload(self) -> OverloadError:
        return OverloadError(
            f"{self.requests - 1} write requests of {self.total_bytes} bytes are being worked on",
            next_step="send again later",
        )


class Share:
    """The body of one request, and the bytes in memory that count for it."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._size = 0
        self.body = b""

    def hold(self, more: int) -> None:
        """Counts so many bytes more.

        Raises:
            TooLargeError: alone it would be too much.
            OverloadError: with all that is here already it would be too much.
        """
        if fault := self.grow(more):
            raise fault

    def grow(self, more: int) -> GramError | None:
        """Counts so many bytes more, or says why they have no place."""
        fault = self._admission.no_room(self._size, more)
        if fault is None:
            self._size += more
            self._admission.total_bytes += more
        return fault

    def give_back(self) -> None:
        """Counts nothing any more."""
        self._admission.total_bytes -= self._size
        self._size = 0
