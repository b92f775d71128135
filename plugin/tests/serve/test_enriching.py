"""Bringing terms, codes and body together within the budget of a search."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gram_plugin.contract.codes import Role, ScoredCode
from gram_plugin.search.query import Mode
from gram_plugin.serve.breaker import Breaker
from gram_plugin.serve.enriching import Enricher
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.http import Upstream
from gram_plugin.serve.indices import IndexNames, Indices
from gram_plugin.serve.model import Model, Serving
from gram_plugin.serve.querycodes import QueryCodes
from gram_plugin.serve.searches import Item, Search
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.status import APPLIED, Reason, degraded

BUDGET_MS = 20_000


class Source:
    """Gives one code to every text."""

    def __init__(self, codes: list[ScoredCode]) -> None:
        self._codes = codes

    async def codes(self, text: str, role: Role) -> list[ScoredCode]:
        """As the protocol says."""
        return self._codes


@pytest.fixture
def now() -> list[float]:
    """The time, for the test to turn."""
    return [100.0]


@pytest.fixture
async def enricher(opensearch_url: str, fake_generator: Any, now: list[float]) -> AsyncIterator[Enricher]:
    """An enricher before the fake OpenSearch."""
    settings = ShimSettings(upstream_url=opensearch_url)

    def clock() -> float:
        return now[0]

    async with Upstream(opensearch_url) as upstream:
        indices = Indices(upstream, 60, clock)
        breaker = Breaker(5, 5, clock)
        codes = QueryCodes(
            Source(fake_generator().codes),
            breaker=breaker,
            metrics=ShimMetrics(CollectorRegistry()),
            cache_entries=10,
            cache_age_s=60,
            clock=clock,
        )
        yield Enricher(settings, Serving(Model("g1", None, breaker, codes, "title")), indices, clock)
        await codes.close()
        await indices.close()


def search(text: str) -> Item:
    """A search with a budget of 20 s."""
    body = {"query": {"match": {"t": text}}}
    return Item(b"", b"{}", Search(body, text, Mode.RERANK, BUDGET_MS, IndexNames("shop")))


async def test_the_budget_runs_from_the_arrival(enricher: Enricher, now: list[float]) -> None:
    """What was spent before on reading the request is gone; codes that are at hand come all the same."""
    first = [decision.status for decision in await enricher.decide([search("sofa")], [], 100.0)]
    spent = now[0] - BUDGET_MS / 1000
    cached, fresh = [(await enricher.decide([search(text)], [], spent))[0].status for text in ("sofa", "couch")]
    assert (first, cached, fresh) == ([APPLIED], APPLIED, degraded(Reason.LATE))


async def test_titles_that_are_the_query_are_looked_for_where_the_index_keeps_them_whole(
    enricher: Enricher, opensearch: Any, index_mapping: Any
) -> None:
    """In the field that the bundle knows as the title, not in others."""
    mapping = index_mapping()
    keyword = {"type": "text", "fields": {"keyword": {"type": "keyword"}}}
    mapping["mappings"]["properties"] |= {"title": keyword, "brand": keyword}
    opensearch.mappings = {"shop": mapping}
    (decision,) = await enricher.decide([search("Night Lamp")], [], 100.0)
    assert decision.added
    assert decision.added.settings.titles == ("title.keyword",)
    term = {"title.keyword": {"value": "Night Lamp", "case_insensitive": True}}
    assert json.dumps({"term": term}, separators=(",", ":")).encode() in (decision.enriched or b"")


async def test_enriching_a_large_search_lets_others_run(enricher: Enricher, longest_pause: Any) -> None:
    """The loop turns all the while, so that the deadlines of other searches hold."""
    await enricher.decide([search("sofa")], [], 100.0)
    terms = [{"term": {"sku": str(number)}} for number in range(60_000)]
    body = {"query": {"bool": {"must": {"match": {"t": "sofa"}}, "should": terms}}}
    wanted = Search(body, "sofa", Mode.RECALL, BUDGET_MS, IndexNames("shop"))
    large = Item(b"", json.dumps(body).encode(), wanted)
    assert await longest_pause(lambda: enricher.decide([large], [], 100.0)) < 0.6


async def test_many_searches_of_one_request_take_turns_with_others_until_their_budget_is_over(
    enricher: Enricher, now: list[float]
) -> None:
    """The loop turns between two of them, and those whose turn comes too late go on as they came."""
    await enricher.decide([search("sofa")], [], 100.0)
    began = now[0]
    async with asyncio.TaskGroup() as group:
        deciding = group.create_task(enricher.decide([search("sofa") for _ in range(100)], [], began))
        while not deciding.done():
            await asyncio.sleep(0)
            now[0] += 1
    statuses = [decision.status for decision in deciding.result()]
    applied = statuses.count(APPLIED)
    assert 1 <= applied <= BUDGET_MS / 1000
    assert statuses == [APPLIED] * applied + [degraded(Reason.LATE)] * (100 - applied)


async def test_a_large_search_is_not_written_beyond_its_budget(enricher: Enricher, now: list[float]) -> None:
    """Its codes are at hand, but its budget went into reading it: it goes on as it came."""
    await enricher.decide([search("sofa")], [], 100.0)
    large = Item(b"", b" " * 100_000, search("sofa").wanted)
    (decision,) = await enricher.decide([large], [], now[0] - BUDGET_MS / 1000)
    assert (decision.status, decision.enriched) == (degraded(Reason.LATE), None)
