"""Codes of query texts under a deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gram_plugin.contract.codes import Role, ScoredCode
from gram_plugin.errors import DecodeError, OverloadError
from gram_plugin.serve.breaker import Breaker
from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.querycodes import CodeSource, QueryCodes
from gram_plugin.serve.status import NotEnriched, Reason, degraded


@dataclass
class Source:
    """Gives no codes to any text, or raises, once its gate is open."""

    error: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    texts: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def codes(self, text: str, role: Role) -> list[ScoredCode]:
        """As the protocol says."""
        self.texts.append(text)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(text)
            raise
        if self.error is not None:
            raise self.error
        return []


def made(source: CodeSource | None, breaker: Breaker | None = None, **changed: Any) -> QueryCodes:
    """Query codes with a breaker that one failure opens."""
    settings = {"cache_entries": 10, "cache_age_s": 60.0, **changed}
    return QueryCodes(
        source, breaker=breaker or Breaker(1, 10, lambda: 0.0), metrics=ShimMetrics(CollectorRegistry()), **settings
    )


def opened(error: Exception | None = None) -> Source:
    """A source that answers at once."""
    source = Source(error)
    source.gate.set()
    return source


async def reason(codes: QueryCodes, text: str, budget_ms: float = 60_000) -> Any:
    """Why there are no codes, or the codes."""
    try:
        return await codes.codes(text, Deadline.after(budget_ms))
    except NotEnriched as end:
        return end.status


async def test_negative_results_are_kept_and_failures_are_not() -> None:
    """A text that has no codes is not decoded twice; one that failed is."""
    silent, broken = opened(), opened(DecodeError("x"))
    codes, failing = made(silent), made(broken, Breaker(9, 10, lambda: 0.0))
    found = [await reason(codes, "a") for _ in range(2)]
    failures = [await reason(failing, "a") for _ in range(2)]
    assert (found, silent.texts) == ([(), ()], ["a"])
    assert (failures, broken.texts) == ([degraded(Reason.MODEL_ERROR)] * 2, ["a", "a"])


@pytest.mark.parametrize("text", ["", "   ", "\x00\n"])
async def test_a_text_without_words_is_not_decoded(text: str) -> None:
    """There is nothing to ask the model."""
    source = opened()
    assert (await reason(made(source), text), source.texts) == ((), [])


async def test_a_late_decoding_counts_once_and_fills_the_cache() -> None:
    """Two clients give up on one decoding: one failure; when it ends, the cache has it although the breaker is open."""
    source, breaker = Source(), Breaker(2, 10, lambda: 0.0)
    codes = made(source, breaker)
    late = await asyncio.gather(reason(codes, "a", 1), reason(codes, "A", 1))
    open_after_one = breaker.is_open
    source.gate.set()
    breaker.failed()
    while (found := await reason(codes, "a")) != ():
        pass
    assert (late, open_after_one, breaker.is_open) == ([degraded(Reason.LATE)] * 2, False, True)
    assert (found, source.texts) == ((), ["a"])


async def test_overload_says_nothing_about_the_model() -> None:
    """A full queue neither opens the breaker nor blocks its trial."""
    breaker = Breaker(1, 0, lambda: 0.0)
    breaker.failed()
    codes = made(opened(OverloadError("full")), breaker)
    found = [await reason(codes, text) for text in "ab"]
    assert found == [degraded(Reason.OVERLOAD)] * 2


async def test_what_nobody_waits_for_is_cancelled() -> None:
    """When the last of those who wait hangs up, the decoding ends; not before."""
    source = Source()
    codes = made(source)
    tasks = [asyncio.create_task(codes.codes("a", Deadline.after(60_000))) for _ in range(2)]
    while not source.texts:
        await asyncio.wait(tasks, timeout=0.001)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    still_there = list(source.cancelled)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    await codes.close()
    assert (still_there, source.cancelled) == ([], ["a"])


async def test_a_hang_up_does_not_take_an_equal_query_with_it() -> None:
    """Who asks the same in the very moment in which the only waiting client hangs up gets its own decoding."""
    source = Source()
    codes = made(source)
    gone = asyncio.create_task(codes.codes("a", Deadline.after(60_000)))
    while not source.texts:
        await asyncio.wait([gone], timeout=0.001)
    gone.cancel()
    stays = asyncio.create_task(reason(codes, "a"))
    await asyncio.wait([gone])
    source.gate.set()
    assert (await stays, gone.cancelled(), source.texts) == ((), True, ["a", "a"])


async def test_without_a_model_it_says_so() -> None:
    """No source, no codes."""
    assert await reason(made(None), "a") == degraded(Reason.NO_MODEL)
