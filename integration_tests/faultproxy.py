"""A TCP proxy that does to connections what networks do: it delays, slices, stalls, cuts and refuses them.

Requests are read whole, so that a fault may be limited to some of them; answers are bytes to it. It runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_LENGTH = re.compile(rb"(?im)^content-length:\s*(\d+)")
_PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What happens on the way; the default is nothing.

    Attributes:
        only: bytes of a request that it is limited to; empty means all requests.
        latency_s: delay of each request.
        jitter_s: most that is added to the delay of each piece of an answer, drawn at random.
        slice_bytes: answers come in pieces of at most so many bytes; 0 leaves them as they are.
        bytes_per_s: how fast answers come; 0 is as fast as they can.
        cut_after_bytes: the answer ends after so many bytes; None lets it be whole.
        reset: an answer that is cut ends with a reset instead of an end of file.
        stall: requests get no answer at all.
        slow_close_s: how long a connection stays open that OpenSearch has closed.
        reply: an HTTP answer that is given instead of OpenSearch's.
    """

    only: bytes = b""
    latency_s: float = 0.0
    jitter_s: float = 0.0
    slice_bytes: int = 0
    bytes_per_s: int = 0
    cut_after_bytes: int | None = None
    reset: bool = False
    stall: bool = False
    slow_close_s: float = 0.0
    reply: bytes = b""


NONE = Fault()


def reply(status: str, body: bytes, *headers: str) -> bytes:
    """An HTTP answer with a status line such as `503 Service Unavailable`."""
    head = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(eq=False)
class _Connection:
    """Both ends of one connection, and the fault of the request that is being answered."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    fault: Fault = NONE
    answered_bytes: int = 0


@dataclass
class FaultProxy:
    """Stands before `target`, a URL; `fault` holds for the requests that come from then on."""

    target: str
    fault: Fault = NONE
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    _open: dict[_Connection, asyncio.Task[Any] | None] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Open connections now."""
        return len(self._open)

    def listen(self) -> None:
        """Takes connections, after `refuse` on the same port."""
        self._call(self._listen())

    def refuse(self) -> None:
        """From now on connections are refused, and those that are open are reset."""
        self._call(self._refuse())

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Runs until the end."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            self.listen()
            yield self
        finally:
            self.refuse()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [task for task in self._open.values() if task is not None]
        for connection, task in list(self._open.items()):
            _reset(connection.near)
            if task is not None:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.target)
        try:
            far_reader, far = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(writer, far)
        self._open[connection] = asyncio.current_task()
        answers = asyncio.create_task(self._answers(connection, far_reader))
        try:
            await self._requests(connection, reader)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            del self._open[connection]
            far.close()
            writer.close()

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        async for request in _whole_requests(reader):
            self.requests.append(request)
            fault = self.fault if self.fault.only in request else NONE
            connection.fault, connection.answered_bytes = fault, 0
            await asyncio.sleep(fault.latency_s)
            if fault.reply:
                connection.near.write(fault.reply)
            elif fault.cut_after_bytes == 0:
                _end(connection)
                return
            elif not fault.stall:
                connection.far.write(request)

    async def _answers(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        """Sends on what OpenSearch answers, as the fault lets it."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                for piece in self._pieces(connection.fault, data):
                    await self._pause(connection.fault, piece)
                    if not self._send(connection, piece):
                        return
                    await connection.near.drain()
            await asyncio.sleep(connection.fault.slow_close_s)
        connection.near.close()

    def _pieces(self, fault: Fault, data: bytes) -> Iterator[bytes]:
        size = fault.slice_bytes or len(data)
        return (data[at : at + size] for at in range(0, len(data), size))

    async def _pause(self, fault: Fault, piece: bytes) -> None:
        seconds = self._random.uniform(0, fault.jitter_s) + (
            len(piece) / fault.bytes_per_s if fault.bytes_per_s else 0.0
        )
        if seconds:
            await asyncio.sleep(seconds)

    def _send(self, connection: _Connection, piece: bytes) -> bool:
        """False when the answer was cut here."""
        limit = connection.fault.cut_after_bytes
        room = len(piece) if limit is None else limit - connection.answered_bytes
        connection.near.write(piece[:room])
        connection.answered_bytes += len(piece)
        if room < len(piece):
            _end(connection)
            return False
        return True


async def _whole_requests(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Requests of a kept connection, each with its body; bodies have a length here, none is chunked."""
    while not reader.at_eof():
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        length = _LENGTH.search(head)
        yield head + (await reader.readexactly(int(length[1])) if length else b"")


def _end(connection: _Connection) -> None:
    if connection.fault.reset:
        _reset(connection.near)
    else:
        connection.near.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Cuts a connection with a reset, as a machine does that has forgotten it."""
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
