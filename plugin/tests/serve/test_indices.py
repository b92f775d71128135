"""What the shim knows of indices, and whom it asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.http import Upstream, UpstreamAnswer
from gram_plugin.serve.indices import IndexNames, IndexTerms, Indices, finding_of
from gram_plugin.serve.status import NotEnriched, Reason, Status, degraded, off

SHOP = IndexNames("shop")
LATER = Deadline.after(86_400_000)  # from the import on: other tests run before


@pytest.fixture
def now() -> list[float]:
    """The time, for the test to turn."""
    return [0.0]


@pytest.fixture
async def indices(opensearch_url: str, now: list[float]) -> AsyncIterator[Indices]:
    """Indices of the fake OpenSearch, read again after 60 s."""
    async with Upstream(opensearch_url) as upstream:
        made = Indices(upstream, 60, lambda: now[0])
        yield made
        await made.close()


async def status_of(indices: Indices, headers: list[tuple[bytes, bytes]]) -> Status | IndexTerms:
    """Terms or why there are none."""
    try:
        return await indices.terms(SHOP, "g1", headers, LATER)
    except NotEnriched as end:
        return end.status


async def test_terms_are_read_once_for_all_at_one_time(indices: Indices, opensearch: Any) -> None:
    """Ten searches at once make one look-up, and get λ = strength · score scale."""
    found = await asyncio.gather(*(indices.terms(SHOP, "g1", [], LATER) for _ in range(10)))
    assert (found, len(opensearch.seen)) == ([IndexTerms("g1", 2.0, weighted=True)] * 10, 1)
    assert opensearch.seen[0].target == b"/shop/_mapping"


async def test_old_terms_serve_while_they_are_read_again(
    indices: Indices, opensearch: Any, opensearch_url: str, client: Any, index_mapping: Any, now: list[float]
) -> None:
    """After its age an entry still answers at once, and what is read meanwhile answers next."""
    await indices.terms(SHOP, "g1", [], LATER)
    opensearch.mappings = {"shop": index_mapping(strength=1.0)}
    now[0] = 61.0
    stale = await indices.terms(SHOP, "g1", [], Deadline.after(0))
    while (fresh := await indices.terms(SHOP, "g1", [], LATER)) == stale:
        await client(opensearch_url + "/elsewhere")
    assert (stale.points, fresh.points) == (2.0, 4.0)


async def test_a_refusal_is_remembered_for_its_caller_alone(
    indices: Indices, opensearch: Any, now: list[float]
) -> None:
    """One caller's 403 answers that caller for some seconds, and nobody else."""
    mine, other = [(b"authorization", b"a")], [(b"Authorization", b"b")]
    opensearch.mapping_status = 403
    refused = [await status_of(indices, mine) for _ in range(2)]
    asked = len(opensearch.seen)
    opensearch.mapping_status = 200
    allowed = await status_of(indices, other)
    assert (refused, asked, allowed) == ([off(Reason.FORBIDDEN)] * 2, 1, IndexTerms("g1", 2.0, weighted=True))


@pytest.mark.parametrize("kind", ["hidden", "mixed", "uncalibrated"])
@pytest.mark.parametrize("known_before", [True, False])
async def test_what_security_hides_from_one_caller_stays_on_for_others(
    indices: Indices, opensearch: Any, index_mapping: Any, now: list[float], kind: str, known_before: bool
) -> None:
    """A caller who sees no fields, only some or no calibration has no codes; whoever sees all has, before and after."""
    blind, seeing = [(b"authorization", b"a")], [(b"authorization", b"b")]
    whole = opensearch.mappings
    terms = IndexTerms("g1", 2.0, weighted=True)
    if known_before:
        assert await status_of(indices, seeing) == terms
        now[0] = 120.0
    other = {"hidden": {"shop": {"mappings": {}}}, "uncalibrated": {"shop": index_mapping(calibrated=False)}}
    opensearch.mappings = other.get(kind, {**whole, "other": {"mappings": {}}})
    assert isinstance(await status_of(indices, blind), Status)
    opensearch.mappings = whole
    assert await status_of(indices, seeing) == terms


async def test_who_is_told_the_terms_looks_them_up_himself(
    indices: Indices, opensearch: Any, opensearch_url: str, client: Any, now: list[float]
) -> None:
    """Once for each caller; old ones serve while they are read again, and a right that is taken ends them."""
    mine, others = [(b"authorization", b"a")], [(b"authorization", b"b")]
    terms = IndexTerms("g1", 2.0, weighted=True)

    async def told(headers: list[tuple[bytes, bytes]]) -> Status | IndexTerms:
        try:
            return await indices.terms(SHOP, "g1", headers, LATER, told=True)
        except NotEnriched as end:
            return end.status

    found = [await told(headers) for headers in (others, mine, mine)]
    asked = len(opensearch.seen)
    opensearch.mapping_status, now[0] = 403, 61.0
    stale = await told(mine)
    while (after := await told(mine)) == terms:
        await client(opensearch_url + "/elsewhere")
    assert (found, asked, stale, after) == ([terms] * 3, 2, terms, off(Reason.FORBIDDEN))


async def test_old_terms_outlive_the_look_up_of_a_caller_who_may_not_see_them(
    indices: Indices, opensearch: Any, opensearch_url: str, client: Any, now: list[float]
) -> None:
    """A refresh that finds nothing replaces nothing, and is made once for its caller, not with each search."""
    blind, seeing = [(b"authorization", b"a")], [(b"authorization", b"b")]
    terms = await indices.terms(SHOP, "g1", seeing, LATER)
    opensearch.mappings = {"shop": {"mappings": {}}}
    now[0] = 61.0
    found = []
    for _ in range(20):
        found += [await status_of(indices, blind)]
        await client(opensearch_url + "/elsewhere")
    asked = [seen.target for seen in opensearch.seen].count(b"/shop/_mapping")
    assert (found, await status_of(indices, seeing), asked) == ([terms] * 20, terms, 2)


async def test_a_finding_that_is_about_to_change_is_soon_asked_again(
    indices: Indices, opensearch: Any, index_mapping: Any, now: list[float]
) -> None:
    """After `gram calibrate` codes come within seconds, not after the full age."""
    opensearch.mappings = {"shop": index_mapping(calibrated=False)}
    before = await status_of(indices, [])
    opensearch.mappings = {"shop": index_mapping()}
    now[0] = 5.0
    assert (before, await status_of(indices, [])) == (off(Reason.UNCALIBRATED), IndexTerms("g1", 2.0, weighted=True))


async def test_only_what_a_look_up_needs_goes_with_it(indices: Indices, opensearch: Any) -> None:
    """Credentials and tracing ids go; what describes the search's body or answer does not."""
    sent = [(b"authorization", b"a"), (b"x-opaque-id", b"7"), (b"content-type", b"x"), (b"content-length", b"9")]
    await indices.terms(SHOP, "g1", [*sent, (b"accept-encoding", b"br"), (b"host", b"h")], LATER)
    kept = [pair for pair in opensearch.seen[0].headers if pair[0] != b"host"]
    assert kept == [(b"authorization", b"a"), (b"x-opaque-id", b"7")]


async def test_an_unreachable_opensearch_is_told() -> None:
    """A look-up that fails is no error."""
    async with Upstream("http://127.0.0.1:9") as upstream:
        assert await status_of(Indices(upstream, 60), []) == degraded(Reason.LOOKUP_FAILED)


class Answering:
    """An OpenSearch that has its answer ready."""

    def __init__(self, answer: UpstreamAnswer) -> None:
        self._answer = answer

    async def send(self, *_: object, **__: object) -> UpstreamAnswer:
        """As `Upstream` says."""
        return self._answer


async def test_reading_a_large_mapping_lets_others_run(index_mapping: Any, longest_pause: Any) -> None:
    """The loop turns all the while, so that the deadlines of other searches hold."""
    made = index_mapping()
    made["mappings"]["properties"] |= {f"field-{n}": {"type": "keyword", "ignore_above": 256} for n in range(100_000)}
    upstream = Answering(answer(200, {"shop": made}))
    assert await longest_pause(lambda: Indices(cast(Upstream, upstream), 60).terms(SHOP, "g1", [], LATER)) < 0.6


def answer(status: int, document: Any) -> UpstreamAnswer:
    """An answer of OpenSearch."""
    return UpstreamAnswer(status, (), json.dumps(document).encode())


def test_terms_tell_where_titles_are_kept_whole(index_mapping: Any) -> None:
    """Of all indices together, for the field that holds titles; nothing where that is not known."""
    one, other = index_mapping(), index_mapping()
    one["mappings"]["properties"]["title"] = {"type": "text", "fields": {"keyword": {"type": "keyword"}}}
    found = [finding_of(answer(200, {"a": one, "b": other}), "g1", title) for title in ("title", "")]
    assert found == [IndexTerms("g1", 2.0, weighted=True, titles=titles) for titles in (("title.keyword",), ())]


def test_several_indices_share_the_smallest_lambda(index_mapping: Any) -> None:
    """And weights count only where all map them."""
    plain = index_mapping(strength=0.25)
    del plain["mappings"]["properties"]["gram"]["properties"]["weights"]
    found = finding_of(answer(200, {"a": index_mapping(strength=2.0), "b": plain}), "g1")
    assert found == IndexTerms("g1", 1.0, weighted=False)


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, {}, off(Reason.NO_MAPPING)),
        (200, {"a": {}}, off(Reason.NO_MAPPING)),
        (404, {"error": "x"}, off(Reason.NO_MAPPING)),
        (401, {}, off(Reason.FORBIDDEN)),
        (403, {}, off(Reason.FORBIDDEN)),
        (429, {}, degraded(Reason.LOOKUP_FAILED)),
        (503, {}, degraded(Reason.LOOKUP_FAILED)),
    ],
)
def test_answers_without_terms_say_why(status: int, document: Any, expected: Status) -> None:
    """Each way to have no terms has its reason."""
    assert finding_of(answer(status, document), "g1") == expected


@pytest.mark.parametrize("strength", [0, -1, "x", None, float("1e308")])
def test_a_broken_calibration_counts_as_none(index_mapping: Any, strength: Any) -> None:
    """λ must be a finite number above zero."""
    document = {"a": index_mapping(strength=strength)}
    assert finding_of(answer(200, document), "g1") == off(Reason.UNCALIBRATED)


async def test_the_log_names_the_command_once_an_hour(
    indices: Indices, opensearch: Any, index_mapping: Any, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """An index that waits for a command is in the log when that is found, and not at every look-up; a new need is."""
    uncalibrated = {"shop": index_mapping(calibrated=False)}
    for moment, mappings in ((0, uncalibrated), (10, uncalibrated), (20, {"shop": {}}), (3700, uncalibrated)):
        now[0], opensearch.mappings = moment, mappings
        await status_of(indices, [])
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    calibrate = "searches of shop stay lexical, uncalibrated: run `gram calibrate shop`"
    apply = "searches of shop stay lexical, no-mapping: run `gram mapping apply shop`"
    assert said == [calibrate, apply, calibrate]
