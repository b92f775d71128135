"""Bodies in memory: read up to a bound or handed on whole as a stream, and worked on without holding up others."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.http import has_body
from gram_plugin.serve.outgoing import Body
from gram_plugin.serve.status import NotEnriched, Reason, off

T = TypeVar("T")

LARGE_BYTES = 65_536
"""Reading more JSON than this takes milliseconds, which the budgets of all other searches would lose."""


async def beside_others(size: int, work: Callable[[], T]) -> T:
    """Does the work on `size` bytes: in a thread when they are many, else at once.

    A thread alone is not enough: JSON is parsed and written without letting others run, unless Python is called
    in between, as `read_plainly` and `write_plainly` do.
    """
    return await asyncio.to_thread(work) if size > LARGE_BYTES else work()


async def in_time(size: int, work: Callable[[], T], deadline: Deadline) -> T:
    """As `beside_others`; large work that is not done at the deadline is left to its thread, or never begun.

    Raises:
        TimeoutError: it was not.
    """
    if size <= LARGE_BYTES:
        return work()
    async with asyncio.timeout(deadline.remaining_s):
        return await asyncio.to_thread(work)


def read_plainly(text: bytes) -> Any:
    """JSON as a value; other threads run meanwhile.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is too deep.
    """
    return json.loads(text, object_pairs_hook=_object)


def write_plainly(document: Mapping[str, Any], size: int, *, allow_nan: bool, ensure_ascii: bool) -> str:
    """Compact JSON of about `size` bytes; while it is large other threads run.

    Raises:
        ValueError: a number is NaN or infinite, and that is not allowed.
        RecursionError: it is too deep.
    """
    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=allow_nan, ensure_ascii=ensure_ascii)
    return "".join(encoder.iterencode(document)) if size > LARGE_BYTES else encoder.encode(document)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


@dataclass(frozen=True)
class RequestBody:
    """What a client sent: `content` when it was small enough to read, and what goes on when it stays untouched."""

    content: bytes | None
    untouched: Body


async def read_body(request: Request, max_bytes: int) -> RequestBody:
    """Reads a body of at most `max_bytes`; of a larger one only as much as tells that it is larger."""
    if not has_body(request):
        return RequestBody(b"", None)
    stream = request.stream()
    if int(request.headers.get("content-length", 0)) > max_bytes:
        return RequestBody(None, stream)
    pieces = bytearray()
    async for piece in stream:
        pieces += piece
        if len(pieces) > max_bytes:
            return RequestBody(None, _rejoined(bytes(pieces), stream))
    return RequestBody(bytes(pieces), bytes(pieces))


def readable(content: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """The JSON text of a body, unzipped when need be.

    Raises:
        NotEnriched: it is encoded or typed in another way, damaged, or larger than `max_bytes` once unzipped.
    """
    encoding, media_type = headers.get("content-encoding", ""), headers.get("content-type", "")
    if media_type and "json" not in media_type.lower():
        raise NotEnriched(off(Reason.CONTENT_TYPE))
    if encoding.lower() in ("", "identity"):
        return content
    if encoding.lower() not in ("gzip", "x-gzip"):
        raise NotEnriched(off(Reason.ENCODING))
    return _unzipped(content, max_bytes)


def _unzipped(content: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(31)
    try:
        text = inflater.decompress(content, max_bytes + 1)
    except zlib.error:
        raise NotEnriched(off(Reason.ENCODING)) from None
    if len(text) > max_bytes:
        raise NotEnriched(off(Reason.TOO_LARGE))
    if not inflater.eof or inflater.unused_data:
        # Cut short, or something behind the end that OpenSearch may read in another way.
        raise NotEnriched(off(Reason.ENCODING))
    return text


async def _rejoined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
