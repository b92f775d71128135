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


def silent_but_for(*answered: str) -> Source:
    """A source that answers some texts at once and the others never."""

    class Choosy(Source):
        async def codes(self, text: str, role: Role) -> list[ScoredCode]:
            return [] if text in answered else await super().codes(text, role)

    return Choosy()


async def test_a_text_that_only_stood_behind_others_is_no_failure() -> None:
    """As long as the model gives codes to some in time, a dozen that come too late leave the breaker closed."""
    breaker = Breaker(1, 10, lambda: 0.0)
    codes = made(silent_but_for("a"), breaker)
    found = await asyncio.gather(*(reason(codes, text, 500) for text in "abcdefghijkl"))
    assert (found, breaker.is_open) == ([(), *[degraded(Reason.LATE)] * 11], False)
    await codes.close()


async def test_a_silent_model_is_one_failure_for_all_who_wait_through_the_silence() -> None:
    """A dozen at once are one failure, and a dozen after them the second."""
    breaker = Breaker(2, 10, lambda: 0.0)
    codes = made(silent_but_for(), breaker)
    opened = []
    for texts in ("abcdefghijkl", "mnopqrstuvwx"):
        await asyncio.gather(*(reason(codes, text, 20) for text in texts))
        opened.append(breaker.is_open)
    assert opened == [False, True]
    await codes.close()


async def test_a_tiny_budget_says_nothing_about_the_model() -> None:
    """A client that waits for a millisecond cannot switch codes off for all; a fair wait in vain counts."""
    breaker = Breaker(1, 10, lambda: 0.0)
    codes = made(silent_but_for(), breaker, fair_s=0.02)
    tiny = await reason(codes, "a", 1), breaker.is_open
    fair = await reason(codes, "b", 30), breaker.is_open
    assert (tiny, fair) == ((degraded(Reason.LATE), False), (degraded(Reason.LATE), True))
    await codes.close()


@pytest.mark.parametrize(("error", "trial"), [(None, ()), (DecodeError("x"), degraded(Reason.BREAKER))])
async def test_the_late_end_of_a_trial_makes_room_for_the_next(error: Exception | None, trial: Any) -> None:
    """A trial that nobody waited for long enough leaves the breaker half-open, and one that fails late opens it."""
    now = [0.0]
    breaker = Breaker(1, 10, lambda: now[0])
    breaker.failed()
    now[0] = 10.0
    source = Source(error)
    codes = made(source, breaker, fair_s=1)
    late = [await reason(codes, "a", 1), await reason(codes, "b", 1)]
    source.gate.set()
    await reason(codes, "a")  # joins the trial and waits for its end
    source.error = None
    assert (late, await reason(codes, "c")) == ([degraded(Reason.LATE), degraded(Reason.BREAKER)], trial)


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
