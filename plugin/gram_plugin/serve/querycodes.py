"""Codes of query texts: cached, decoded once for equal texts at one time, under a deadline and a breaker."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Protocol

from gram_plugin.contract.codes import Role, ScoredCode
from gram_plugin.contract.text import render_query
from gram_plugin.errors import OverloadError
from gram_plugin.serve.breaker import Breaker
from gram_plugin.serve.cache import AgedCache
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.status import NotEnriched, Reason, degraded

LOG = logging.getLogger(__name__)

Codes = tuple[ScoredCode, ...]


class CodeSource(Protocol):
    """What decodes one rendered text; `serve.batching.Batcher` is one."""

    async def codes(self, text: str, role: Role) -> list[ScoredCode]:
        """Ranked codes of one rendered text."""


@dataclass(eq=False)
class _Flight:
    """One decoding and those who wait for it.

    `late` once the deadline of one of them has passed, `counted` once the breaker has heard of that as a failure.
    """

    text: str
    task: asyncio.Task[Codes | Reason] = field(init=False)
    waiting: int = 0
    late: bool = False
    counted: bool = False


class QueryCodes:
    """Text to codes for the shim; every way to fail is a `NotEnriched` with its reason.

    A decoding that comes too late goes on and fills the cache, so that the next equal query has its codes;
    one that nobody waits for any more because all clients hung up is cancelled.

    The breaker is to open when asking the model is in vain: it fails, or nothing at all comes from it in time. So a
    late text is a failure only when the model gave no codes to anybody while its search waited, and so long a silence
    is one failure, however many searches wait through it. A text that only stood behind others is none.

    Args:
        source: the model; None says `no-model` to every search.
        breaker: keeps searches from asking in vain.
        metrics: counters of how texts got their codes.
        cache_entries: most texts whose codes are kept.
        cache_age_s: age in seconds at which codes are decoded again.
        fair_s: a wait of fewer seconds, such as a client's own tiny budget, says nothing about the model.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        source: CodeSource | None,
        *,
        breaker: Breaker,
        metrics: ShimMetrics,
        cache_entries: int,
        cache_age_s: float,
        fair_s: float = 0.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._source = source
        self._breaker = breaker
        self._metrics = metrics
        self._cache: AgedCache[str, Codes] = AgedCache(cache_entries, clock)
        self._cache_age_s = cache_age_s
        self._fair_s = fair_s
        self._flights: dict[str, _Flight] = {}
        self._heard = 0  # grows with each thing that the breaker is told

    async def codes(self, text: str, deadline: Deadline) -> Codes:
        """Codes of a query, best first; empty when the model has nothing to say.

        Raises:
            NotEnriched: they are not there at the deadline, or the model failed or was not asked.
        """
        if self._source is None:
            raise NotEnriched(degraded(Reason.NO_MODEL))
        rendered = render_query(text)
        if not rendered:
            return ()
        entry = self._cache.get(rendered)
        if entry is not None:
            self._metrics.queries.labels("cached").inc()
            return entry.value
        with self._metrics.wait.time():
            return await self._await(self._join(rendered, self._source), deadline)

    async def close(self) -> None:
        """Cancels what is still being decoded."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _join(self, rendered: str, source: CodeSource) -> _Flight:
        flight = self._flights.get(rendered)
        self._metrics.queries.labels("joined" if flight else "decoded").inc()
        if flight is None:
            if not self._breaker.allows():
                raise NotEnriched(degraded(Reason.BREAKER))
            flight = self._flights[rendered] = _Flight(rendered)
            flight.task = asyncio.create_task(self._decode(flight, source))
        return flight

    async def _await(self, flight: _Flight, deadline: Deadline) -> Codes:
        flight.waiting += 1
        given_s, heard = deadline.remaining_s, self._heard
        try:
            async with asyncio.timeout(given_s):
                found = await asyncio.shield(flight.task)
        except TimeoutError:
            flight.late = True
            if given_s >= self._fair_s and heard == self._heard and not flight.task.done():
                self._count_silence(flight)
            raise NotEnriched(degraded(Reason.LATE)) from None
        except asyncio.CancelledError:
            if flight.waiting == 1 and not flight.late:
                self._forget(flight)  # before the task ends: who asks meanwhile must not share its end
                flight.task.cancel()
            raise
        finally:
            flight.waiting -= 1
        if isinstance(found, Reason):
            raise NotEnriched(degraded(found))
        return found

    def _forget(self, flight: _Flight) -> None:
        if self._flights.get(flight.text) is flight:
            del self._flights[flight.text]

    async def _decode(self, flight: _Flight, source: CodeSource) -> Codes | Reason:
        """Returns its failure instead of raising it: there may be nobody left to catch it."""
        try:
            found: Codes | Reason = tuple(await source.codes(flight.text, Role.QUERY))
        except OverloadError:
            found = Reason.OVERLOAD
        except asyncio.CancelledError:
            self._report(Reason.OVERLOAD, flight)
            raise
        except Exception as error:  # noqa: BLE001 - whatever the model does, the search goes on
            LOG.warning("the model failed: %r", error)
            found = Reason.MODEL_ERROR
        finally:
            self._forget(flight)
        self._report(found, flight)
        if isinstance(found, tuple):
            self._cache.put(flight.text, found, self._cache_age_s)
        return found

    def _report(self, found: Codes | Reason, flight: _Flight) -> None:
        """Tells the breaker, once for each decoding; success that came too late is none."""
        if found is Reason.OVERLOAD or (flight.late and (flight.counted or isinstance(found, tuple))):
            self._breaker.abandoned()
        else:
            self._tell(well=isinstance(found, tuple))

    def _count_silence(self, flight: _Flight) -> None:
        if not flight.counted:
            flight.counted = True
            self._tell(well=False)

    def _tell(self, *, well: bool) -> None:
        self._heard += 1
        (self._breaker.succeeded if well else self._breaker.failed)()
        self._metrics.breaker.set(self._breaker.is_open)
