"""Work on bodies that leaves the event loop to others."""

from __future__ import annotations

import asyncio
import json

import pytest

from gram_plugin.search.query import Mode
from gram_plugin.serve.bodies import LARGE_BYTES, beside_others
from gram_plugin.serve.searches import Wishes, items_of, target_of


@pytest.mark.parametrize(("size", "others_run"), [(LARGE_BYTES, False), (LARGE_BYTES + 1, True)])
async def test_large_work_leaves_the_loop_to_others(size: int, others_run: bool) -> None:
    """While much is read other tasks go on; what is little is read at once, without the cost of a thread."""
    ran = asyncio.Event()
    other = asyncio.create_task(asyncio.to_thread(lambda: None))
    other.add_done_callback(lambda _: ran.set())
    loop = asyncio.get_running_loop()

    def work() -> bool:
        if others_run:
            asyncio.run_coroutine_threadsafe(ran.wait(), loop).result(10)
        return ran.is_set()

    assert await beside_others(size, work) is others_run
    await other


async def test_reading_a_large_search_lets_others_run_meanwhile() -> None:
    """The loop turns while a body of a megabyte is parsed, so that the deadlines of other searches hold."""
    terms = [{"term": {"sku": str(number)}} for number in range(30_000)]
    body = json.dumps({"query": {"bool": {"must": {"match": {"t": "sofa"}}, "should": terms}}}).encode()
    target = target_of("POST", b"/shop/_search", b"")
    assert target is not None
    reading = asyncio.create_task(beside_others(len(body), lambda: items_of(body, target, Wishes(Mode.RERANK, 50))))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert (reading.result()[0].lexical, turns > 3) == (body, True)
