"""Unpacking: what a packed body becomes, and what it counts meanwhile."""

from __future__ import annotations

import gzip
import random

import pytest

from gram_plugin.errors import OverloadError
from gram_plugin.serve.admission import Admission, Share, TooLargeError
from gram_plugin.serve.coding import Reason
from gram_plugin.serve.unpacking import Unpacked, unpack

PACKED = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
PIECE = 1 << 22


def share_of(body: bytes, *, total: int = 1 << 26) -> Share:
    """The share of a request with this body, which is counted already."""
    room = Admission(max_body_bytes=1 << 25, max_total_bytes=total, max_requests=1, max_documents=1)
    share = Share(room)
    share.hold(len(body))
    share.body = body
    return share


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 7])
@pytest.mark.parametrize("level", [0, 9])
async def test_a_body_of_any_size_comes_out_whole(size: int, level: int) -> None:
    """Whatever part of it a piece ends in."""
    plain = random.Random(7).randbytes(1000) * (size // 1000 + 1)
    share = share_of(gzip.compress(plain[:size], level))
    assert await unpack(share, PACKED, 1 << 25) == Unpacked(plain[:size])


async def test_damage_behind_the_first_piece_makes_the_body_unreadable() -> None:
    """What came out before is not used."""
    packed = gzip.compress(random.Random(7).randbytes(2 * PIECE))
    share = share_of(packed[:-8] + bytes(8))
    assert await unpack(share, PACKED, 1 << 25) == Unpacked(share.body, Reason.MALFORMED)


async def test_a_body_that_grows_without_end_stops_at_the_first_bound() -> None:
    """Its own, or that of all bodies together."""
    bomb = gzip.compress(bytes(1 << 26))
    with pytest.raises(TooLargeError, match="unpacks to more than 1000 bytes"):
        await unpack(share_of(bomb), PACKED, 1000)
    neighbour = share_of(bomb, total=3 * PIECE)
    with pytest.raises(TooLargeError, match="the request alone"):
        await unpack(neighbour, PACKED, 1 << 26)


async def test_beside_others_a_body_that_finds_no_room_unpacked_is_overload() -> None:
    """It counts until the request ends, as far as it came."""
    room = Admission(max_body_bytes=1 << 25, max_total_bytes=2 * PIECE, max_requests=2, max_documents=1)
    other, share = Share(room), Share(room)
    other.hold(PIECE)
    share.body = gzip.compress(bytes(PIECE + 1))
    with pytest.raises(OverloadError):
        await unpack(share, PACKED, 1 << 25)
    share.give_back()
    assert room.total_bytes == PIECE
