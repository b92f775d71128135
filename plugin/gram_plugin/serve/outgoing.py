"""A request on its way to OpenSearch, in the form that aiohttp takes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from multidict import CIMultiDict

Headers = Sequence[tuple[bytes, bytes]]
Body = bytes | AsyncIterable[bytes | memoryview] | None

MAX_POOLED_TARGET_BYTES = 2048
MAX_POOLED_HEADER_BYTES = 8192
"""Half of what OpenSearch takes by default. To a longer head it says 400 and then never answers again on that
connection, which it leaves open: whoever got it from the pool next would wait for ever. So long heads go alone."""

PIECE_BYTES = 1 << 18


def framing(body: Body) -> frozenset[bytes]:
    """Headers that are not the client's any more: Host names the upstream, and a replaced body has its own length."""
    return frozenset({b"host", b"content-length"}) if isinstance(body, bytes) else frozenset({b"host"})


async def pieces(body: bytes) -> AsyncIterator[memoryview]:
    """A large body bit by bit: written as one it is copied into the connection's buffer while everybody else waits."""
    whole = memoryview(body)
    for at in range(0, len(body), PIECE_BYTES):
        yield whole[at : at + PIECE_BYTES]


def is_long(target: bytes, headers: Headers) -> bool:
    """Whether OpenSearch might refuse a head for its length."""
    length = sum(len(name) + len(value) + 4 for name, value in headers)
    return len(target) > MAX_POOLED_TARGET_BYTES or length > MAX_POOLED_HEADER_BYTES


def for_aiohttp(headers: Headers) -> CIMultiDict[str]:
    """Headers whose bytes come out as they came in."""
    return CIMultiDict((name.decode("latin-1"), _text(value)) for name, value in headers)


def _text(value: bytes) -> str:
    # aiohttp writes UTF-8, so UTF-8 comes out as it came in; older Latin-1 keeps its meaning.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def as_ascii(target: bytes) -> str:
    """Path and query as they came, with what may not stand in a request line percent-encoded."""
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x23 else f"%{byte:02X}" for byte in target)
