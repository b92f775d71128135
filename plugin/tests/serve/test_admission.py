"""Admission: what counts against the memory, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from starlette.requests import Request
from starlette.types import Message

from gram_plugin.errors import OverloadError
from gram_plugin.serve.admission import Admission, SlowBodyError, TooLargeError


def admission(*, read_timeout_s: float | None = None) -> Admission:
    """Room for bodies of 10 bytes, 25 bytes together, three requests and four documents."""
    return Admission(
        max_body_bytes=10, max_total_bytes=25, max_requests=3, max_documents=4, read_timeout_s=read_timeout_s
    )


def request(pieces: Sequence[bytes], *, declared: int | None = None, ends: bool = True) -> Request:
    """A request whose body comes in pieces; unless it `ends`, the client sends nothing more and stays."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if ends:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)

    async def receive() -> Message:
        for message in waiting:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    headers = [] if declared is None else [(b"content-length", str(declared).encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


async def test_a_body_counts_as_it_is_until_the_work_on_it_ends() -> None:
    """What was declared does not matter; afterwards nothing counts."""
    room = admission()
    async with room.admit(request([b"abc", b"de"], declared=5)) as share:
        assert (share.body, room.total_bytes, room.requests) == (b"abcde", 5, 1)
    assert (room.total_bytes, room.requests) == (0, 0)


async def test_a_body_that_never_comes_takes_no_room() -> None:
    """Clients that declare a body and send nothing do not keep others out."""
    room = admission()
    idle = [asyncio.create_task(room.admit(request([], declared=10, ends=False)).__aenter__()) for _ in range(2)]
    await asyncio.sleep(0)
    async with room.admit(request([b"x" * 10], declared=10)):
        assert (room.total_bytes, room.requests) == (10, 3)
    for task in idle:
        task.cancel()
    await asyncio.gather(*idle, return_exceptions=True)
    assert (room.total_bytes, room.requests) == (0, 0)


async def test_a_body_that_stops_coming_ends_after_the_read_timeout() -> None:
    """Each piece has its own time; what came counts no more."""
    room = admission(read_timeout_s=0.02)
    with pytest.raises(SlowBodyError, match=r"0\.02 s"):
        async with room.admit(request([b"abc"], ends=False)):
            pass
    assert (room.total_bytes, room.requests) == (0, 0)


@pytest.mark.parametrize(("pieces", "declared"), [([b""], 11), ([b"x" * 6, b"x" * 5], None)])
async def test_a_body_over_the_limit_is_refused_by_what_it_declares_or_has(
    pieces: list[bytes], declared: int | None
) -> None:
    """More than the largest body never fits, whatever else is here."""
    with pytest.raises(TooLargeError):
        async with admission().admit(request(pieces, declared=declared)):
            pass


async def test_bytes_and_requests_together_are_bounded_and_what_is_refused_leaves_its_room() -> None:
    """Two bodies of ten bytes and five bytes fit, six do not; nor does a fourth request."""
    room = admission()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(room.admit(request([b"x" * 10])))
        with pytest.raises(OverloadError, match="2 write requests of 25 bytes"):
            await stack.enter_async_context(room.admit(request([b"x" * 5, b"x"])))
        assert room.total_bytes == 20
        await stack.enter_async_context(room.admit(request([b"x" * 5])))
        with pytest.raises(OverloadError):
            await stack.enter_async_context(room.admit(request([])))
    assert (room.total_bytes, room.requests) == (0, 0)


async def test_what_a_request_holds_besides_its_body_counts_too() -> None:
    """Until its end; what alone is more than all may be is too large, not overload."""
    room = admission()
    async with room.admit(request([b"x" * 10])) as share, room.admit(request([b"x"])) as other:
        share.hold(9)
        other.hold(5)
        with pytest.raises(OverloadError):
            other.hold(1)
        with pytest.raises(TooLargeError):
            share.hold(7)
        assert room.total_bytes == 25
    assert room.total_bytes == 0


def test_a_request_of_any_size_is_coded_unless_too_many_documents_wait_already() -> None:
    """Three and nine fit beside each other, because four were not reached before; then nothing until one has ended."""
    room = admission()
    with room.coding(3):
        with room.coding(9), pytest.raises(OverloadError, match="12 documents wait"), room.coding(1):
            pass
        with room.coding(1):
            assert room.documents == 4
    assert room.documents == 0
