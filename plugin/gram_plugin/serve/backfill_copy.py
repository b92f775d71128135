"""The backfill into a new index: every product is copied with its codes, in its newest version, and resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gram_plugin.search.backfill import (
    CONFLICT,
    State,
    Stored,
    Written,
    copy_lines,
    copy_of,
    deletion_line,
    overwriting_lines,
)
from gram_plugin.search.productstore import ProductStore, Write
from gram_plugin.serve.backfill_page import Clerk, Page
from gram_plugin.serve.coding import Coded

_BUSY = Written(CONFLICT, "version_conflict_engine_exception", "somebody else writes to the new index")
_DONE = Written(200)


@dataclass(frozen=True)
class _Copy:
    """A product, its codes, and whether it had them in the source."""

    product: Stored
    codes: Coded
    was_fresh: bool


@dataclass(frozen=True)
class _Found:
    """What the new index has of a product, and whether that needs no write."""

    product: Stored | None
    is_settled: bool


class Copying:
    """Copies products to a new index.

    Args:
        target: the new index.
        name: of it.
        clerk: of the new index.
        is_live: whether clients write to the new index already; then what they wrote wins.
    """

    def __init__(self, target: ProductStore, name: str, clerk: Clerk, *, is_live: bool = False) -> None:
        self._target = target
        self._name = name
        self._clerk = clerk
        self._is_live = is_live

    async def settle(self, products: Sequence[Stored]) -> Page:
        """Copies what the new index has not or has in an earlier version."""
        page = Page(Counter(read=len(products)))
        copies = await self._coded(products)
        lines = [copy_lines(copy.product, self._name, copy.codes.gram) for copy in copies]
        there = await self._write(copies, lines, page)
        if self._is_live:
            page.counts["fresh"] += len(there)
        elif there:
            await self._compare(there, page)
        return page

    async def _coded(self, products: Sequence[Stored]) -> list[_Copy]:
        states = await self._clerk.states(products)
        has_codes = [
            state is State.FRESH and self._fits(product.source["gram"])
            for product, state in zip(products, states, strict=True)
        ]
        stale = [product for product, has in zip(products, has_codes, strict=True) if not has]
        answers = iter(await self._clerk.code(stale))
        return [
            _Copy(product, Coded(product.source["gram"]) if has else next(answers), has)
            for product, has in zip(products, has_codes, strict=True)
        ]

    def _fits(self, gram: Mapping[str, Any]) -> bool:
        """Whether codes have the weights that the new index takes; those of an index without the field have none."""
        return bool(gram.get("weights")) or not gram.get("codes") or not self._clerk.weighted

    async def _write(self, copies: Sequence[_Copy], lines: Sequence[str], page: Page) -> list[_Copy]:
        """Writes and returns those of which the new index has this version or a later one."""
        writes = [Write(copy.product, line) for copy, line in zip(copies, lines, strict=True)]
        answers = await self._target.write(writes)
        there = []
        for copy, written in zip(copies, answers, strict=True):
            if written.status == CONFLICT:
                there.append(copy)
            elif written.is_done and copy.was_fresh:
                page.counts["fresh"] += 1
            else:
                self._clerk.book(copy.product, copy.codes, written, page)
        return there

    async def _compare(self, copies: Sequence[_Copy], page: Page) -> None:
        """Looks at what is there: a version says too little, as one begins anew after a deletion."""
        others, lines = [], []
        for copy, copied in await self._look_up(copies):
            if copied.is_settled:
                page.marked += copy.codes.reason is not None
                page.counts["fresh"] += copy.codes.reason is None
            else:
                others.append(copy)
                lines.append(self._again(copy, copied.product))
        busy = await self._write(others, lines, page)
        if busy:
            await self._look_again(busy, page)

    async def _look_again(self, copies: Sequence[_Copy], page: Page) -> None:
        """Counts what is there after all: when an answer is lost, the bulk is sent again and meets its own writes."""
        for copy, copied in await self._look_up(copies):
            written = _DONE if copied.is_settled else _BUSY
            if copied.is_settled and copy.was_fresh:
                page.counts["fresh"] += 1
            else:
                self._clerk.book(copy.product, copy.codes, written, page)

    async def _look_up(self, copies: Sequence[_Copy]) -> list[tuple[_Copy, _Found]]:
        """Each of them with what the new index has of it.

        The model may give another run's last digits; to write those would raise the version above the source's.
        """
        found = await self._target.read_again([replace(copy.product, index=self._name) for copy in copies])
        there = [copied for copied in found if copied is not None]
        states = zip(there, await self._clerk.states(there), strict=True)
        fresh = {copied.id for copied, state in states if state is State.FRESH}
        return [
            (copy, _Found(copied, is_settled=_is_settled(copy, copied, fresh)))
            for copy, copied in zip(copies, found, strict=True)
        ]

    def _again(self, copy: _Copy, copied: Stored | None) -> str:
        gram = copy.codes.gram
        if copied is None:
            return copy_lines(copy.product, self._name, gram)
        return overwriting_lines(copy.product, copied, gram)


def _is_settled(copy: _Copy, copied: Stored | None, fresh: Collection[str]) -> bool:
    """Whether the new index has the product as it is, with codes of its text or as pending as it would be."""
    is_there = copied is not None and is_copy(copy.product.source, copied.source)
    return is_there and (copy.product.id in fresh or copy.codes.reason is not None)


def is_copy(source: Mapping[str, Any], copied: Mapping[str, Any]) -> bool:
    """Whether two documents are the same but for their codes."""
    return copy_of(source, {}) == copy_of(copied, {})


async def delete_surplus(
    source: ProductStore, index: str, target: ProductStore, limits: Mapping[str, int] | None = None
) -> int:
    """Deletes from the copy what the source has no more; returns how many.

    Args:
        source: the products of the source.
        index: concrete name of the source.
        target: the copy.
        limits: the last sequence number of each shard of the copy to look at; None for all that it has now.

    Raises:
        SearchError: it is not sure what the source has.
    """
    deleted = 0
    async for products in target.everything(limits):
        now = await source.read_again([replace(product, index=index) for product in products])
        surplus = [product for product, found in zip(products, now, strict=True) if found is None]
        answers = await target.write([Write(product, deletion_line(product)) for product in surplus])
        deleted += sum(written.is_done for written in answers)
    return deleted
