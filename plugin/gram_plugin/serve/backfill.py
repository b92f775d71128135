"""The backfill: products that are in an index already get the codes that the sidecar would have given them.

Everything is read once, in the order of sequence numbers, and then once more what was written meanwhile. A page counts
when OpenSearch has answered for each of its products; then the checkpoint moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from gram_plugin.search.backfill import WHOLE, Shard, Slice, Span, Stored
from gram_plugin.search.productstore import ProductStore
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Position, Reach, Tally
from gram_plugin.serve.backfill_page import Desk, Page
from gram_plugin.serve.deadletter import DeadLetterFile

Pages = AsyncGenerator[list[Stored], None]

_ROUNDS = 2
"""Rounds of a run: one for everything, and one for what was written meanwhile; only `--follow` goes further."""


@dataclass(frozen=True)
class Report:
    """What became of the index.

    Attributes:
        tally: of all products, those of an interrupted run before included.
        resumed: whether there was one.
        stopped: whether it was told to stop before everything was settled.
    """

    tally: Tally
    resumed: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Listener:
    """Who is told of progress: how many products there are to read, and then how many were settled, page by page."""

    total: Callable[[int], object] = int
    settled: Callable[[int], object] = int


class Backfill:
    """Takes every product of an index to a desk that settles it, again and again in rounds.

    Args:
        store: the products.
        desk: settles a page.
        checkpoint: where the position is kept.
        dead_letters: takes what OpenSearch refuses; entered by the caller.
        part: of the index.
        stop: set from outside to end after the page at hand.
        listener: told of the first round's progress.
    """

    def __init__(
        self,
        store: ProductStore,
        desk: Desk,
        checkpoint: BackfillCheckpoint,
        dead_letters: DeadLetterFile,
        *,
        part: Slice = WHOLE,
        stop: asyncio.Event | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._store = store
        self._desk = desk
        self._checkpoint = checkpoint
        self._dead_letters = dead_letters
        self._part = part
        self._stop = stop or asyncio.Event()
        self._listener = listener or Listener()

    async def run(self, start: Position | None = None) -> Report:
        """Settles every product and forgets the checkpoint, unless it is told to stop.

        Args:
            start: where an interrupted run stopped, see `plain_start`; None for the beginning.

        Raises:
            SearchError: OpenSearch takes no writes or does not answer; the checkpoint stays for the next run.
            DecodeError: the model gives no codes at all any more; the checkpoint stays.
        """
        start = plain_start(start)
        position = await self.settle_all(start or Position())
        if start and start.round:  # the round that it left open ends where the index was when it began
            position = await self.round(position)
        if not self._stop.is_set():
            self._checkpoint.remove()
        return Report(position.tally, resumed=start is not None, stopped=self._stop.is_set())

    async def follow(self, start: Position | None, interval_s: float) -> Report:
        """Settles every product, and what is written later, until it is told to stop; the checkpoint stays.

        Raises:
            SearchError: OpenSearch takes no writes or does not answer.
            DecodeError: the model gives no codes at all any more.
        """
        position = await self.settle_all(start or Position())
        while not self._stop.is_set():
            await self._rest(interval_s)
            position = await self.round(position)
        return Report(position.tally, resumed=start is not None, stopped=True)

    async def settle_all(self, position: Position) -> Position:
        """The first round, and one for what was written meanwhile; less when it is told to stop."""
        while position.round < _ROUNDS and not self._stop.is_set():
            position = await self.round(position)
        return position

    async def round(self, position: Position) -> Position:
        """The round that is open, else the next: what was written since the last one began."""
        if self._stop.is_set():
            return position
        shards = await self._store.shards()
        position = self._begin(position, shards)
        spans = self._spans(position, shards)
        if position.round == 0:
            self._listener.total(sum([await self._store.count(span) for span in spans]))
        for span in spans:
            position = await self._span(position, span)
            if self._stop.is_set():
                return position
        position = replace(position, round=position.round + 1)
        self._checkpoint.save(position)
        return position

    def _begin(self, position: Position, shards: Sequence[Shard]) -> Position:
        """The round that is open in a shard that is still there, else the next."""
        known = {shard.key: position.shards[shard.key] for shard in shards if shard.key in position.shards}
        left = replace(position, shards=known)
        if left.is_open:
            return left
        begun: dict[str, Reach] = {}
        for shard in shards:
            after = known[shard.key].until if shard.key in known else -1
            begun[shard.key] = Reach(after, max(after, shard.reached))
        position = replace(position, shards=begun)
        self._checkpoint.save(position)
        return position

    def _spans(self, position: Position, shards: Sequence[Shard]) -> list[Span]:
        reaches = [(shard, position.shards.get(shard.key)) for shard in shards]
        return [
            Span(shard, reach.after, reach.until, self._part)
            for shard, reach in reaches
            if reach and reach.after < reach.until
        ]

    async def _span(self, position: Position, span: Span) -> Position:
        async with aclosing(ahead(self._store.pages(span))) as pages:
            async for products in pages:
                page = await self._desk.settle(products)
                position = self._keep(position, span, products[-1].seq_no, page)
                self._listener.settled(len(products))
                if self._stop.is_set():
                    return position
        return self._keep(position, span, span.until, Page())

    def _keep(self, position: Position, span: Span, after: int, page: Page) -> Position:
        """Writes refusals first and the checkpoint after them, so that a kill between costs no letter."""
        self._dead_letters.add(page.letters)
        reached = replace(
            position,
            shards={**position.shards, span.shard.key: Reach(after, span.until)},
            dead_letter_bytes=self._dead_letters.size_bytes,
            tally=position.tally.plus(page.tally(position.round)),
        )
        self._checkpoint.save(reached)
        return reached

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return


def plain_start(start: Position | None) -> Position | None:
    """Where a run that ends by itself goes on: at the beginning where everything was settled, as by `--follow`.

    That may be long ago, and what was pending or refused then gets another chance.
    """
    return None if start and start.round >= _ROUNDS else start


async def ahead(pages: Pages) -> Pages:
    """The same pages; while one is worked on, the next one is read."""
    coming = asyncio.create_task(_next(pages))
    try:
        while (page := await coming) is not None:
            coming = asyncio.create_task(_next(pages))
            yield page
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await pages.aclose()


async def _next(pages: Pages) -> list[Stored] | None:
    return await anext(pages, None)
