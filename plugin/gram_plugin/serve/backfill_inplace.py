"""The backfill in place: only the `gram` object of a stale product is written, and never over a later version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gram_plugin.search.backfill import CONFLICT, State, Stored, Written, is_same, partial_document, update_lines
from gram_plugin.search.productstore import ProductStore, Write
from gram_plugin.serve.backfill_page import Clerk, Page
from gram_plugin.serve.coding import Coded

_TRIES = 8
_BUSY = Written(CONFLICT, "version_conflict_engine_exception", "written by others again and again")


class InPlace:
    """Codes the stale products of an index where they are.

    Args:
        store: the products.
        clerk: of the index.
    """

    def __init__(self, store: ProductStore, clerk: Clerk) -> None:
        self._store = store
        self._clerk = clerk

    async def settle(self, products: Sequence[Stored]) -> Page:
        """Codes what is stale; of what somebody else wrote meanwhile, the newer version."""
        page = Page(Counter(read=len(products)))
        waiting = await self._stale(products, page)
        for _ in range(_TRIES):
            if not waiting:
                return page
            conflicting = await self._code(waiting, page)
            waiting = await self._stale(await self._read_again(conflicting, page), page)
        for product in waiting:
            self._clerk.refuse(product, {}, _BUSY, page)
        return page

    async def _stale(self, products: Sequence[Stored], page: Page) -> list[Stored]:
        states = await self._clerk.states(products)
        page.counts["fresh"] += states.count(State.FRESH)
        return [product for product, state in zip(products, states, strict=True) if state is not State.FRESH]

    async def _code(self, products: Sequence[Stored], page: Page) -> list[Stored]:
        """Writes the codes of products and returns those that somebody else wrote meanwhile."""
        found = list(zip(products, await self._clerk.code(products), strict=True))
        same = [codes for product, codes in found if is_same(product.source, codes.gram)]
        page.marked += sum(codes.reason is not None for codes in same)
        page.counts["fresh"] += sum(codes.reason is None for codes in same)
        wanted = [(product, codes) for product, codes in found if not is_same(product.source, codes.gram)]
        answers = await self._store.write([self._write(product, codes) for product, codes in wanted])
        conflicting = []
        for (product, codes), written in zip(wanted, answers, strict=True):
            if written.status == CONFLICT:
                conflicting.append(product)
            else:
                self._clerk.book(product, codes, written, page)
        return conflicting

    def _write(self, product: Stored, codes: Coded) -> Write:
        document = partial_document(product.source, codes.gram, weighted=self._clerk.weighted)
        return Write(product, update_lines(product, document))

    async def _read_again(self, products: Sequence[Stored], page: Page) -> list[Stored]:
        if not products:
            return []
        page.counts["again"] += len(products)
        found = await self._store.read_again(products)
        page.counts["gone"] += found.count(None)
        return [product for product in found if product is not None]
