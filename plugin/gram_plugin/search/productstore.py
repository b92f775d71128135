"""Reading and writing the products of an index for the backfill, through overload, outages and lost points in time."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from gram_plugin.errors import MappingError, SearchError
from gram_plugin.search.backfill import (
    CONFLICT,
    GONE,
    REFUSED,
    TRANSIENT,
    Shard,
    Span,
    Stored,
    Written,
    count_body,
    lossy_indices,
    next_size,
    page_body,
    read_items,
    shard_count,
    shards_of,
    stored_of,
)
from gram_plugin.search.document import PENDING
from gram_plugin.search.requests import RESUME, Requests, quoted

_log = logging.getLogger(__name__)

_FIRST_PAGE = 50
_TARGET_CHARS = 20_000_000
_FAILED = 500
_ALONE_TRIES = 5
_TOO_LARGE = 413
_LOST = (404, 500, 503)
_ABSENT = 404
_RIGHTS = "look at the blocks of the index and at the rights of the user"


@dataclass(frozen=True)
class Write:
    """One product and the lines of a `_bulk` body that write it."""

    product: Stored
    lines: str


@dataclass(frozen=True)
class Census:
    """How many products an index has, how many with codes of this generation, and how many that wait for codes."""

    products: int
    coded: int
    pending: int


class ProductStore:
    """The products behind one name: an index, an alias or a data stream.

    Args:
        requests: to OpenSearch.
        index: the name.
        page: most products in one page.
        keep_alive: how long a point in time stays open without being read.
    """

    def __init__(self, requests: Requests, index: str, *, page: int = 500, keep_alive: str = "5m") -> None:
        self._requests = requests
        self._index = index
        self._budget = requests.budget
        self._page = page
        self._keep_alive = keep_alive

    async def await_answer(self) -> None:
        """Returns once OpenSearch says anything about the index, even that there is none.

        Raises:
            SearchError: it cannot be reached, or has no room, however often it was asked; or it refuses.
        """
        path = f"/{quoted(self._index)}/_mapping"
        await self._requests.ask(f"reading the mapping of {self._index}", "GET", path, expected=(_ABSENT,))

    async def settings(self) -> dict[str, Any]:
        """The settings of each concrete index behind the name.

        Raises:
            SearchError: there is none, or OpenSearch cannot be asked.
        """
        path = f"/{quoted(self._index)}/_settings"
        found: dict[str, Any] = await self._requests.ask(f"reading the settings of {self._index}", "GET", path)
        return found

    async def require_sources(self) -> None:
        """Makes sure that products are kept whole.

        Raises:
            MappingError: an index keeps only a part of them.
        """
        found = await self._requests.ask("reading the mapping", "GET", f"/{quoted(self._index)}/_mapping")
        if lossy := lossy_indices(found):
            raise MappingError(
                f"{', '.join(lossy)} keeps only a part of _source: an update would lose the other fields",
                next_step="index the products again from where they come from, through the sidecar or `gram ingest`",
            )

    async def shards(self) -> list[Shard]:
        """Every shard, with everything that was acknowledged before the call made visible to searches.

        Raises:
            SearchError: a primary is missing for too long, or OpenSearch cannot be asked.
        """
        settings = await self.settings()
        names, tried = ",".join(map(quoted, settings)), 0
        while True:
            stats = await self._requests.ask(
                "reading shards", "GET", f"/{names}/_stats/docs", params={"level": "shards"}
            )
            found = shards_of(settings, stats)
            if len(found) == shard_count(settings):
                await self._requests.ask("refreshing", "POST", f"/{names}/_refresh")
                return found
            tried += 1
            if tried >= self._budget.tries:
                missing = f"{shard_count(settings) - len(found)} of {shard_count(settings)} shards"
                raise SearchError(f"{self._index}: {missing} have no primary", next_step=RESUME)
            await self._budget.pause(tried, 0.0)

    async def census(self, generation: str) -> Census:
        """What the whole index has now."""
        await self._requests.ask("refreshing", "POST", f"/{quoted(self._index)}/_refresh")
        return Census(
            await self._matching({"match_all": {}}),
            await self._matching({"term": {"gram.model": generation}}),
            await self._matching({"term": {"gram.model": PENDING}}),
        )

    async def _matching(self, query: Mapping[str, Any]) -> int:
        path = f"/{quoted(self._index)}/_count"
        answer = await self._requests.ask("counting", "POST", path, body={"query": query})
        count: int = answer["count"]
        return count

    async def count(self, span: Span) -> int:
        """How many products a span has."""
        lost = 0
        while True:
            pit = await self._open(span.shard)
            body = count_body(span, pit, self._keep_alive)
            answer = await self._requests.ask("counting", "POST", "/_search", body=body, expected=_LOST)
            await self._close(pit)
            if answer is not None:
                total: int = answer["hits"]["total"]["value"]
                return total
            lost += 1
            await self._find_again(span, lost)

    async def pages(self, span: Span) -> AsyncGenerator[list[Stored], None]:
        """The products of a span in order; a point in time that was lost is replaced by a new one.

        What is written meanwhile moves behind the span once a new point in time was needed.
        """
        size, after, lost = min(_FIRST_PAGE, self._page), span.after, 0
        pit = await self._open(span.shard)
        try:
            while True:
                hits = await self._search(page_body(span, after, size, pit, self._keep_alive))
                if hits is None:
                    lost += 1
                    await self._close(pit)  # with a node that only did not answer it would be left open
                    await self._find_again(span, lost)
                    pit = await self._open(span.shard)
                    continue
                if not hits:
                    return
                lost = 0
                products = [stored_of(hit) for hit in hits]
                after = hits[-1]["sort"][0]
                yield products
                size = next_size(size, products, most=self._page, target_chars=_TARGET_CHARS)
        finally:
            await self._close(pit)

    async def everything(self, limits: Mapping[str, int] | None = None) -> AsyncGenerator[list[Stored], None]:
        """All products, shard by shard.

        Args:
            limits: the last sequence number to be read of each shard; none of a shard that is not named.
        """
        for shard in await self.shards():
            until = shard.reached if limits is None else limits.get(shard.key, -1)
            async with aclosing(self.pages(Span(shard, -1, until))) as pages:
                async for products in pages:
                    yield products

    async def read_again(self, products: Sequence[Stored]) -> list[Stored | None]:
        """The products as they are now, in order; None for one that is gone.

        Raises:
            SearchError: some could not be read, however often they were asked for: they may well be there.
        """
        wanted = [
            {"_index": found.index, "_id": found.id, **({"routing": found.routing} if found.routing else {})}
            for found in products
        ]
        tried = 0
        while True:
            answer = await self._requests.ask("reading products again", "POST", "/_mget", body={"docs": wanted})
            unknown = [found for found in answer["docs"] if "error" in found or "found" not in found]
            if not unknown:
                return [stored_of(found) if found["found"] else None for found in answer["docs"]]
            tried += 1
            if tried >= self._budget.tries:
                message = f"gave up after {tried} tries: reading products again: {unknown[0].get('error')}"
                raise SearchError(message, next_step=RESUME)
            await self._budget.pause(tried, 0.0)

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """What became of each write, in order: done, conflict, gone or refused for good.

        Raises:
            SearchError: OpenSearch was not reachable or had no room, however often it was tried, or takes
                no writes of ours at all.
        """
        outcome: dict[int, Written] = {}
        waiting, tried = list(range(len(writes))), 0
        while waiting:
            answers = await self._bulk([writes[at] for at in waiting])
            if answers is None:
                halves = await self._write_halves([writes[at] for at in waiting])
                outcome.update(zip(waiting, halves, strict=True))
                break
            outcome.update(zip(waiting, answers, strict=True))
            waiting = [at for at in waiting if outcome[at].status in TRANSIENT]
            tried += 1
            failed = [outcome[at] for at in waiting]
            if fail_alone(failed, len(writes)) and tried >= min(_ALONE_TRIES, self._budget.tries):
                break
            if waiting and tried >= self._budget.tries:
                raise SearchError(f"gave up after {tried} tries: {failed[0].reason}", next_step=RESUME)
            if waiting:
                _log.info("%d products again: %s", len(waiting), outcome[waiting[0]].reason)
                await self._budget.pause(tried, 0.0)
        return [_settled(outcome[at]) for at in range(len(writes))]

    async def _write_halves(self, writes: Sequence[Write]) -> list[Written]:
        if len(writes) == 1:
            return [Written(_TOO_LARGE, "content_too_long_exception", "too large for OpenSearch")]
        middle = len(writes) // 2
        return [*await self.write(writes[:middle]), *await self.write(writes[middle:])]

    async def _bulk(self, writes: Sequence[Write]) -> list[Written] | None:
        """One request's outcome of each write; None when it was too large."""
        body = "".join(write.lines for write in writes)
        answer = await self._requests.ask("writing codes", "POST", "/_bulk", body=body, expected=(_TOO_LARGE,))
        if answer is None:
            return None
        found = read_items(answer, len(writes))
        return found or [Written(_FAILED + 3, "gram", "the answer has not one result for each product")] * len(writes)

    async def _find_again(self, span: Span, lost: int) -> None:
        """Waits before a point in time is opened in the place of a lost one, the `lost`-th in a row."""
        if lost >= self._budget.tries:
            message = f"{span.shard.key} lost its point in time {lost} times in a row"
            raise SearchError(message, next_step=RESUME)
        _log.info("the point in time of %s was lost, another one is opened", span.shard.key)
        await self._budget.pause(lost, 0.0)

    async def _search(self, body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The hits of a page; None when the point in time is lost, with the node that held it or by its age."""
        answer = await self._requests.ask("reading products", "POST", "/_search", body=body, expected=_LOST)
        if answer is None:
            return None
        hits: list[dict[str, Any]] = answer["hits"]["hits"]
        return hits

    async def _open(self, shard: Shard) -> str:
        path = f"/{quoted(shard.index)}/_search/point_in_time"
        params = {"keep_alive": self._keep_alive, "preference": f"_shards:{shard.number}"}
        answer = await self._requests.ask(f"opening a point in time of {shard.index}", "POST", path, params=params)
        pit: str = answer["pit_id"]
        return pit

    async def _close(self, pit: str) -> None:
        """Frees what a point in time holds; when that fails it ends by itself."""
        await self._requests.ask_once("DELETE", "/_search/point_in_time", {"pit_id": [pit]})


def fail_alone(failed: Sequence[Written], count: int) -> bool:
    """Whether OpenSearch fails on these by themselves, of `count` in a bulk, while it takes the others."""
    broken = bool(failed) and all(found.status == _FAILED for found in failed)
    return broken and (len(failed) < count or count == 1)


def _settled(found: Written) -> Written:
    """The outcome of a write that is final for this very product.

    Raises:
        SearchError: it says something about the index or the user, so every other write would end so too.
    """
    ours = found.is_done or found.status in {CONFLICT, GONE, _FAILED} | REFUSED
    if not ours or found.type == "index_not_found_exception":
        raise SearchError(f"OpenSearch answered {found.status}: {found.reason}", next_step=_RIGHTS)
    return found
