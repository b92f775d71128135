"""Decides for each search of a request what OpenSearch gets: the lexical body, or the one with codes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gram_plugin.search.explaining import with_named_words
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.bodies import in_time
from gram_plugin.serve.cache import AgedCache
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.indices import IndexNames, Indices
from gram_plugin.serve.model import Serving
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.querycodes import Codes
from gram_plugin.serve.searches import Item, Search, write_json
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.status import APPLIED, NotEnriched, Reason, Status, degraded, off

LOG = logging.getLogger(__name__)

MAX_REFUSALS = 1000
"""Targets of searches that are remembered for having refused a rescore."""


@dataclass(frozen=True)
class Addition:
    """What codes add to one search: the codes of its text, best first, their generation, and how strong they are."""

    codes: Codes
    generation: str
    settings: ClauseSettings


@dataclass(frozen=True)
class Decision:
    """What becomes of one search.

    Attributes:
        status: what its client is told.
        enriched: the body with codes, None while the lexical one is to be sent.
        added: what `enriched` has more than the lexical body; None together with it.
        rescue: the lexical answer decides whether codes are asked for at all.
    """

    status: Status
    enriched: bytes | None = None
    added: Addition | None = None
    rescue: bool = False

    @property
    def codes(self) -> Codes:
        """What the query was decoded to; none while the lexical body is to be sent."""
        return self.added.codes if self.added else ()


class Enricher:
    """Brings together terms of the indices, codes of the text and the body, within the search's budget."""

    def __init__(
        self, settings: ShimSettings, serving: Serving, indices: Indices, clock: Clock = time.monotonic
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._indices = indices
        self._clock = clock
        self._whole: AgedCache[IndexNames, None] = AgedCache(MAX_REFUSALS, clock)

    def refused(self, items: Sequence[Item]) -> None:
        """Hears that OpenSearch refused searches as they were enriched; for a while theirs are not rescored.

        An index may allow fewer hits than the window has (`index.max_rescore_window`, `index.max_result_window`).
        """
        for item in items:
            if isinstance(item.wanted, Search) and item.wanted.rescorable:
                self._whole.put(item.wanted.names, None, self._settings.calibration_age_s)

    async def decide(self, items: Sequence[Item], headers: Headers, since_s: float) -> list[Decision]:
        """One decision for each search; those in mode `rescue` wait for their lexical answer.

        Budgets run from `since_s`, in seconds of the clock.
        """
        if len(items) == 1:
            return [await self._first(items[0], headers, since_s)]
        turns = asyncio.Lock()
        return list(await asyncio.gather(*(self._first(item, headers, since_s, turns) for item in items)))

    async def rescue(self, items: Sequence[Item], headers: Headers, since_s: float) -> list[Decision]:
        """Decisions for searches whose lexical answer was too thin."""
        turns = asyncio.Lock() if len(items) > 1 else None
        return list(await asyncio.gather(*(self._decide(item, headers, since_s, turns) for item in items)))

    async def _first(self, item: Item, headers: Headers, since_s: float, turns: asyncio.Lock | None = None) -> Decision:
        if isinstance(item.wanted, Search) and item.wanted.mode is Mode.RESCUE:
            return Decision(off(Reason.ENOUGH_HITS), rescue=True)
        return await self._decide(item, headers, since_s, turns)

    async def _decide(self, item: Item, headers: Headers, since_s: float, turns: asyncio.Lock | None) -> Decision:
        wanted = item.wanted
        if isinstance(wanted, Status):
            return Decision(wanted)
        try:
            deadline = Deadline(since_s + wanted.budget_ms / 1000, self._clock)
            added = await self.addition(wanted.names, wanted.text, headers, deadline, told=item.explain)
            return await self._enriched(item, wanted, added, deadline, turns)
        except NotEnriched as end:
            return Decision(end.status)
        except Exception:  # the edge of one search: whatever is wrong with us, it goes on without codes
            LOG.exception("a search could not be enriched")
            return Decision(degraded(Reason.INTERNAL))

    async def addition(
        self, names: IndexNames, text: str, headers: Headers, deadline: Deadline, *, told: bool
    ) -> Addition:
        """What codes of a text would add to a search of these indices; `told`: the caller will see it.

        Raises:
            NotEnriched: there is nothing to add, or it is not there at the deadline.
        """
        with self._serving.lent() as model:
            if not model.generation:
                raise NotEnriched(degraded(Reason.NO_MODEL))
            terms = await self._indices.terms(names, model.generation, headers, deadline, title=model.title, told=told)
            codes = await model.query_codes.codes(text, deadline)
        if not codes:
            raise NotEnriched(off(Reason.NO_CODES))
        settings = ClauseSettings(
            strength=terms.points,
            tie_breaker=self._settings.tie_breaker,
            max_codes=self._settings.max_codes,
            weighted=terms.weighted,
            keep_exact=self._settings.keep_exact,
            titles=terms.titles,
        )
        return Addition(codes, terms.generation, settings)

    async def _enriched(
        self, item: Item, wanted: Search, added: Addition, deadline: Deadline, turns: asyncio.Lock | None
    ) -> Decision:
        """Writes the body with codes; where one request holds several searches, each in its turn while there is time.

        Raises:
            NotEnriched: there is none left, or the body cannot be written.
        """
        size = len(item.lexical)
        try:
            async with _turn(turns, deadline):
                body = await in_time(size, lambda: self._written(wanted, added, size, explain=item.explain), deadline)
        except TimeoutError:
            raise NotEnriched(degraded(Reason.LATE)) from None
        return Decision(APPLIED, body, added)

    def _written(self, wanted: Search, added: Addition, size: int, *, explain: bool) -> bytes:
        """The body with codes, of a little more than `size` bytes; where points are told, all hits are scored alike."""
        rescores = wanted.rescorable and not explain and self._whole.get(wanted.names) is None
        window = self._settings.rerank_window if rescores else 0
        settings = replace(added.settings, window=window)
        body = enrich(wanted.body, added.codes, added.generation, settings, wanted.mode, text=wanted.text)
        if explain:
            body = with_named_words(body, wanted.body.get("query"))
        try:
            return write_json(body, size)
        except (ValueError, RecursionError):
            raise NotEnriched(off(Reason.INVALID)) from None


@asynccontextmanager
async def _turn(turns: asyncio.Lock | None, deadline: Deadline) -> AsyncIterator[None]:
    """Waits until the searches before it are written, and lets those of other requests run in between.

    Raises:
        TimeoutError: the deadline is over by then.
    """
    if turns is None:
        yield
        return
    async with turns:
        await asyncio.sleep(0)
        if not deadline.remaining_s:
            raise TimeoutError
        yield
