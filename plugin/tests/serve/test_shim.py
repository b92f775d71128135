"""The query shim before a fake OpenSearch."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from gram_plugin.contract.codes import Attribute, Code, ScoredCode
from gram_plugin.errors import DecodeError
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

LEXICAL = {"query": {"match": {"title": "red couch"}}, "size": 5}
JSON_TYPE = ("content-type", "application/json")


@pytest.fixture
def model(fake_generator: Any) -> Any:
    """The fake model."""
    return fake_generator()


@pytest.fixture
def settings(opensearch_url: str) -> Any:
    """Settings with room for a slow machine: what is late is made late on purpose."""
    return ShimSettings(upstream_url=opensearch_url, budget_ms=20_000)


@pytest.fixture
async def url(serve: Any, settings: ShimSettings, model: Any) -> Any:
    """Where the shim listens."""
    return await serve(create_shim(settings, model))


def enriched(body: bytes, model: Any, mode: Mode = Mode.RERANK) -> Any:
    """The body that OpenSearch gets with the fake model's codes at λ = 0.5 · 4."""
    return enrich(body, model.codes, "g1", ClauseSettings(strength=2.0, window=1000), mode)


def bodies(opensearch: Any) -> Any:
    """JSON bodies of all searches that OpenSearch got."""
    return [json.loads(seen.body) for seen in opensearch.searches]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/shop/_search", "/_search", "/sh*,-x/_search", "/_all/_search"])
async def test_a_search_is_enriched(client: Any, url: str, opensearch: Any, model: Any, method: str, path: str) -> None:
    """GET and POST, with an index, a wildcard or none: the clause is added and the header says applied."""
    got = await client(url + path, method, [JSON_TYPE], json.dumps(LEXICAL).encode())
    assert (got.status, got.status_header, bodies(opensearch)) == (200, "applied", [enriched(LEXICAL, model)])


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
async def test_ext_gram_decides_and_never_reaches_opensearch(
    client: Any, url: str, opensearch: Any, model: Any, mode: Mode
) -> None:
    """`ext.gram` sets text and mode, is taken out, and leaves the rest of `ext`."""
    ext = {"ubi": {"query_id": "7"}}
    await client.search(url + "/shop/_search", {**LEXICAL, "ext": {**ext, "gram": {"query": "sofa", "mode": mode}}})
    settings = ClauseSettings(strength=2.0, window=1000)
    expected = enrich({**LEXICAL, "ext": ext}, model.codes, "g1", settings, mode, text="sofa")
    assert (bodies(opensearch), model.texts[-1]) == ([expected], "sofa")


async def test_the_mode_header_stands_between_settings_and_extension(
    client: Any, url: str, opensearch: Any, model: Any
) -> None:
    """`x-gram-mode` beats the settings and is beaten by `ext.gram`."""
    await client.search(url + "/shop/_search", LEXICAL, x_gram_mode="recall")
    off = await client.search(
        url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"mode": "off"}}}, x_gram_mode="recall"
    )
    assert bodies(opensearch) == [enriched(LEXICAL, model, Mode.RECALL), LEXICAL]
    assert off.status_header == "off; reason=mode"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no-body"),
        (b'{"query": {"match": {"a": "b"}}', "invalid-json"),
        (b"[1]", "invalid-json"),
        (b'{"size": NaN}', "invalid-json"),
        (b'{"size": 1, "size": 2}', "invalid-json"),
        (b'{"query":{"match":{"a":"\xff"}}}', "invalid-json"),
        (b'{"query": ' + b'{"bool":{"must":' * 20_000 + b"{}" + b"}}" * 20_000 + b"}", "invalid-json"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid-json"),
        (b'{ "query" : {"term": {"a": "b"}}}', "no-query-text"),
        (b'{"query": {"match": {"a": ""}}}', "no-query-text"),
        (b'{"query": {"match": {"a": "b"}}, "pit": {"id": "x"}}', "pit"),
        (b'{"query": {"match": {"a": "b"}}, "sort": ["price"]}', "no-score"),
        (b'{"query": {"match": {"a": "b"}}, "min_score": 1e400}', "invalid-json"),
    ],
)
async def test_what_is_not_understood_passes_byte_for_byte(
    client: Any, url: str, opensearch: Any, body: bytes, reason: str
) -> None:
    """Broken, deep, empty and unknown bodies reach OpenSearch as they are, and the header says why."""
    got = await client(url + "/shop/_search?x=1", "POST", [JSON_TYPE], body)
    seen = opensearch.searches[0]
    assert (got.status_header, seen.body, seen.target) == (f"off; reason={reason}", body, b"/shop/_search?x=1")


async def test_a_bad_extension_is_taken_out_and_told(client: Any, url: str, opensearch: Any) -> None:
    """A mistake in `ext.gram` is no error of the search."""
    got = await client.search(url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"mood": "x"}}})
    assert (got.status_header, bodies(opensearch)) == ("off; reason=bad-extension", [LEXICAL])


async def test_url_queries_pass_untouched(client: Any, url: str, opensearch: Any) -> None:
    """`?q=` without a body and `?source=` are OpenSearch's own business."""
    first = await client(url + "/shop/_search?q=red%20couch")
    second = await client(url + "/shop/_search?q=red", "GET", [JSON_TYPE], json.dumps(LEXICAL).encode())
    assert [first.status_header, second.status_header] == ["off; reason=no-body", "off; reason=url-query"]
    assert [seen.target for seen in opensearch.seen] == [b"/shop/_search?q=red%20couch", b"/shop/_search?q=red"]


@pytest.mark.parametrize(
    "path", ["/shop/_doc/1", "/shop/_count", "/_search/scroll", "/", "/shop/_search/x", "/_cat/indices"]
)
async def test_other_endpoints_are_relayed_unmarked(client: Any, url: str, opensearch: Any, path: str) -> None:
    """What is no search has no header of ours, and nothing of it is read."""
    body = json.dumps({**LEXICAL, "ext": {"gram": {}}}).encode()
    got = await client(url + path, "POST", [JSON_TYPE], body)
    assert (got.status_header, [(seen.target, seen.body) for seen in opensearch.seen]) == (
        None,
        [(path.encode(), body)],
    )


async def test_a_large_body_streams_through(
    client: Any, serve: Any, settings: ShimSettings, model: Any, opensearch: Any
) -> AsyncIterator[bytes]:
    """A body over the bound, announced or chunked, passes untouched."""
    url = await serve(create_shim(replace(settings, max_body_bytes=2000), model))
    body = json.dumps({**LEXICAL, "x": "y" * 5000}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    answers = [await client(url + "/shop/_search", "POST", [JSON_TYPE], data) for data in (body, pieces())]
    assert [got.status_header for got in answers] == ["off; reason=body-too-large"] * 2
    assert [seen.body for seen in opensearch.seen] == [body, body]


@pytest.mark.parametrize(
    ("packed", "status"),
    [
        (gzip.compress(json.dumps(LEXICAL).encode()), "applied"),
        (gzip.compress(json.dumps(LEXICAL).encode())[:-4], "off; reason=content-encoding"),
        (gzip.compress(json.dumps(LEXICAL).encode()) * 2, "off; reason=content-encoding"),
        (gzip.compress(b" " * 50_000_000), "off; reason=body-too-large"),
        (b"no gzip", "off; reason=content-encoding"),
    ],
    ids=["good", "cut", "two", "bomb", "none"],
)
async def test_compressed_bodies_are_read_with_a_bound(
    client: Any, url: str, opensearch: Any, model: Any, packed: bytes, status: str
) -> None:
    """A good one is enriched and sent on plain; damage, surprises and bombs pass untouched."""
    got = await client(url + "/shop/_search", "POST", [JSON_TYPE, ("content-encoding", "gzip")], packed)
    seen = opensearch.searches[0]
    applied = ([], json.dumps(enriched(LEXICAL, model), separators=(",", ":")).encode())
    untouched = ([b"gzip"], packed)
    assert got.status_header == status
    assert (seen.header(b"content-encoding"), seen.body) == (applied if status == "applied" else untouched)


@pytest.mark.parametrize("text", ["x", "y" * 10_000, "🛋️", "\ud83d", "كنبة حمراء", "ספה\u202e"])
async def test_any_text_of_a_query_survives(client: Any, url: str, opensearch: Any, model: Any, text: str) -> None:
    """One character, ten thousand, emoji, half a surrogate pair, right-to-left: enriched, and equal at OpenSearch."""
    body = {"query": {"match": {"title": text}}}
    got = await client.search(url + "/shop/_search", body)
    assert (got.status_header, bodies(opensearch)) == ("applied", [enriched(body, model)])


@pytest.mark.parametrize(
    ("generator", "status"),
    [
        ({"error": DecodeError("broken")}, "degraded; reason=model-error"),
        ({"error": RuntimeError("worse")}, "degraded; reason=model-error"),
        ({"codes": ()}, "off; reason=no-codes"),
        (None, "degraded; reason=no-model"),
    ],
)
async def test_a_model_that_fails_leaves_the_search_as_it_was(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, fake_generator: Any, generator: Any, status: str
) -> None:
    """Broken, silent or absent model: the very bytes of the client reach OpenSearch, the header tells."""
    shim = create_shim(settings, None if generator is None else fake_generator(**generator))
    body = json.dumps(LEXICAL, indent=3).encode()
    got = await client(await serve(shim) + "/shop/_search", "POST", [JSON_TYPE], body)
    assert (got.status, got.status_header, opensearch.searches[0].body) == (200, status, body)


async def test_a_model_that_is_late_leaves_the_search_as_it_was(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, fake_generator: Any
) -> None:
    """After the budget of the request the lexical search goes; the late codes serve the next equal query."""
    gate = threading.Event()
    url = await serve(create_shim(settings, fake_generator(gate=gate)))
    hurried = {**LEXICAL, "ext": {"gram": {"budget_ms": 30}}}
    late = [await client.search(url + "/shop/_search", hurried) for _ in range(2)]
    gate.set()
    after = await client.search(url + "/shop/_search", LEXICAL)
    assert [got.status_header for got in late] == ["degraded; reason=late"] * 2
    assert bodies(opensearch)[:2] == [LEXICAL, LEXICAL]
    assert after.status_header == "applied"


async def test_the_breaker_opens_and_closes(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, fake_generator: Any
) -> Any:
    """After repeated failure the model is not asked, after the pause it is tried, and then it serves again."""
    now = [0.0]
    model = fake_generator(error=DecodeError("broken"))
    shim = create_shim(replace(settings, breaker_failures=2, breaker_pause_s=10), model, clock=lambda: now[0])
    url = await serve(shim)

    async def status(text: str) -> Any:
        return (await client.search(url + "/shop/_search", {"query": {"match": {"t": text}}})).status_header

    failing = [await status(text) for text in "abc"]
    now[0], model.error = 10.0, None
    healed = [await status(text) for text in "cd"]
    assert failing == ["degraded; reason=model-error"] * 2 + ["degraded; reason=breaker-open"]
    assert healed == ["applied", "applied"]


async def test_a_full_queue_is_told_as_overload(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, fake_generator: Any
) -> None:
    """When more texts wait than the queue holds, the search goes lexically at once."""
    gate = threading.Event()
    model = fake_generator(gate=gate)
    url = await serve(create_shim(replace(settings, max_queue=1, max_batch=1, max_wait_ms=0), model))
    tasks = [
        asyncio.create_task(client.search(url + "/shop/_search", {"query": {"match": {"t": str(n)}}})) for n in range(4)
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    gate.set()
    statuses = sorted([(await task).status_header for task in tasks])
    assert {(await task).status_header for task in done} == {"degraded; reason=overload"}
    assert set(statuses) == {"applied", "degraded; reason=overload"}


async def test_equal_queries_are_decoded_once(client: Any, url: str, model: Any) -> None:
    """Equal but for case and white space: one decoding serves all, at one time and later."""
    texts = ["Red  Couch", "red couch", "RED COUCH "]
    searches = [client.search(url + "/shop/_search", {"query": {"match": {"t": text}}}) for text in texts]
    await asyncio.gather(*searches)
    await client.search(url + "/shop/_search", LEXICAL)
    assert model.texts.count("red couch") == 1


@pytest.mark.parametrize(
    ("mappings", "status"),
    [
        ({"shop": {"mappings": {}}}, 'off; reason=no-mapping; next="gram mapping apply"'),
        ({"uncalibrated": None}, 'off; reason=uncalibrated; next="gram calibrate"'),
        ({"generation": "g2"}, 'off; reason=generation; next="gram calibrate"'),
        ({"mixed": None}, "off; reason=mixed-indices"),
    ],
)
async def test_an_index_without_terms_stays_lexical(
    client: Any, url: str, opensearch: Any, index_mapping: Any, mappings: Any, status: str
) -> None:
    """No fields, no calibration, another generation, or not the same for all indices: off, with the next command."""
    made = {
        "uncalibrated": {"shop": index_mapping(calibrated=False)},
        "generation": {"shop": index_mapping("g2")},
        "mixed": {"shop": index_mapping(), "other": {"mappings": {}}},
    }
    opensearch.mappings = made.get(next(iter(mappings)), mappings)
    got = await client.search(url + "/shop/_search", LEXICAL)
    assert (got.status_header, bodies(opensearch)) == (status, [LEXICAL])


async def test_a_slow_look_up_does_not_hold_the_search(client: Any, url: str, opensearch: Any) -> None:
    """While the mapping is still awaited at the end of the budget, the search goes lexically."""
    opensearch.lookup_gate = asyncio.Event()
    got = await client.search(url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"budget_ms": 30}}})
    opensearch.lookup_gate.set()
    assert (got.status_header, bodies(opensearch)) == ("degraded; reason=index-lookup-late", [LEXICAL])


async def test_credentials_are_the_callers(client: Any, url: str, opensearch: Any) -> None:
    """The caller's header goes with look-up and search; a refused caller does not switch others off."""
    good, bad = ("Basic " + base64.b64encode(user.encode()).decode() for user in ("good:x", "bad:x"))
    opensearch.mapping_status = 403
    refused = await client.search(url + "/shop/_search", LEXICAL, authorization=bad)
    opensearch.mapping_status = 200
    applied = await client.search(url + "/shop/_search", LEXICAL, authorization=good)
    assert [refused.status_header, applied.status_header] == ["off; reason=index-lookup-forbidden", "applied"]
    seen = [seen.header(b"authorization") for seen in opensearch.seen]
    assert seen == [[bad.encode()], [bad.encode()], [good.encode()], [good.encode()]]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_errors_that_are_not_ours_come_back_as_they_are(
    client: Any, url: str, opensearch: Any, status: int
) -> Any:
    """Wrong credentials, missing index, overload: one request, and OpenSearch's own answer."""

    async def answer(_: Any) -> Any:
        return JSONResponse({"error": "x", "status": status}, status_code=status, headers={"www-authenticate": "Basic"})

    opensearch.answer = answer
    got = await client.search(url + "/shop/_search", LEXICAL)
    assert (got.status, got.body) == (status, b'{"error":"x","status":%d}' % status)
    assert (got.header(b"www-authenticate"), len(opensearch.searches)) == (b"Basic", 1)


async def test_an_index_that_refuses_a_rescore_gets_the_clause_from_then_on(
    client: Any, url: str, opensearch: Any, model: Any, found: Any
) -> None:
    """One search is answered without codes; those of other targets are rescored as before."""

    async def answer(seen: Any) -> Any:
        refused = "rescore" in json.loads(seen.body) and seen.target.startswith(b"/shop/")
        return JSONResponse({"error": {}}, status_code=400) if refused else JSONResponse(found(1))

    opensearch.answer = answer
    got = [await client.search(url + path, LEXICAL) for path in ("/shop/_search", "/shop/_search", "/sh*/_search")]
    assert [each.status_header for each in got] == ["degraded; reason=refused", "applied", "applied"]
    beside = enrich(LEXICAL, model.codes, "g1", ClauseSettings(strength=2.0), Mode.RERANK)
    assert bodies(opensearch) == [enriched(LEXICAL, model), LEXICAL, beside, enriched(LEXICAL, model)]


@pytest.mark.parametrize("trouble", ["status", "shards"])
async def test_a_refused_clause_falls_back_once(
    client: Any, url: str, opensearch: Any, found: Any, trouble: str
) -> Any:
    """When OpenSearch cannot run the enriched search, in whole or on a shard, the client gets the lexical answer."""

    async def answer(seen: Any) -> Any:
        if json.loads(seen.body) == LEXICAL:
            return JSONResponse(found(2))
        failed = {"total": 2, "successful": 1, "failed": 1, "failures": [{}]}
        if trouble == "shards":
            return JSONResponse(found(1, _shards=failed))
        return JSONResponse({"error": {}}, status_code=400)

    opensearch.answer = answer
    got = await client.search(url + "/shop/_search", LEXICAL)
    assert (got.status, got.status_header, json.loads(got.body)) == (200, "degraded; reason=refused", found(2))


async def test_rescue_searches_again_only_when_too_little_was_found(
    client: Any, url: str, opensearch: Any, found: Any, model: Any
) -> Any:
    """Lexical first; with hits enough that is the answer, without any the recall body follows."""

    async def answer(seen: Any) -> Any:
        thin = b"thin" in seen.body
        return JSONResponse(found(7 if b"rank_feature" in seen.body else 0 if thin else 3))

    opensearch.answer = answer
    thin = {"query": {"match": {"t": "thin"}}}
    enough = await client.search(url + "/shop/_search", LEXICAL, x_gram_mode="rescue")
    rescued = await client.search(url + "/shop/_search", thin, x_gram_mode="rescue")
    assert [enough.status_header, rescued.status_header] == ["off; reason=enough-hits", "applied"]
    assert [json.loads(enough.body), json.loads(rescued.body)] == [found(3), found(7)]
    assert bodies(opensearch) == [LEXICAL, thin, enriched(thin, model, Mode.RECALL)]


@pytest.mark.parametrize("status", [400, 503])
async def test_a_rescue_that_fails_leaves_the_first_answer(
    client: Any, url: str, opensearch: Any, found: Any, status: int
) -> Any:
    """The lexical answer is kept when the second search goes wrong in any way."""

    async def answer(seen: Any) -> Any:
        return Response("no", status) if b"rank_feature" in seen.body else JSONResponse(found(0))

    opensearch.answer = answer
    got = await client.search(url + "/shop/_search", LEXICAL, x_gram_mode="rescue")
    assert (got.status, got.status_header, json.loads(got.body)) == (200, "degraded; reason=refused", found(0))


async def test_a_rescue_never_holds_an_answer_longer_than_the_budget(
    client: Any, url: str, opensearch: Any, found: Any
) -> Any:
    """An answer that is long on its way goes on as it comes once the budget is over, whatever its hits."""
    whole, release = json.dumps(found(0)).encode(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield whole[:20]
        await release.wait()
        yield whole[20:]

    async def answer(_: Any) -> Any:
        return StreamingResponse(pieces())

    opensearch.answer = answer
    body = {**LEXICAL, "ext": {"gram": {"mode": "rescue", "budget_ms": 50}}}
    try:
        async with asyncio.timeout(10), aiohttp.ClientSession() as session:
            response = await session.post(url + "/shop/_search", json=body)
            release.set()
            got = await response.read()
    finally:
        release.set()
    assert (response.headers["x-gram-status"], got) == ("degraded; reason=late", whole)


@pytest.mark.parametrize("total", [0, 7])
async def test_a_rescue_counts_the_hits_of_a_large_answer(
    client: Any, url: str, opensearch: Any, found: Any, total: int
) -> Any:
    """More than is read at once is read too: the total decides, wherever else the answer speaks of hits."""
    filler = {"aggregations": {str(n): {"hits": {"total": {"value": 5}, "hits": []}} for n in range(2000)}}

    async def answer(seen: Any) -> Any:
        return JSONResponse(found(9) if b"rank_feature" in seen.body else found(total, **filler))

    opensearch.answer = answer
    got = await client.search(url + "/shop/_search", LEXICAL, x_gram_mode="rescue")
    assert got.status_header == ("off; reason=enough-hits" if total else "applied")


async def until_waiting(session: aiohttp.ClientSession, url: str, count: int) -> None:
    """Returns once so many texts wait for the model."""
    waiting = -1
    while waiting != count:
        async with session.get(url + "/-/ready") as response:
            waiting = (await response.json())["waiting"]


def lines(*items: Any) -> Any:
    """NDJSON."""
    return "".join(json.dumps(item) + "\n" for item in items).encode()


async def test_msearch_is_enriched_item_by_item(client: Any, url: str, opensearch: Any, model: Any) -> None:
    """Each search has its own mode and index; what stays lexical stays byte for byte."""
    term = {"query": {"term": {"a": "b"}}}
    ours = {**LEXICAL, "ext": {"gram": {"mode": "recall"}}}
    head = ("content-type", "application/x-ndjson")
    got = await client(url + "/shop/_msearch", "POST", [head], lines({}, LEXICAL, {"index": ["shop"]}, ours, {}, term))
    expected = [{}, enriched(LEXICAL, model), {"index": ["shop"]}, enriched(LEXICAL, model, Mode.RECALL), {}, term]
    assert got.status_header == "applied; items=2/3"
    assert [json.loads(line) for line in opensearch.searches[0].body.splitlines()] == expected


async def test_msearch_falls_back_when_an_enriched_item_fails(
    client: Any, url: str, opensearch: Any, found: Any
) -> Any:
    """One enriched search that OpenSearch refuses: all are sent again as they came."""

    async def answer(seen: Any) -> Any:
        bad = {"error": {"type": "x"}, "status": 400}
        return JSONResponse({"took": 1, "responses": [bad if b"rank_feature" in seen.body else found(1)]})

    opensearch.answer = answer
    body = lines({}, LEXICAL)
    got = await client(url + "/shop/_msearch", "POST", [("content-type", "application/x-ndjson")], body)
    assert (got.status_header, json.loads(got.body)["responses"]) == ("degraded; reason=refused", [found(1)])
    assert opensearch.searches[1].body == body


async def test_msearch_rescues_what_is_thin(client: Any, url: str, opensearch: Any, found: Any) -> Any:
    """Only the search with too few hits is sent with codes the second time."""

    async def answer(seen: Any) -> Any:
        searches = seen.body.splitlines()[1::2]
        return JSONResponse(
            {"responses": [found(5 if b"couch" in line or b"rank_feature" in line else 0) for line in searches]}
        )

    opensearch.answer = answer
    thin = {"query": {"match": {"t": "thin"}}}
    head = [("content-type", "application/x-ndjson"), ("x-gram-mode", "rescue")]
    got = await client(url + "/shop/_msearch", "POST", head, lines({}, LEXICAL, {}, thin))
    second = [b"rank_feature" in line for line in opensearch.searches[1].body.splitlines()]
    assert (got.status_header, second) == ("applied; items=1/2", [False, False, False, True])
    assert json.loads(got.body)["responses"] == [found(5), found(5)]


@pytest.mark.parametrize("body", [b'{}\n{"query":{}}', b"{}\n", b"\n\n\n", b""])
async def test_a_broken_msearch_passes_untouched(client: Any, url: str, opensearch: Any, body: bytes) -> None:
    """Lines that do not pair up are OpenSearch's to refuse."""
    got = await client(url + "/_msearch", "POST", [("content-type", "application/x-ndjson")], body)
    assert got.status_header.startswith("off; ")
    assert opensearch.searches[0].body == body


async def test_an_unreachable_opensearch_is_a_marked_502(client: Any, serve: Any, fake_generator: Any) -> None:
    """Searches too get OpenSearch's error shape."""
    url = await serve(create_shim(ShimSettings(upstream_url="http://127.0.0.1:9"), fake_generator()))
    got = await client.search(url + "/shop/_search", LEXICAL)
    assert (got.status, got.status_header) == (502, "degraded; reason=upstream")
    assert json.loads(got.body)["error"]["type"] == "gram_upstream_exception"


async def test_the_switch_makes_it_a_plain_proxy_at_once(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, model: Any, tmp_path: Path
) -> None:
    """While the file exists every search is lexical, without a restart."""
    switch = tmp_path / "off"
    url = await serve(create_shim(replace(settings, off_file=switch), model))
    statuses = []
    for action in (lambda: None, switch.touch, switch.unlink):
        action()
        statuses.append((await client.search(url + "/shop/_search", LEXICAL)).status_header)
    assert statuses == ["applied", "off; reason=switched-off", "applied"]


async def test_explain_names_the_codes(client: Any, url: str) -> None:
    """`ext.gram.explain` gives codes and probabilities in a header."""
    got = await client.search(url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"explain": True}}})
    assert got.header(b"x-gram-codes") == b"type=sofa;p=0.800"


async def test_the_header_of_codes_is_bounded(
    client: Any, serve: Any, settings: ShimSettings, fake_generator: Any
) -> None:
    """The best codes that fit whole into 2 KB; proxies refuse larger headers, and `ext.gram` has them all."""
    codes = [ScoredCode(Code.of([Attribute("type", f"söfa-{number:03}-" + "x" * 130)]), 0.9) for number in range(64)]
    url = await serve(create_shim(settings, fake_generator(codes=codes)))
    got = await client.search(url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"explain": True}}})
    shown = [f"type=s%C3%B6fa-{number:03}-{'x' * 130};p=0.900" for number in range(12)]
    assert got.header(b"x-gram-codes") == ", ".join(shown).encode()
    assert len(json.loads(got.body)["ext"]["gram"]["codes"]) == settings.max_codes


@pytest.mark.parametrize("status", [401, 403, 404, 429])
async def test_a_refused_search_tells_no_codes(client: Any, url: str, opensearch: Any, status: int) -> None:
    """Whom OpenSearch does not answer with hits is not told what the shim made of the query."""

    async def answer(seen: Any) -> Response:
        return JSONResponse({"error": "x"}, status_code=status)

    opensearch.answer = answer
    got = await client.search(url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"explain": True}}})
    assert (got.status, got.header(b"x-gram-codes")) == (status, None)


async def test_an_explained_search_counts_on_nobody_elses_look_up(client: Any, url: str, opensearch: Any) -> None:
    """Codes are shown to a caller who may read the mapping himself, whoever read it before."""
    await client.search(url + "/shop/_search", LEXICAL, authorization="a")
    opensearch.mapping_status = 403
    plain = await client.search(url + "/shop/_search", LEXICAL, authorization="b")
    got = await client.search(url + "/shop/_search", {**LEXICAL, "ext": {"gram": {"explain": True}}}, authorization="b")
    forbidden = "off; reason=index-lookup-forbidden"
    assert [plain.status_header, got.status_header, got.header(b"x-gram-codes")] == ["applied", forbidden, b""]


async def test_a_client_that_hangs_up_frees_the_model(
    url: str, serve: Any, settings: ShimSettings, opensearch: Any, fake_generator: Any
) -> Any:
    """A query that nobody waits for any more leaves the queue and never reaches the model."""
    gate, entered = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Waiting(type(fake_generator())):
        def generate(self, texts: Any, role: Any, limit: Any = 10) -> Any:
            loop.call_soon_threadsafe(entered.set)
            return super().generate(texts, role, limit)

    model = Waiting(gate=gate)
    shim_url = await serve(create_shim(replace(settings, max_batch=1), model))
    await entered.wait()  # the warm-up holds the model
    async with aiohttp.ClientSession() as session:
        task = asyncio.create_task(session.post(shim_url + "/shop/_search", json=LEXICAL))
        await until_waiting(session, shim_url, 1)
        task.cancel()
        await until_waiting(session, shim_url, 0)
    gate.set()
    assert model.texts == ["warm up"]


async def test_outcomes_are_counted_and_logged_without_queries(
    client: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each search counts by outcome and reason, and leaves one line of JSON that does not hold its text."""
    with caplog.at_level("INFO", logger="gram_plugin.serve.shim"):
        await client.search(url + "/shop/_search", LEXICAL)
        await client.search(url + "/shop/_search", {"query": {"term": {"a": "b"}}})
    page = (await client(url + "/-/metrics")).body
    line = {"event": "search", "endpoint": "_search", "index": "shop", "searches": 1}
    assert [vars(record)["fields"] for record in caplog.records] == [
        {**line, "status": "applied", "reason": "", "codes": 1},
        {**line, "status": "off", "reason": "no-query-text", "codes": 0},
    ]
    assert b'gram_searches_total{outcome="applied",reason=""} 1.0' in page
    assert b'gram_searches_total{outcome="off",reason="no-query-text"} 1.0' in page


async def test_the_shims_own_endpoints(client: Any, url: str) -> None:
    """Live and ready answer for themselves and are not relayed."""
    live = await client(url + "/-/live")
    while (ready := await client(url + "/-/ready")).status != 200:
        pass
    assert (live.status, live.body) == (200, b'{"live":true}')
    state = {"model": "g1", "breaker_open": False, "waiting": 0, "switched_off": False}
    assert json.loads(ready.body) == {"ready": True, **state}
