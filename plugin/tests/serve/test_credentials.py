"""Credentials: every request reaches OpenSearch with those of its own caller, and the shim keeps and tells none."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

CALLERS = 40
SECRET = "c2VjcmV0OnNlY3JldA"  # noqa: S105 - what must not be found anywhere


@pytest.fixture
async def url(serve: Any, opensearch_url: str, fake_generator: Any) -> Any:
    """Where the shim listens."""
    return await serve(create_shim(ShimSettings(upstream_url=opensearch_url, budget_ms=20_000), fake_generator()))


def asking(text: str) -> dict[str, Any]:
    """A search that is explained, so that each caller looks the index up himself."""
    return {"query": {"match": {"title": text}}, "ext": {"gram": {"explain": True}}}


async def test_callers_at_one_time_keep_their_own_credentials(client: Any, url: str, opensearch: Any) -> None:
    """Forty callers, equal index, kept connections: look-up and search of each carry what he sent, and no cookie."""

    async def answer(_: Any) -> Response:
        return JSONResponse({"hits": {"hits": []}}, headers={"set-cookie": "session=of-another"})

    opensearch.answer = answer
    for _ in range(2):
        searches = [
            client.search(url + "/shop/_search", asking(f"text-{number}"), authorization=f"Basic {number}")
            for number in range(CALLERS)
        ]
        await asyncio.gather(*searches)
    pairs = {
        (seen.header(b"authorization")[0], seen.body.partition(b"text-")[2].partition(b'"')[0])
        for seen in opensearch.searches
    }
    looked_up = sorted(seen.header(b"authorization")[0] for seen in opensearch.seen if seen not in opensearch.searches)
    assert pairs == {(b"Basic %d" % number, b"%d" % number) for number in range(CALLERS)}
    assert looked_up == sorted(b"Basic %d" % number for number in range(CALLERS))
    assert [seen.header(b"cookie") for seen in opensearch.seen] == [[]] * len(opensearch.seen)


async def test_who_sends_none_gets_none(client: Any, url: str, opensearch: Any) -> None:
    """After a caller with credentials one without: neither his look-up nor his search has any."""
    await client.search(url + "/shop/_search", asking("a"), authorization=SECRET, x_proxy_user="admin")
    opensearch.seen.clear()
    await client.search(url + "/shop/_search", asking("a"))
    found = [(seen.header(b"authorization"), seen.header(b"x-proxy-user")) for seen in opensearch.seen]
    assert found == [([], [])] * 2


async def test_no_credential_is_told_in_log_metrics_or_answer(
    client: Any, url: str, opensearch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Searches that go well, are refused, or fail at the look-up; with every word that our log has."""
    pages = []
    with caplog.at_level(logging.DEBUG, logger="gram_plugin"):
        for status, index in ((200, "a"), (403, "b"), (500, "c")):
            opensearch.mapping_status = status
            got = await client.search(url + f"/{index}/_search", asking("t"), authorization=SECRET, cookie=SECRET)
            pages.append(got.body + repr(got.headers).encode())
        for path in ("/-/metrics", "/-/ready"):
            pages.append((await client(url + path)).body)
    told = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert caplog.records
    assert [SECRET in told, *(SECRET.encode() in page for page in pages)] == [False] * 6
