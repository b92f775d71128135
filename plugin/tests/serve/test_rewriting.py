"""`POST /v1/rewrite` before a fake OpenSearch: the clause, or one that changes nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gram_plugin.contract.codes import Attribute, Code, ScoredCode
from gram_plugin.errors import DecodeError
from gram_plugin.search.query import ClauseSettings, Mode, code_clause, enrich
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

JSON_TYPE = ("content-type", "application/json")
TERMS = ClauseSettings(strength=2.0)
"""λ = 0.5 · 4 of the fake OpenSearch's mapping."""
NEUTRAL = {"match_none": {}}
LEXICAL = {"query": {"match": {"title": "red couch"}}, "size": 5}
TWO_FAMILIES = (
    ScoredCode(Code.of([Attribute("type", "sofa")]), 0.8, 0.5),
    ScoredCode(Code.of([Attribute("type", "sofa"), Attribute("colour", "red")]), 0.4),
    ScoredCode(Code.of([Attribute("brand", "acme")]), 1.0),
)


@pytest.fixture
def settings(opensearch_url: str) -> ShimSettings:
    """Settings with room for a slow machine."""
    return ShimSettings(upstream_url=opensearch_url, budget_ms=20_000)


@pytest.fixture
def model(fake_generator: Any) -> Any:
    """A model that sees two families in every query."""
    return fake_generator(codes=TWO_FAMILIES)


@pytest.fixture
async def url(serve: Any, settings: ShimSettings, model: Any) -> str:
    """Where the endpoint is."""
    return f"{await serve(create_shim(settings, model))}/v1/rewrite"


async def answer(client: Any, url: str, body: Any, *headers: tuple[str, str]) -> tuple[int, str | None, Any]:
    """Status, header and document of an answer; a body that is no bytes goes as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    got = await client(url, "POST", [JSON_TYPE, *headers], content)
    return got.status, got.status_header, json.loads(got.body)


async def test_a_text_and_an_index_give_the_clause(client: Any, url: str, opensearch: Any, model: Any) -> None:
    """The clause is the one that the shim adds to a search of this index."""
    found = await answer(client, url, {"query": "red couch", "index": "shop"})
    clause = code_clause(TWO_FAMILIES, "g1", TERMS)
    assert found == (200, "applied", {"clause": clause, "status": "applied"})
    assert ([seen.target for seen in opensearch.seen], model.texts[-1]) == ([b"/shop/_mapping"], "red couch")


async def test_numbers_survive_ml_commons(client: Any, url: str) -> None:
    """No whole number is in a clause: ml-commons would make 1.0 of 1; every boost is a float, counts are texts."""

    def refuse(text: str) -> Any:
        raise AssertionError(f"whole number {text}")

    got = await client(url, "POST", [JSON_TYPE], b'{"query": "x", "index": "shop", "explain": true}')
    clause = json.loads(got.body, parse_int=refuse)["clause"]
    assert clause["bool"]["minimum_should_match"] == "1"


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL, Mode.RESCUE])
async def test_a_body_comes_back_enriched(client: Any, url: str, mode: Mode) -> None:
    """A search body gives its text, and comes back as the shim would send it, `ext.gram` taken out."""
    body = {**LEXICAL, "ext": {"gram": {"mode": mode}, "ubi": {}}}
    _, _, document = await answer(client, url, {"body": body, "index": "shop"})
    expected = enrich({**LEXICAL, "ext": {"ubi": {}}}, TWO_FAMILIES, "g1", TERMS, mode)
    assert document["body"] == expected


async def test_own_keys_beat_those_of_the_body(client: Any, url: str, model: Any) -> None:
    """`query` and `mode` of the request win over `ext.gram`, and `explain` shows what the codes are worth."""
    body = {**LEXICAL, "ext": {"gram": {"mode": "off", "query": "lamp"}}}
    request = {"query": "sofa", "mode": "recall", "index": ["shop"], "explain": True, "body": body}
    _, status, document = await answer(client, url, request)
    assert (status, model.texts[-1]) == ("applied", "sofa")
    assert document["body"] == enrich(LEXICAL, TWO_FAMILIES, "g1", TERMS, Mode.RECALL, text="sofa")
    assert document["codes"] == [
        {"code": "brand=acme", "probability": 1.0, "rarity": 1.0, "boost": 2.0},
        {"code": "type=sofa", "probability": 0.8, "rarity": 0.5, "boost": 0.8},
        {"code": "type=sofa|colour=red", "probability": 0.4, "rarity": 1.0, "boost": 0.8},
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no-body"),
        (b"[1]", "invalid-json"),
        (b'{"query":""nike"","index":"shop"}', "invalid-json"),
        (b'{"query": "a", "query": "b"}', "invalid-json"),
        (b"[" * 100_000, "invalid-json"),
        ({}, "no-query-text"),
        ({"query": "  ", "index": "shop"}, "no-codes"),
        ({"query": "", "body": LEXICAL}, "no-query-text"),
        ({"query": "sofa", "mode": "off"}, "mode"),
        ({"body": {"query": {"hybrid": {"queries": []}}}, "query": "sofa"}, "hybrid"),
        ({"body": {**LEXICAL, "sort": ["price"]}}, "no-score"),
    ],
)
async def test_what_cannot_be_rewritten_gets_a_clause_that_changes_nothing(
    client: Any, url: str, body: Any, reason: str
) -> None:
    """Broken, empty, unwanted: 200, `match_none` and the reason; a body that was sent comes back as it was."""
    found = await answer(client, url, body)
    sent = {"body": body["body"]} if isinstance(body, dict) and "body" in body else {}
    assert found == (200, f"off; reason={reason}", {"clause": NEUTRAL, "status": "off", "reason": reason, **sent})


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"qery": "x"}, "unknown keys: qery — the keys are query, index, mode, budget_ms, explain, body"),
        ({"query": 7}, "request.query is 7 — give a string, or leave it out"),
        ({"query": "x", "mode": "fast"}, 'request.mode is "fast" — give one of rerank, recall, rescue, off'),
        ({"query": "x", "index": [1]}, "index is no name — give the name of an index or alias, or a list of names"),
        ({"query": "x", "body": [1]}, "body is no object — give a search body, or leave it out"),
    ],
)
async def test_a_mistake_is_told_in_words(client: Any, url: str, body: Any, detail: str) -> None:
    """A wrong key or value is named, with the way out, and the clause changes nothing."""
    status, header, document = await answer(client, url, body)
    assert (status, header) == (200, "off; reason=bad-request")
    assert document["clause"] == NEUTRAL
    assert document["detail"].startswith(detail)


async def test_a_number_that_fits_no_float_is_told(client: Any, url: str) -> None:
    """A body that could not be written back is not guessed at."""
    body = b'{"index": "shop", "body": {"query": {"match": {"t": "x"}}, "min_score": 1e400}}'
    _, _, document = await answer(client, url, body)
    assert document == {"clause": NEUTRAL, "status": "off", "reason": "invalid-json"}


@pytest.mark.parametrize(
    ("generator", "mappings", "status"),
    [
        ({"error": DecodeError("broken")}, None, "degraded; reason=model-error"),
        ({"codes": ()}, None, "off; reason=no-codes"),
        (None, None, "degraded; reason=no-model"),
        ({}, {"shop": {"mappings": {}}}, 'off; reason=no-mapping; next="gram mapping apply"'),
    ],
)
async def test_failures_leave_the_search_as_it_was(
    client: Any,
    serve: Any,
    settings: ShimSettings,
    opensearch: Any,
    fake_generator: Any,
    generator: Any,
    mappings: Any,
    status: str,
) -> None:
    """No model, a broken one, an index without fields: the neutral clause, and the caller's own body unchanged."""
    opensearch.mappings = mappings or opensearch.mappings
    shim = create_shim(settings, None if generator is None else fake_generator(**generator))
    url = f"{await serve(shim)}/v1/rewrite"
    code, header, document = await answer(client, url, {"index": "shop", "body": LEXICAL})
    assert (code, header, document["clause"], document["body"]) == (200, status, NEUTRAL, LEXICAL)


async def test_the_budget_bounds_the_wait(client: Any, serve: Any, settings: ShimSettings, fake_generator: Any) -> None:
    """A model that does not answer in time gives the neutral clause, marked late."""
    gate = threading.Event()
    url = f"{await serve(create_shim(settings, fake_generator(gate=gate)))}/v1/rewrite"
    found = await answer(client, url, {"query": "sofa", "index": "shop", "budget_ms": 30})
    gate.set()
    late = {"clause": NEUTRAL, "status": "degraded", "reason": "late"}
    assert found == (200, "degraded; reason=late", late)


async def test_bodies_are_bounded_and_may_be_zipped(
    client: Any, serve: Any, settings: ShimSettings, model: Any
) -> None:
    """Over `max_body_bytes`, as sent or unzipped, nothing is read; gzip is."""
    url = f"{await serve(create_shim(replace(settings, max_body_bytes=2000), model))}/v1/rewrite"
    request = {"query": "sofa", "index": "shop"}
    large = {**request, "body": {"query": {"match": {"t": "x" * 5000}}}}
    zipped = ("content-encoding", "gzip")
    found = [
        await answer(client, url, large),
        await answer(client, url, gzip.compress(json.dumps(large).encode()), zipped),
        await answer(client, url, gzip.compress(json.dumps(request).encode()), zipped),
    ]
    assert [status for _, status, _ in found] == ["off; reason=body-too-large"] * 2 + ["applied"]


async def test_the_caller_is_the_one_who_looks_up(client: Any, url: str, opensearch: Any) -> None:
    """Credentials of the request, such as a connector's, go with the look-up of the index, and nothing else is sent."""
    caller = "Basic eDp5"
    await answer(client, url, {"query": "sofa", "index": "shop"}, ("authorization", caller))
    assert [seen.header(b"authorization") for seen in opensearch.seen] == [[caller.encode()]]


async def test_what_another_caller_looked_up_is_not_told(client: Any, url: str, opensearch: Any) -> None:
    """A caller whom OpenSearch refuses learns neither codes nor λ of an index that somebody else may read."""
    request = {"query": "sofa", "index": "shop", "explain": True}
    allowed = await answer(client, url, request, ("authorization", "Basic eDp5"))
    opensearch.mapping_status = 401
    refused = await answer(client, url, request)
    document = {"clause": NEUTRAL, "status": "off", "reason": "index-lookup-forbidden"}
    assert (allowed[1], refused) == ("applied", (200, "off; reason=index-lookup-forbidden", document))


async def test_the_switch_silences_it(
    client: Any, serve: Any, settings: ShimSettings, model: Any, tmp_path: Path
) -> None:
    """What turns the shim into a plain proxy makes every clause neutral."""
    switch = tmp_path / "off"
    url = f"{await serve(create_shim(replace(settings, off_file=switch), model))}/v1/rewrite"
    switch.touch()
    found = await answer(client, url, {"query": "sofa", "index": "shop"})
    assert found == (200, "off; reason=switched-off", {"clause": NEUTRAL, "status": "off", "reason": "switched-off"})


async def test_other_methods_are_not_relayed(client: Any, url: str, opensearch: Any) -> None:
    """The path is the shim's own."""
    got = await client(url)
    assert (got.status, opensearch.seen) == (405, [])


async def test_a_caller_that_hangs_up_while_sending_harms_nobody(client: Any, url: str) -> None:
    """A body that ends early ends that request alone."""
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(b'POST /v1/rewrite HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"query"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await answer(client, url, {"query": "sofa", "index": "shop"}))[1] == "applied"


async def test_every_request_is_counted_and_logged(client: Any, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Metrics and log tell the outcome, as for a search; the text is not in the log."""
    with caplog.at_level("INFO", logger="gram_plugin.serve.rewriting"):
        await answer(client, url, {"query": "red couch", "index": "shop"})
        await answer(client, url, b"{")
    page = (await client(url.removesuffix("v1/rewrite") + "-/metrics")).body
    assert [vars(record)["fields"] for record in caplog.records] == [
        {"event": "rewrite", "status": "applied", "reason": ""},
        {"event": "rewrite", "status": "off", "reason": "invalid-json"},
    ]
    assert b'gram_searches_total{outcome="off",reason="invalid-json"} 1.0' in page
