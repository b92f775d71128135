"""The budget under requests that are made to exceed it. The model hangs, so that nothing but the budget ends the wait.

Times are compared with what they would be if each search waited for the one before it, which no busy machine reaches.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

BUDGET_MS = 500.0
CLIENTS = 16
ITEMS = 1000
JSON_TYPE = ("content-type", "application/json")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds the model until the test ends."""
    held = threading.Event()
    yield held
    held.set()


@pytest.fixture
async def url(serve: Any, opensearch_url: str, fake_generator: Any, gate: threading.Event) -> Any:
    """Where a shim listens whose model hangs."""
    settings = ShimSettings(upstream_url=opensearch_url, budget_ms=BUDGET_MS)
    return await serve(create_shim(replace(settings, breaker_failures=10_000), fake_generator(gate=gate)))


def asking(text: str) -> bytes:
    """A search."""
    return json.dumps({"query": {"match": {"title": text}}}).encode()


async def test_clients_at_one_time_wait_once_together(client: Any, url: str) -> None:
    """Sixteen different searches at one time: all are late after one budget, not after one another's."""
    began = time.monotonic()
    searches = [client(url + "/shop/_search", "POST", [JSON_TYPE], asking(f"t{number}")) for number in range(CLIENTS)]
    answers = await asyncio.gather(*searches)
    took_s = time.monotonic() - began
    assert {answer.status_header for answer in answers} == {"degraded; reason=late"}
    assert BUDGET_MS / 1000 <= took_s < CLIENTS * BUDGET_MS / 2000


async def test_a_thousand_searches_in_one_request_wait_once_together(client: Any, url: str, opensearch: Any) -> None:
    """The bytes that came go on after one budget; those that find no place in the model's queue do not wait at all."""
    body = b"".join(b"{}\n" + asking(f"t{number}") + b"\n" for number in range(ITEMS))
    began = time.monotonic()
    got = await client(url + "/shop/_msearch", "POST", [("content-type", "application/x-ndjson")], body)
    took_s = time.monotonic() - began
    assert (got.status, got.status_header.partition(";")[0]) == (200, "degraded")
    assert opensearch.searches[0].body == body
    assert took_s < ITEMS * BUDGET_MS / 1000 / 20


BODIES = {
    "pattern": asking("(a+)+$" * 150_000),
    "quotes": asking('"a' * 300_000),
    "numbers": asking("1a-2b." * 150_000),
    "words": asking("red couch " * 90_000),
    "ten-thousand-parts": json.dumps({"query": {"bool": {"should": [{"match": {"t": "a"}}] * 10_000}}}).encode(),
    "many-values": json.dumps(
        {"query": {"bool": {"must": [{"match": {"t": "a"}}], "filter": [{"terms": {"id": ["0" * 8] * 70_000}}]}}}
    ).encode(),
    "many-aggregations": json.dumps(
        {"query": {"match": {"t": "a"}}, "aggs": {f"a{n}": {"terms": {"field": "f"}} for n in range(15_000)}}
    ).encode(),
}


@pytest.mark.parametrize("name", BODIES)
async def test_large_searches_at_one_time_go_on_as_they_came(client: Any, url: str, opensearch: Any, name: str) -> None:
    """Sixteen bodies of up to 1 MB at one time: each is sent on byte for byte, and none waits for all the others."""
    began = time.monotonic()
    searches = [client(url + "/shop/_search", "POST", [JSON_TYPE], BODIES[name]) for _ in range(CLIENTS)]
    answers = await asyncio.gather(*searches)
    took_s = time.monotonic() - began
    late = {"degraded; reason=late", "degraded; reason=index-lookup-late"}
    assert ({answer.status for answer in answers}, {answer.status_header for answer in answers} - late) == (
        {200},
        set(),
    )
    assert {seen.body for seen in opensearch.searches} == {BODIES[name]}
    assert took_s < CLIENTS * BUDGET_MS / 1000
