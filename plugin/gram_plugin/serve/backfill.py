"""The backfill: products that are in an index already get the codes that the sidecar would have given them.

Everything is read once, in the order of sequence numbers, and then once more what was written meanwhile. A page counts
when OpenSearch has answered for each of its products; then the checkpoint moves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from gram_plugin.contract.codes import MAX_STORED_BYTES
from gram_plugin.errors import DecodeError
from gram_plugin.search.backfill import (
    CONFLICT,
    GONE,
    WHOLE,
    Current,
    Slice,
    Span,
    State,
    Stored,
    Written,
    is_same,
    partial_document,
    state_of,
    update_lines,
)
from gram_plugin.search.productstore import ProductStore, Write
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Position, Reach, Tally
from gram_plugin.serve.coding import Coded, Coder, Reading, Reason, utc_now
from gram_plugin.serve.deadletter import DeadLetter, DeadLetterFile
from gram_plugin.serve.fields import GramFields
from gram_plugin.serve.preparing import fitting

_log = logging.getLogger(__name__)

_CONFLICT_TRIES = 8
_UNREADABLE = frozenset({Reason.MODEL, Reason.UNREADABLE})
"""Reasons that lie in the product; every other one says that the model is down."""

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Rules:
    """What makes a product of this index fresh, and what the index can take.

    Args:
        generation: of the model.
        max_codes: most codes of a product.
        fields: what the index can take of a `gram` object.
    """

    generation: str
    max_codes: int
    fields: GramFields = GramFields.WEIGHTED


@dataclass(frozen=True)
class Pace:
    """How fast, and how long.

    Args:
        rate: most products that are coded in a second; 0 for no bound.
        follow_s: seconds between two looks at what was written; None ends when everything is settled.
        clock: seconds that never run backwards.
        sleep: waits.
    """

    rate: float = 0.0
    follow_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


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


@dataclass
class _Page:
    """What becomes of the products of one page; `marked` were pending before and still are."""

    counts: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    by_codes: Counter[int] = field(default_factory=Counter)
    letters: list[DeadLetter] = field(default_factory=list)

    def tally(self, round_: int) -> Tally:
        """After the first round only what was written counts: the rest is mostly what we wrote, read once more."""
        found = Tally(**self.counts, by_codes=dict(self.by_codes))
        return replace(found, read=0, fresh=0) if round_ else replace(found, pending=found.pending + self.marked)


class Backfill:
    """Codes the stale products of one index in place.

    Args:
        store: the products.
        coder: the same that the sidecar and `gram ingest` have.
        rules: what a fresh product has.
        checkpoint: where the position is kept.
        dead_letters: takes what OpenSearch refuses; entered by the caller.
        part: of the index.
        pace: how fast, and how long.
        stop: set from outside to end after the page at hand.
        clock: gives the time of a dead letter.
    """

    def __init__(
        self,
        store: ProductStore,
        coder: Coder,
        rules: Rules,
        checkpoint: BackfillCheckpoint,
        dead_letters: DeadLetterFile,
        *,
        part: Slice = WHOLE,
        pace: Pace | None = None,
        stop: asyncio.Event | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._coder = coder
        self._rules = rules
        self._checkpoint = checkpoint
        self._dead_letters = dead_letters
        self._part = part
        self._pace = pace or Pace()
        self._stop = stop or asyncio.Event()
        self._clock = clock
        self._due = 0.0

    async def run(self, start: Position | None, on_total: Progress, on_progress: Progress) -> Report:
        """Settles every product and forgets the checkpoint; when following, until it is told to stop.

        Args:
            start: where an interrupted run stopped; None for the beginning.
            on_total: told how many products there are to read.
            on_progress: told of each page's number of products once it is settled.

        Raises:
            SearchError: OpenSearch takes no writes or does not answer; the checkpoint stays for the next run.
            DecodeError: the model gives no codes at all any more; the checkpoint stays.
        """
        position = start or Position()
        while not self._stop.is_set():
            position = await self._begin(position)
            if position.round == 0:
                on_total(await self._remaining(position))
            position = await self._round(position, on_progress)
            if self._stop.is_set():
                break
            if self._pace.follow_s is None and position.round > 1:
                self._checkpoint.remove()
                return Report(position.tally, resumed=start is not None)
            if self._pace.follow_s is not None and position.round > 1:
                await self._rest(self._pace.follow_s)
        return Report(position.tally, resumed=start is not None, stopped=True)

    async def _begin(self, position: Position) -> Position:
        """The same round where one is open, else the next: what was written since the last one began."""
        if any(reach.after < reach.until for reach in position.shards.values()):
            return position
        begun: dict[str, Reach] = {}
        for shard in await self._store.shards():
            known = position.shards.get(shard.key)
            begun[shard.key] = Reach(known.until if known else -1, shard.reached)
        begun = {key: replace(reach, until=max(reach.after, reach.until)) for key, reach in begun.items()}
        position = replace(position, shards=begun)
        self._checkpoint.save(position)
        return position

    async def _spans(self, position: Position) -> list[Span]:
        shards = await self._store.shards()
        return [
            Span(shard, reach.after, reach.until, self._part)
            for shard in shards
            if (reach := position.shards.get(shard.key)) and reach.after < reach.until
        ]

    async def _remaining(self, position: Position) -> int:
        return sum([await self._store.count(span) for span in await self._spans(position)])

    async def _round(self, position: Position, on_progress: Progress) -> Position:
        for span in await self._spans(position):
            async with aclosing(ahead(self._store.pages(span))) as pages:
                async for products in pages:
                    page = await self._settle(products)
                    position = self._keep(position, span, products[-1].seq_no, page)
                    on_progress(len(products))
                    if self._stop.is_set():
                        return position
            position = self._keep(position, span, span.until, _Page())
        position = replace(position, round=position.round + 1)
        self._checkpoint.save(position)
        return position

    def _keep(self, position: Position, span: Span, after: int, page: _Page) -> Position:
        """Writes refusals first and the checkpoint after them, so that a kill between costs no letter."""
        self._dead_letters.add(page.letters)
        reached = Position(
            position.round,
            {**position.shards, span.shard.key: Reach(after, span.until)},
            self._dead_letters.size_bytes,
            position.tally.plus(page.tally(position.round)),
        )
        self._checkpoint.save(reached)
        return reached

    async def _settle(self, products: Sequence[Stored]) -> _Page:
        """Codes what is stale; of what somebody else wrote meanwhile, the newer version."""
        page = _Page(Counter(read=len(products)))
        waiting = await self._stale(products, page)
        for _ in range(_CONFLICT_TRIES):
            if not waiting:
                return page
            await self._keep_pace(len(waiting))
            conflicting = await self._code(waiting, page)
            waiting = await self._stale(await self._read_again(conflicting, page), page)
        for product in waiting:
            busy = Written(CONFLICT, "version_conflict_engine_exception", "written by others again and again")
            self._refuse(product, busy, {}, page)
        return page

    async def _stale(self, products: Sequence[Stored], page: _Page) -> list[Stored]:
        readings = await self._coder.read_products([product.source for product in products])
        states = [
            state_of(product.source, self._current(read)) for product, read in zip(products, readings, strict=True)
        ]
        page.counts["fresh"] += states.count(State.FRESH)
        return [product for product, state in zip(products, states, strict=True) if state is not State.FRESH]

    def _current(self, reading: Reading | None) -> Current:
        return current_of(reading, self._rules)

    async def _code(self, products: Sequence[Stored], page: _Page) -> list[Stored]:
        """Writes the codes of products and returns those that somebody else wrote meanwhile."""
        coded = await self._coder.code_products([product.source for product in products])
        refuse_silence(coded)
        found = list(zip(products, coded, strict=True))
        done = [(product, codes) for product, codes in found if is_same(product.source, self._fit(codes.gram))]
        wanted = [(product, codes) for product, codes in found if not is_same(product.source, self._fit(codes.gram))]
        page.marked += sum(codes.reason is not None for _, codes in done)
        page.counts["fresh"] += sum(codes.reason is None for _, codes in done)
        answers = await self._store.write([self._write(product, codes.gram) for product, codes in wanted])
        conflicting = []
        for (product, codes), written in zip(wanted, answers, strict=True):
            if written.status == CONFLICT:
                conflicting.append(product)
            else:
                self._count(product, codes, written, page)
        return conflicting

    def _fit(self, gram: Mapping[str, Any]) -> Mapping[str, Any]:
        return fitting(gram, self._rules.fields)

    def _write(self, product: Stored, gram: Mapping[str, Any]) -> Write:
        weighted = self._rules.fields is GramFields.WEIGHTED
        return Write(
            product, update_lines(product, partial_document(product.source, self._fit(gram), weighted=weighted))
        )

    def _count(self, product: Stored, codes: Coded, written: Written, page: _Page) -> None:
        if written.status == GONE:
            page.counts["gone"] += 1
        elif not written.is_done:
            self._refuse(product, written, codes.gram, page)
        elif codes.reason:
            page.counts["pending"] += 1
        else:
            page.counts["coded"] += 1
            page.by_codes[len(codes.gram["codes"])] += 1

    async def _read_again(self, products: Sequence[Stored], page: _Page) -> list[Stored]:
        if not products:
            return []
        page.counts["again"] += len(products)
        found = await self._store.read_again(products)
        page.counts["gone"] += found.count(None)
        return [product for product in found if product is not None]

    def _refuse(self, product: Stored, written: Written, gram: Mapping[str, Any], page: _Page) -> None:
        page.counts["failed"] += 1
        at = self._clock().isoformat(timespec="seconds")
        document = {"_index": product.index, "_routing": product.routing, "gram": dict(gram)}
        page.letters.append(DeadLetter(product.id, 0, written.status, written.type, written.reason, at, document))

    async def _keep_pace(self, products: int) -> None:
        if self._pace.rate <= 0:
            return
        now = self._pace.clock()
        self._due = max(self._due, now) + products / self._pace.rate
        await self._pace.sleep(self._due - products / self._pace.rate - now)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return


def current_of(reading: Reading | None, rules: Rules) -> Current:
    """What a product that is read so has when it is fresh."""
    if reading is None:
        return Current(rules.generation, None, frozenset(), rules.max_codes)
    stored = (code.stored(rules.generation) for code in reading.sure)
    sure = frozenset(code for code in stored if len(code.encode()) <= MAX_STORED_BYTES)
    return Current(rules.generation, reading.hash, sure, rules.max_codes)


def refuse_silence(coded: Sequence[Coded]) -> None:
    """Stops when the model is down, before every product of the index is marked for that.

    Raises:
        DecodeError: it gave no code for too long.
    """
    reasons = {codes.reason for codes in coded if codes.reason} - _UNREADABLE
    if reasons:
        raise DecodeError(
            f"the model gives no codes any more: {', '.join(sorted(reasons))}",
            next_step="look at the load of this machine, then run the same command again: it goes on where it stopped",
        )


Pages = AsyncGenerator[list[Stored], None]


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
