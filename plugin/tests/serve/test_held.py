"""Held work: it outlives its caller, and the end of the program bounds it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response

from gram_plugin.serve.held import HeldWork


async def test_work_goes_on_without_its_caller_and_the_end_waits_for_it() -> None:
    """A caller who stays gets the response; one who is cancelled leaves the work alone."""
    held, begun, go_on, done = HeldWork(), asyncio.Event(), asyncio.Event(), []

    async def work(name: str) -> Response:
        begun.set()
        await go_on.wait()
        done.append(name)
        return Response(name)

    staying = asyncio.create_task(held.answer(work("stays")))
    leaving = asyncio.create_task(held.answer(work("leaves")))
    await begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert len(held) == 2
    go_on.set()
    await held.end(10)
    assert ((await staying).body, sorted(done), len(held)) == (b"stays", ["leaves", "stays"], 0)


async def test_what_does_not_end_in_time_is_cut_off() -> None:
    """A program that has to end waits no longer than it may."""
    held = HeldWork()
    task = held.start(asyncio.Event().wait())
    await held.end(0.01)
    assert (task.cancelled(), len(held)) == (True, 0)
