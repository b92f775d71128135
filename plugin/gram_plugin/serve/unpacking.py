"""Unpacking: the JSON text of a write's body, its gzip undone piece by piece, each counted before the next."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from gram_plugin.serve.admission import Share, TooLargeError
from gram_plugin.serve.coding import Reason
from gram_plugin.serve.http import header
from gram_plugin.serve.outgoing import Headers

_PIECE_BYTES = 1 << 22  # unpacked at once, before it is counted


@dataclass(frozen=True)
class Unpacked:
    """A body that can be read, or the reason why not."""

    body: bytes
    reason: Reason | None = None


async def unpack(share: Share, headers: Headers, max_bytes: int) -> Unpacked:
    """The body as JSON text, gzip undone; what cannot be read says why and stays as it is.

    Raises:
        TooLargeError: it would unpack to more than `max_bytes`.
        OverloadError: there is no room for it unpacked.
    """
    kind = (header(headers, b"content-type") or b"application/json").lower()
    encoding = (header(headers, b"content-encoding") or b"identity").lower()
    if b"json" not in kind or encoding not in {b"identity", b"gzip", b"x-gzip"}:
        return Unpacked(share.body, Reason.CONTENT_TYPE)
    if encoding == b"identity":
        return Unpacked(share.body)
    plain = await _inflated(share, max_bytes)
    return Unpacked(share.body, Reason.MALFORMED) if plain is None else Unpacked(plain)


async def _inflated(share: Share, max_bytes: int) -> bytes | None:
    """The body without its gzip, counted piece by piece; None where it is damaged, cut off or followed by more."""
    inflater, rest, plain = zlib.decompressobj(31), share.body, bytearray()
    while not inflater.eof:
        try:
            piece = await asyncio.to_thread(inflater.decompress, rest, min(_PIECE_BYTES, max_bytes + 1 - len(plain)))
        except zlib.error:
            return None
        if not piece and not inflater.eof:
            return None
        share.hold(len(piece))
        plain += piece
        if len(plain) > max_bytes:
            raise TooLargeError(f"the body unpacks to more than {max_bytes} bytes", next_step="send smaller bulks")
        rest = inflater.unconsumed_tail
    return None if inflater.unused_data else bytes(plain)
