"""Reading and writing the products of an index for the backfill, through overload, outages and lost points in time."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from gram_plugin.errors import SearchError
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
    next_size,
    page_body,
    read_items,
    shard_count,
    shards_of,
    stored_of,
)
from gram_plugin.search.client import explained, reason_of, url_of
from gram_plugin.search.document import PENDING

if TYPE_CHECKING:  # see client.py
    from opensearchpy import AsyncOpenSearch

_log = logging.getLogger(__name__)

_FIRST_PAGE = 50
_TARGET_CHARS = 20_000_000
_FAILED = 500
_TOO_LARGE = 413
_LOST = (404, 500, 503)
_RESUME = "look at the cluster, then run the same command again: it goes on where it stopped"
_RIGHTS = "look at the blocks of the index and at the rights of the user"


class Budget(Protocol):
    """How often a request is tried, and how long to wait between."""

    @property
    def tries(self) -> int:
        """Most requests of the same kind, >= 1."""

    async def pause(self, tried: int, retry_after_s: float) -> None:
        """Waits after the `tried`-th failure."""


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
        client: does not repeat requests by itself.
        index: the name.
        budget: for overload and outages.
        page: most products in one page.
        keep_alive: how long a point in time stays open without being read.
    """

    def __init__(
        self, client: AsyncOpenSearch, index: str, budget: Budget, *, page: int = 500, keep_alive: str = "5m"
    ) -> None:
        self._client = client
        self._index = index
        self._budget = budget
        self._page = page
        self._keep_alive = keep_alive

    async def settings(self) -> dict[str, Any]:
        """The settings of each concrete index behind the name.

        Raises:
            SearchError: there is none, or OpenSearch cannot be asked.
        """
        path = f"/{_quoted(self._index)}/_settings"
        found: dict[str, Any] = await self._ask(f"reading the settings of {self._index}", "GET", path)
        return found

    async def shards(self) -> list[Shard]:
        """Every shard, with everything that was acknowledged before the call made visible to searches.

        Raises:
            SearchError: a primary is missing for too long, or OpenSearch cannot be asked.
        """
        settings = await self.settings()
        names, tried = ",".join(map(_quoted, settings)), 0
        while True:
            stats = await self._ask("reading shards", "GET", f"/{names}/_stats/docs", params={"level": "shards"})
            found = shards_of(settings, stats)
            if len(found) == shard_count(settings):
                await self._ask("refreshing", "POST", f"/{names}/_refresh")
                return found
            tried += 1
            if tried >= self._budget.tries:
                missing = f"{shard_count(settings) - len(found)} of {shard_count(settings)} shards"
                raise SearchError(f"{self._index}: {missing} have no primary", next_step=_RESUME)
            await self._budget.pause(tried, 0.0)

    async def census(self, generation: str) -> Census:
        """What the whole index has now."""
        await self._ask("refreshing", "POST", f"/{_quoted(self._index)}/_refresh")
        return Census(
            await self._matching({"match_all": {}}),
            await self._matching({"term": {"gram.model": generation}}),
            await self._matching({"term": {"gram.model": PENDING}}),
        )

    async def _matching(self, query: Mapping[str, Any]) -> int:
        path = f"/{_quoted(self._index)}/_count"
        answer = await self._ask("counting", "POST", path, body={"query": query})
        count: int = answer["count"]
        return count

    async def count(self, span: Span) -> int:
        """How many products a span has."""
        pit = await self._open(span.shard)
        try:
            answer = await self._ask("counting", "POST", "/_search", body=count_body(span, pit, self._keep_alive))
            total: int = answer["hits"]["total"]["value"]
            return total
        finally:
            await self._close(pit)

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

    async def read_again(self, products: Sequence[Stored]) -> list[Stored | None]:
        """The products as they are now, in order; None for one that is gone."""
        wanted = [
            {"_index": found.index, "_id": found.id, **({"routing": found.routing} if found.routing else {})}
            for found in products
        ]
        answer = await self._ask("reading products again", "POST", "/_mget", body={"docs": wanted})
        return [stored_of(found) if found.get("found") else None for found in answer["docs"]]

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
            if waiting and tried >= self._budget.tries:
                _give_up([outcome[at] for at in waiting], len(writes), tried)
                break  # OpenSearch fails on these by themselves, while it takes the others
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
        answer = await self._ask("writing codes", "POST", "/_bulk", body=body, expected=(_TOO_LARGE,))
        if answer is None:
            return None
        found = read_items(answer, len(writes))
        return found or [Written(_FAILED + 3, "gram", "the answer has not one result for each product")] * len(writes)

    async def _find_again(self, span: Span, lost: int) -> None:
        """Waits before a point in time is opened in the place of a lost one, the `lost`-th in a row."""
        if lost >= self._budget.tries:
            message = f"{span.shard.key} lost its point in time {lost} times in a row"
            raise SearchError(message, next_step=_RESUME)
        _log.info("the point in time of %s was lost, another one is opened", span.shard.key)
        await self._budget.pause(lost, 0.0)

    async def _search(self, body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The hits of a page; None when the point in time is lost, with the node that held it or by its age."""
        answer = await self._ask("reading products", "POST", "/_search", body=body, expected=_LOST)
        if answer is None:
            return None
        hits: list[dict[str, Any]] = answer["hits"]["hits"]
        return hits

    async def _open(self, shard: Shard) -> str:
        path = f"/{_quoted(shard.index)}/_search/point_in_time"
        params = {"keep_alive": self._keep_alive, "preference": f"_shards:{shard.number}"}
        answer = await self._ask(f"opening a point in time of {shard.index}", "POST", path, params=params)
        pit: str = answer["pit_id"]
        return pit

    async def _close(self, pit: str) -> None:
        """Frees what a point in time holds; when that fails it ends by itself."""
        from opensearchpy import exceptions as client_errors

        try:
            body = {"pit_id": [pit]}
            await self._client.transport.perform_request("DELETE", "/_search/point_in_time", body=body)
        except client_errors.OpenSearchException as error:
            _log.debug("a point in time was not closed: %s", reason_of(error))

    async def _ask(
        self,
        purpose: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        expected: tuple[int, ...] = (),
    ) -> Any:
        """The answer, tried again through overload and outages; None for an expected failure."""
        from opensearchpy import exceptions as client_errors

        tried = 0
        while True:
            try:
                answer = await self._client.transport.perform_request(method, path, params=params, body=body)
                if not _has_failed_shards(answer):
                    return answer
                trouble: Exception = SearchError(f"{purpose}: not every shard answered", next_step=_RESUME)
            except client_errors.OpenSearchException as error:
                status = (
                    getattr(error, "status_code", None) if isinstance(error, client_errors.TransportError) else None
                )
                if status in expected:
                    return None
                if isinstance(status, int) and status not in TRANSIENT:
                    raise explained(error, url_of(self._client), purpose) from error
                trouble = explained(error, url_of(self._client), purpose)
            tried += 1
            if tried >= self._budget.tries:
                raise SearchError(f"gave up after {tried} tries: {trouble}", next_step=_RESUME)
            _log.info("again: %s", trouble)
            await self._budget.pause(tried, 0.0)


def _has_failed_shards(answer: Any) -> bool:
    """Whether a search or a refresh reached only some of its shards, so that products would be missing unseen."""
    shards = answer.get("_shards") if isinstance(answer, Mapping) else None
    return isinstance(shards, Mapping) and bool(shards.get("failed"))


def _give_up(failed: Sequence[Written], count: int, tried: int) -> None:
    broken = all(found.status == _FAILED for found in failed)
    if not broken or (len(failed) == count and count > 1):
        raise SearchError(f"gave up after {tried} tries: {failed[0].reason}", next_step=_RESUME)


def _settled(found: Written) -> Written:
    """The outcome of a write that is final for this very product.

    Raises:
        SearchError: it says something about the index or the user, so every other write would end so too.
    """
    ours = found.is_done or found.status in {CONFLICT, GONE, _FAILED} | REFUSED
    if not ours or found.type == "index_not_found_exception":
        raise SearchError(f"OpenSearch answered {found.status}: {found.reason}", next_step=_RIGHTS)
    return found


def _quoted(name: str) -> str:
    return quote(name, safe="")
