"""What the ways of a backfill share: a page and what becomes of it, what makes a product fresh, and the pace."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from gram_plugin.contract.codes import MAX_STORED_BYTES
from gram_plugin.errors import DecodeError
from gram_plugin.search.backfill import GONE, Current, State, Stored, Written, state_of
from gram_plugin.serve.backfill_checkpoint import Tally
from gram_plugin.serve.coding import Coded, Coder, Reading, Reason, utc_now
from gram_plugin.serve.deadletter import DeadLetter
from gram_plugin.serve.fields import GramFields
from gram_plugin.serve.preparing import fitting

_UNREADABLE = frozenset({Reason.MODEL, Reason.UNREADABLE})
"""Reasons that lie in the product; every other one says that the model is down."""


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


@dataclass
class Page:
    """What becomes of the products of one page; `marked` were pending before and still are."""

    counts: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    by_codes: Counter[int] = field(default_factory=Counter)
    letters: list[DeadLetter] = field(default_factory=list)

    def tally(self, round_: int) -> Tally:
        """After the first round only what was written counts: the rest is mostly what we wrote, read once more."""
        found = Tally(**self.counts, by_codes=dict(self.by_codes))
        return replace(found, read=0, fresh=0) if round_ else replace(found, pending=found.pending + self.marked)


class Desk(Protocol):
    """A way to settle products: each is fresh, or written, or refused for good, when `settle` returns."""

    async def settle(self, products: Sequence[Stored]) -> Page:
        """What became of them."""


class Pacer:
    """Bounds how many products are coded in a second.

    Args:
        rate: products in a second; 0 for no bound.
        clock: seconds that never run backwards.
        sleep: waits.
    """

    def __init__(
        self,
        rate: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    async def take(self, products: int) -> None:
        """Returns when so many products may be coded."""
        if self._rate <= 0:
            return
        now = self._clock()
        begin = max(self._free_at, now)
        self._free_at = begin + products / self._rate
        await self._sleep(begin - now)


class Clerk:
    """Reads, codes and books products by the rules of one index.

    Args:
        coder: the same that the sidecar and `gram ingest` have.
        rules: what a fresh product has.
        pacer: bounds how fast products are coded.
        clock: gives the time of a dead letter.
    """

    def __init__(
        self,
        coder: Coder,
        rules: Rules,
        pacer: Pacer | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._coder = coder
        self._rules = rules
        self._pacer = pacer or Pacer()
        self._clock = clock

    @property
    def weighted(self) -> bool:
        """Whether the index takes weights."""
        return self._rules.fields is GramFields.WEIGHTED

    async def states(self, products: Sequence[Stored]) -> list[State]:
        """What each product's codes are worth, in order."""
        readings = await self._coder.read_products([product.source for product in products])
        found = zip(products, readings, strict=True)
        return [state_of(product.source, current_of(reading, self._rules)) for product, reading in found]

    async def code(self, products: Sequence[Stored]) -> list[Coded]:
        """A `gram` object that the index takes for each product, in order.

        Raises:
            DecodeError: the model gives no codes at all any more.
        """
        if not products:
            return []
        await self._pacer.take(len(products))
        coded = await self._coder.code_products([product.source for product in products])
        refuse_silence(coded)
        return [replace(codes, gram=fitting(codes.gram, self._rules.fields), text=b"") for codes in coded]

    def book(self, product: Stored, codes: Coded, written: Written, page: Page) -> None:
        """Counts a product whose write is settled."""
        if written.status == GONE:
            page.counts["gone"] += 1
        elif not written.is_done:
            self.refuse(product, codes.gram, written, page)
        elif codes.reason:
            page.counts["pending"] += 1
        else:
            page.counts["coded"] += 1
            page.by_codes[len(codes.gram["codes"])] += 1

    def refuse(self, product: Stored, gram: Mapping[str, Any], written: Written, page: Page) -> None:
        """Counts a product as failed, and writes its letter."""
        page.counts["failed"] += 1
        at = self._clock().isoformat(timespec="seconds")
        document = {"_index": product.index, "_routing": product.routing, "gram": dict(gram)}
        page.letters.append(DeadLetter(product.id, 0, written.status, written.type, written.reason, at, document))


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
