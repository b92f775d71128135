"""Which indices have the gram fields: who asks, for whom an answer holds, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gram_plugin.serve.fields import FieldCheck, GramFields, may_change_fields, newest_of_stream
from gram_plugin.serve.http import Upstream

KEYWORD = {"type": "keyword"}
GRAM = {
    "codes": KEYWORD,
    "weights": {"type": "rank_features"},
    "model": KEYWORD,
    "source": KEYWORD,
    "at": {"type": "date"},
}
WEIGHTED = {"shop": {"mappings": {"properties": {"gram": {"properties": GRAM}}}}}
BARE: dict[str, Any] = {"shop": {"mappings": {}}}
ALICE, BOB = [(b"authorization", b"Basic YQ==")], [(b"authorization", b"Basic Yg==")]


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the check."""
    return Clock()


@pytest.fixture
async def check(opensearch: Any, opensearch_url: str, clock: Clock) -> AsyncIterator[FieldCheck]:
    """A check that remembers for 60 seconds, before an index with the fields."""
    opensearch.mappings = WEIGHTED
    async with Upstream(opensearch_url) as upstream:
        made = FieldCheck(upstream, max_age_s=60, clock=clock)
        yield made
        await made.close()


async def test_that_an_index_has_the_fields_holds_for_every_caller(check: FieldCheck, opensearch: Any) -> None:
    """Another caller is answered from memory."""
    found = [await check.of("shop", ALICE), await check.of("shop", BOB)]
    assert (found, len(opensearch.seen)) == ([GramFields.WEIGHTED] * 2, 1)


async def test_that_fields_are_missing_holds_for_the_caller_who_was_told_so(check: FieldCheck, opensearch: Any) -> None:
    """Somebody who sees less of an index does not decide for others."""
    opensearch.mappings = BARE
    assert [await check.of("shop", BOB) for _ in range(2)] == [GramFields.NONE] * 2
    opensearch.mappings = WEIGHTED
    assert await check.of("shop", ALICE) is GramFields.WEIGHTED
    assert len(opensearch.seen) == 2


async def test_an_index_that_cannot_be_asked_about_has_the_fields_that_it_had_last(
    check: FieldCheck, opensearch: Any, clock: Clock
) -> None:
    """Until something that may have changed them passes through."""
    await check.of("shop", ALICE)
    clock.now, opensearch.mapping_status = 1000.0, 403
    assert await check.of("shop", BOB) is GramFields.WEIGHTED
    check.forget()
    assert await check.of("shop", BOB) is GramFields.UNKNOWN


async def test_fields_that_were_found_missing_are_not_taken_from_before(
    check: FieldCheck, opensearch: Any, clock: Clock
) -> None:
    """The last thing known of the index is that it has none, so nothing is written into it."""
    await check.of("shop", ALICE)
    clock.now, opensearch.mappings = 100.0, BARE
    assert await check.of("shop", ALICE) is GramFields.NONE
    clock.now, opensearch.mapping_status = 200.0, 503
    assert await check.of("shop", ALICE) is GramFields.AWAY


async def test_concurrent_questions_of_one_caller_are_one_look_up(check: FieldCheck, opensearch: Any) -> None:
    """One who leaves does not end it for the others; another caller asks for himself."""
    opensearch.lookup_gate = asyncio.Event()
    asking = [asyncio.create_task(check.of("shop", headers)) for headers in (ALICE, ALICE, ALICE, BOB)]
    async with asyncio.timeout(10):
        while len(opensearch.seen) < 2:  # noqa: ASYNC110 - the server has no event for a request that arrived
            await asyncio.sleep(0)
    asking[0].cancel()
    opensearch.lookup_gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert (found[1:], len(opensearch.seen)) == ([GramFields.WEIGHTED] * 3, 2)


async def test_an_answer_of_before_a_change_is_not_remembered(check: FieldCheck, opensearch: Any) -> None:
    """Whoever asks after the change asks OpenSearch."""
    opensearch.lookup_gate = asyncio.Event()
    early = asyncio.create_task(check.of("shop", ALICE))
    async with asyncio.timeout(10):
        while not opensearch.seen:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    check.forget()
    late = asyncio.create_task(check.of("shop", ALICE))
    opensearch.lookup_gate.set()
    await asyncio.gather(early, late)
    await check.of("shop", BOB)
    assert len(opensearch.seen) == 2


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ({".ds-logs-000001": BARE["shop"], ".ds-logs-000002": WEIGHTED["shop"]}, GramFields.WEIGHTED),
        ({".ds-logs-999999": BARE["shop"], ".ds-logs-1000000": WEIGHTED["shop"]}, GramFields.WEIGHTED),
        ({".ds-logs-000001": WEIGHTED["shop"], ".ds-logs-000002": BARE["shop"]}, GramFields.NONE),
    ],
)
async def test_of_a_data_stream_its_newest_index_decides(
    check: FieldCheck, opensearch: Any, behind: dict[str, Any], expected: GramFields
) -> None:
    """It is the one that is written to; older ones may be from before their template had the fields."""
    opensearch.mappings = behind
    assert await check.of("logs", ALICE) is expected


@pytest.mark.parametrize("other", ["logs-1", ".ds-other-000002", ".ds-logs-2"])
def test_a_name_with_any_other_index_behind_it_is_no_data_stream(other: str) -> None:
    """An alias may lead to an index of a data stream and to others; then the write index is asked for."""
    assert newest_of_stream([".ds-logs-000001", other], "logs") == ""


@pytest.mark.parametrize(
    ("method", "path", "changes"),
    [
        ("PUT", "/shop", True),
        ("DELETE", "/shop/", True),
        ("DELETE", "/_all", True),
        ("POST", "/shop/_mapping", True),
        ("PUT", "/shop/_mapping", True),
        ("POST", "/_aliases", True),
        ("DELETE", "/shop/_alias/now", True),
        ("POST", "/now/_rollover/shop-2", True),
        ("POST", "/_index_template/shop", True),
        ("PUT", "/_component_template/gram-codes", True),
        ("PUT", "/_template/shop", True),
        ("GET", "/shop/_mapping", False),
        ("HEAD", "/shop", False),
        ("DELETE", "/shop/_doc/1", False),
        ("POST", "/shop/_search", False),
        ("POST", "/_bulk", False),
        ("PUT", "/_cluster/settings", False),
        ("POST", "/", False),
    ],
)
def test_only_what_may_change_the_fields_behind_a_name_is_taken_for_a_change(
    method: str, path: str, changes: bool
) -> None:
    """An index itself, mappings, aliases, rollovers and templates; no document and no setting."""
    assert may_change_fields(method, path) is changes
