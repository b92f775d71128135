"""The model that serves queries, with all that belongs to it alone, and the place where one model follows another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gram_plugin.contract.codes import Generator, Role
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.breaker import Breaker
from gram_plugin.serve.deadline import Clock
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.querycodes import QueryCodes
from gram_plugin.serve.settings import ShimSettings

WARM_UP_S = 30.0


@dataclass(frozen=True, eq=False)
class Model:
    """One generator, the texts that wait for it, its breaker and the queries that it has decoded.

    Attributes:
        generation: of its codes; empty where there is no generator, and every search says `no-model`.
        batcher: what asks the generator; None without one.
        breaker: keeps searches from asking in vain.
        query_codes: text to codes.
        title: the field of products that holds their title; empty where that is not known.
    """

    generation: str
    batcher: Batcher | None
    breaker: Breaker
    query_codes: QueryCodes
    title: str = ""

    @classmethod
    def of(
        cls, generator: Generator | None, settings: ShimSettings, metrics: ShimMetrics, clock: Clock = time.monotonic
    ) -> Model:
        """A model that has not started; its cache is empty and its breaker closed."""
        batcher = _batcher(generator, settings) if generator is not None else None
        breaker = Breaker(settings.breaker_failures, settings.breaker_pause_s, clock)
        query_codes = QueryCodes(
            batcher,
            breaker=breaker,
            metrics=metrics,
            cache_entries=settings.cache_entries,
            cache_age_s=settings.cache_age_s,
            fair_s=settings.budget_ms / 2000,  # half: looking up the index takes its part of the budget
            clock=clock,
        )
        generation = generator.generation if generator else ""
        return cls(generation, batcher, breaker, query_codes, title_field(generator))

    async def start(self) -> None:
        """Takes texts from now on."""
        if self.batcher is not None:
            await self.batcher.start()

    async def warm_up(self, limit_s: float = WARM_UP_S) -> None:
        """Decodes once, so that the first search does not pay for what is done only once.

        Raises:
            GramError: the model failed.
            TimeoutError: it took longer than `limit_s`.
        """
        if self.batcher is not None:
            async with asyncio.timeout(limit_s):
                await self.batcher.codes("warm up", Role.QUERY)

    async def stop(self) -> None:
        """Cancels what is still being decoded, and leaves no task behind; no thread but one that hangs."""
        await self.query_codes.close()
        if self.batcher is not None:
            await self.batcher.stop()

    def state(self) -> dict[str, object]:
        """What an operator is shown."""
        return {
            "model": self.generation or None,
            "breaker_open": self.breaker.is_open,
            "waiting": self.batcher.waiting if self.batcher else 0,
        }


def title_field(generator: Generator | None) -> str:
    """The field of a product document that is its title, as the catalogue was trained; empty for other generators."""
    tags = getattr(generator, "tags", None)
    return next(iter(tags.tagger.text), "") if tags else ""


class Serving:
    """Which model serves now. A search keeps the one that it began with; a replaced model ends after its last search.

    For use in one event loop: between two awaits nothing else runs.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._users: dict[Model, int] = {}
        self._left = asyncio.Event()

    @property
    def model(self) -> Model:
        """The model of the searches that begin now."""
        return self._model

    @contextmanager
    def lent(self) -> Iterator[Model]:
        """The model for one search, which does not end meanwhile."""
        model = self._model
        self._users[model] = self._users.get(model, 0) + 1
        try:
            yield model
        finally:
            self._users[model] -= 1
            if not self._users[model]:
                del self._users[model]
                self._left.set()

    async def replace(self, model: Model) -> None:
        """Lets a started model serve from now on; returns once the old one has answered its last search and stopped."""
        old, self._model = self._model, model
        try:
            while old in self._users:
                self._left.clear()
                await self._left.wait()
        finally:
            await old.stop()


def _batcher(generator: Generator, settings: ShimSettings) -> Batcher:
    return Batcher(
        generator,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_ms,
        max_queue=settings.max_queue,
        newest_first=True,
    )
