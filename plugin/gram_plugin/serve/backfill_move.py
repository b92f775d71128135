"""The move to a new index: what has to be equal before the alias moves, and what is made good after it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from gram_plugin.search.newindex import NewIndex, unequal
from gram_plugin.search.productstore import ProductStore
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Position
from gram_plugin.serve.backfill_copy import delete_surplus

_CATCH_UPS = 5


class Rounds(Protocol):
    """Copies what was written, as a `Backfill` does."""

    async def settle_all(self, position: Position) -> Position:
        """Everything, and what was written meanwhile."""

    async def round(self, position: Position) -> Position:
        """What was written since the last round began."""


@dataclass(frozen=True)
class Move:
    """Fills a new index until it may take the place of the source, and puts it there.

    Attributes:
        new: the index.
        source: the products of the source.
        target: those of the new index.
        copying: copies by rounds until the alias has moved.
        copying_live: the same once clients write to the new index.
        checkpoint: where the position is kept.
        stop: set from outside to end after the page at hand.
    """

    new: NewIndex
    source: ProductStore
    target: ProductStore
    copying: Rounds
    copying_live: Rounds
    checkpoint: BackfillCheckpoint
    stop: asyncio.Event

    async def run(self, position: Position) -> Position:
        """Moves the alias and forgets the checkpoint, unless it is told to stop.

        Raises:
            SearchError: some could not be copied, or the source changes faster than it can be copied.
        """
        if not await self.new.is_swapped():
            position = await self._fill(position)
            if self.stop.is_set():
                return position
            await self.new.swap()
        position = await self._make_good(position)
        if not self.stop.is_set():
            self.checkpoint.remove()
        return position

    async def _fill(self, position: Position) -> Position:
        position = await self.copying.settle_all(position)
        if position.is_open:  # by an interrupted run, perhaps long ago: it ends where the source was then
            position = await self.copying.round(position)
        if not self.stop.is_set():
            position = await self._catch_up(position)
        if self.stop.is_set():
            return position
        reached = {shard.key: shard.reached for shard in await self.target.shards()}
        position = replace(position, copied=reached)
        self.checkpoint.save(position)
        return position

    async def _catch_up(self, position: Position) -> Position:
        """Rounds until both indices have the same number of products, or it is told to stop.

        Where a product was refused, or there are too many, equal numbers may hide one that clients have deleted.
        """
        for _ in range(_CATCH_UPS):
            position = await self.copying.round(position)
            if self.stop.is_set():
                return position
            counts = await self.new.counts()
            if counts.copy > counts.source or position.tally.failed:
                await delete_surplus(self.source, self.new.mark.source, self.target)
                counts = await self.new.counts()
            if counts.are_equal:
                return position
        raise unequal(self.new.mark.source, self.new.name, counts)

    async def _make_good(self, position: Position) -> Position:
        """Copies what was written to the source, and deletes what was deleted there, until the alias had moved.

        Only copies that nobody has written since are deleted, and only where the source takes no more writes: where it
        does, what is deleted there later is no business of the new index.
        """
        if self.stop.is_set():
            return position
        is_closed = await self.new.close_source()
        position = await self.copying_live.round(position)
        if is_closed and not self.stop.is_set():
            await delete_surplus(self.source, self.new.mark.source, self.target, position.copied)
        return position
