"""Scripts through the sidecar: what they may have changed is marked before their writer is told of it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse

from gram_plugin.contract.text import Rendering
from gram_plugin.errors import DecodeError
from gram_plugin.search.bulk import BulkItem
from gram_plugin.serve.coding import CodingRules
from gram_plugin.serve.delivery import Retrying
from gram_plugin.serve.fields import GramFields
from gram_plugin.serve.http import Upstream
from gram_plugin.serve.marking import Marker
from gram_plugin.serve.scripts import Scripted
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import Sidecar, create_sidecar

KINDS = {"codes": "keyword", "model": "keyword", "source": "keyword", "at": "date"}
FIELDS = {name: {"type": kind} for name, kind in KINDS.items()}
WEIGHTED = {**FIELDS, "weights": {"type": "rank_features"}}
CLEARED: dict[str, Any] = {"codes": [], "source": None, "model": "pending", "weights": []}
RISKY: dict[str, Any] = {"script": {"source": "ctx._source.title = params.t", "params": {"t": "boot"}}}
HARMLESS: dict[str, Any] = {"script": "ctx._source.views += 1"}
UPDATED: dict[str, Any] = {"update": {"_index": "shop", "_id": "1", "status": 200, "result": "updated"}}
NOOP: dict[str, Any] = {"update": {"_index": "shop", "_id": "1", "status": 200, "result": "noop"}}
CREATED: dict[str, Any] = {"index": {"_index": "shop", "_id": "1", "status": 201, "result": "created"}}
NONE: dict[str, Any] = {"update": {"_index": "shop", "_id": "1", "status": 404, "error": {"type": "missing"}}}
BUSY: dict[str, Any] = {"update": {"_index": "shop", "_id": "1", "status": 429, "error": {"type": "busy"}}}
DENIED: dict[str, Any] = {"update": {"_index": "shop", "_id": "1", "status": 403, "error": {"type": "denied"}}}

Serve = Callable[..., Awaitable[str]]


def mapping(fields: dict[str, Any] = WEIGHTED) -> dict[str, Any]:
    """The mapping of an index with the fields."""
    return {"mappings": {"properties": {"gram": {"properties": fields}}}}


def lines(*documents: Any) -> bytes:
    """A `_bulk` body."""
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def read(body: bytes) -> list[Any]:
    """The documents of a body, without times."""
    found = [json.loads(line) for line in body.splitlines()]
    for document in found:
        document.get("doc", {}).get("gram", {}).pop("at", None)
    return found


def answering(*answers: Any) -> Callable[[Any], Awaitable[Response]]:
    """Gives one answer after the other: items of a bulk, or a response."""
    left = list(answers)

    async def answer(_: Any) -> Response:
        found = left.pop(0)
        return found if isinstance(found, Response) else JSONResponse({"errors": False, "items": found})

    return answer


@pytest.fixture
def sidecar(serve: Serve, opensearch: Any, opensearch_url: str, fake_generator: Any) -> Callable[..., Awaitable[str]]:
    """Starts a sidecar before the fake OpenSearch, whose index `shop` has the fields."""
    opensearch.mappings = {"shop": mapping()}

    def start(error: Exception | None = None, **changed: Any) -> Awaitable[str]:
        settings = SidecarSettings(upstream_url=opensearch_url, max_wait_ms=0.0, **changed)
        return serve(create_sidecar(settings, fake_generator(error=error), CodingRules(Rendering(("title",)))))

    return start


def bulk(*operations: Sequence[Any]) -> bytes:
    """A body of these operations."""
    return lines(*(line for operation in operations for line in operation))


async def test_what_a_script_may_have_changed_is_marked_after_it(sidecar: Any, opensearch: Any, client: Any) -> None:
    """Only what OpenSearch says it has updated, under its own name and routing, with the caller's credentials."""
    opensearch.answer = answering([UPDATED, CREATED, NOOP, UPDATED, NONE], [UPDATED])
    sent = bulk(
        ({"update": {"_id": "1", "routing": "r", "if_seq_no": 3, "if_primary_term": 1}}, RISKY),
        ({"index": {"_id": "2"}}, {"title": "shoe"}),
        ({"update": {"_id": "3"}}, RISKY),
        ({"update": {"_id": "4"}}, HARMLESS),
        ({"update": {"_id": "5"}}, RISKY),
    )
    url = await sidecar()
    headers = [("content-type", "application/x-ndjson"), ("authorization", "Basic eA==")]
    answer = await client(f"{url}/shop/_bulk?refresh=true&routing=q&_source=true", "POST", headers, sent)
    metrics = await client(f"{url}/-/metrics")
    script, mark = opensearch.searches
    assert read(script.body)[0:2] == read(sent)[0:2]  # the script itself is untouched
    assert (mark.method, mark.target) == ("POST", b"/shop/_bulk?refresh=true&routing=q")
    assert mark.header(b"authorization") == [b"Basic eA=="]
    action = {"update": {"_id": "1", "routing": "r", "retry_on_conflict": 5}}
    assert read(mark.body) == [action, {"doc": {"gram": CLEARED}}]
    assert (answer.status, answer.status_header) == (200, "degraded; reason=script")
    assert json.loads(answer.body)["items"] == [UPDATED, CREATED, NOOP, UPDATED, NONE]
    assert b'gram_documents_total{outcome="uncoded",reason="script"} 1.0' in metrics.body
    assert b'gram_documents_total{outcome="coded",reason=""} 1.0' in metrics.body


@pytest.mark.parametrize(("result", "marks"), [("updated", 1), ("noop", 0), ("deleted", 0)])
async def test_a_single_update_is_marked_under_its_own_path(
    sidecar: Any, opensearch: Any, client: Any, result: str, marks: int
) -> None:
    """By `_update`, which a caller may be allowed where `_bulk` is not; a packed answer is read too."""
    packed = gzip.compress(json.dumps({"result": result}).encode())
    first = Response(packed, media_type="application/json", headers={"content-encoding": "gzip"})
    opensearch.answer = answering(first, JSONResponse({"result": "updated"}))
    url = await sidecar()
    sent = json.dumps(RISKY).encode()
    headers = [("content-type", "application/json"), ("accept-encoding", "gzip")]
    answer = await client(f"{url}/shop/_update/a%2Fb?if_seq_no=3&if_primary_term=1&routing=r", "POST", headers, sent)
    script, *found = opensearch.searches
    assert (script.body, answer.body) == (sent, packed)
    assert [(mark.target, read(mark.body)) for mark in found] == [
        (b"/shop/_update/a%2Fb?routing=r&retry_on_conflict=5", [{"doc": {"gram": CLEARED}}])
    ] * marks
    assert answer.status_header == ("degraded; reason=script" if marks else "applied")


async def test_a_mark_that_finds_no_room_is_tried_again(sidecar: Any, opensearch: Any, client: Any) -> None:
    """Only what was not marked goes out again; a product that is gone needs no mark."""
    opensearch.answer = answering([UPDATED] * 3, [BUSY, UPDATED, NONE], Response(status_code=503), [UPDATED])
    url = await sidecar()
    sent = bulk(*(({"update": {"_id": str(number)}}, RISKY) for number in range(3)))
    answer = await client(f"{url}/shop/_bulk", "POST", [("content-type", "application/x-ndjson")], sent)
    _, *marks = opensearch.searches
    ids = [[line["update"]["_id"] for line in read(mark.body) if "update" in line] for mark in marks]
    assert (ids, answer.status_header) == ([["0", "1", "2"], ["0"], ["0"]], "degraded; reason=script")


async def test_a_mark_that_stays_refused_is_said_and_costs_no_answer(
    sidecar: Any, opensearch: Any, client: Any
) -> None:
    """The script has been run, so the answer is OpenSearch's; the header and the metrics tell of the old codes."""
    opensearch.answer = answering([UPDATED], [DENIED])
    url = await sidecar()
    headers = [("content-type", "application/x-ndjson")]
    answer = await client(f"{url}/shop/_bulk", "POST", headers, bulk(({"update": {"_id": "1"}}, RISKY)))
    metrics = await client(f"{url}/-/metrics")
    assert (answer.status, json.loads(answer.body)["items"]) == (200, [UPDATED])
    assert answer.status_header == "degraded; reason=script-unmarked"
    assert b'gram_documents_total{outcome="uncoded",reason="script-unmarked"} 1.0' in metrics.body
    assert len(opensearch.searches) == 2


async def test_a_product_with_old_codes_is_said_however_many_others_have_none(
    sidecar: Any, opensearch: Any, client: Any
) -> None:
    """Of several reasons the answer names the one that leaves codes of another text."""
    opensearch.answer = answering([UPDATED] * 3, [UPDATED, UPDATED, DENIED])
    url = await sidecar()
    sent = bulk(*(({"update": {"_id": str(number)}}, RISKY) for number in range(3)))
    answer = await client(f"{url}/shop/_bulk", "POST", [("content-type", "application/x-ndjson")], sent)
    assert answer.status_header == "degraded; reason=script-unmarked"


async def test_a_mark_goes_to_the_very_product_whose_name_is_a_number(
    sidecar: Any, opensearch: Any, client: Any
) -> None:
    """OpenSearch takes the text of the number, which is not how it would be written again."""
    opensearch.answer = answering([UPDATED] * 2, [UPDATED] * 2)
    url = await sidecar()
    script = json.dumps(RISKY).encode()
    sent = b'{"update":{"_id":1.10,"routing":-0}}\n%b\n{"update":{"_id":1e2}}\n%b\n' % (script, script)
    await client(f"{url}/shop/_bulk", "POST", [("content-type", "application/x-ndjson")], sent)
    assert [line["update"] for line in read(opensearch.searches[1].body) if "update" in line] == [
        {"_id": "1.10", "routing": "-0", "retry_on_conflict": 5},
        {"_id": "1e2", "retry_on_conflict": 5},
    ]


@pytest.mark.parametrize("answer", [Response(b"{}", 429), Response(b"{}", 400), Response(b"{}", 503)])
async def test_a_refused_request_is_not_followed_by_marks(
    sidecar: Any, opensearch: Any, client: Any, answer: Response
) -> None:
    """No script was run, so all codes are right."""
    opensearch.answer = answering(answer)
    url = await sidecar()
    headers = [("content-type", "application/x-ndjson")]
    got = await client(f"{url}/shop/_bulk", "POST", headers, bulk(({"update": {"_id": "1"}}, RISKY)))
    assert (got.status, got.status_header, len(opensearch.searches)) == (answer.status_code, "applied", 1)


@pytest.mark.parametrize(
    ("changed", "fields", "marks"),
    [({}, WEIGHTED, [CLEARED]), ({"mark_scripts": False}, WEIGHTED, []), ({}, {}, [])],
)
async def test_marks_are_for_indices_with_the_fields_and_can_be_switched_off(
    sidecar: Any, opensearch: Any, client: Any, changed: Any, fields: Any, marks: Any
) -> None:
    """Without the fields nothing is written that dynamic mapping could make fields of."""
    opensearch.mappings = {"shop": mapping(fields)}
    opensearch.answer = answering([UPDATED], [UPDATED])
    url = await sidecar(**changed)
    headers = [("content-type", "application/x-ndjson")]
    await client(f"{url}/_bulk", "POST", headers, bulk(({"update": {"_index": "shop", "_id": "1"}}, RISKY)))
    _, *found = opensearch.searches
    assert [read(mark.body)[1]["doc"]["gram"] for mark in found] == marks


async def test_an_index_without_weights_is_marked_without_them(sidecar: Any, opensearch: Any, client: Any) -> None:
    """Its mapping is strict and would refuse the field."""
    opensearch.mappings = {"shop": mapping(FIELDS)}
    opensearch.answer = answering([UPDATED], [UPDATED])
    url = await sidecar()
    headers = [("content-type", "application/x-ndjson")]
    await client(f"{url}/shop/_bulk", "POST", headers, bulk(({"update": {"_id": "1"}}, RISKY)))
    plain = {key: value for key, value in CLEARED.items() if key != "weights"}
    assert read(opensearch.searches[1].body)[1] == {"doc": {"gram": plain}}


async def test_a_document_that_the_model_cannot_take_gets_a_letter(
    sidecar: Any, opensearch: Any, client: Any, tmp_path: Path
) -> None:
    """It goes in as pending; the file names it, the metrics count it; a file that cannot be written stops nothing."""
    opensearch.answer = answering(*[[CREATED]] * 2)
    bodies = []
    for folder in (tmp_path / "stays", tmp_path / "goes"):
        folder.mkdir()
        url = await sidecar(DecodeError("cannot read it"), dead_letters=folder / "letters")
        if folder.name == "goes":
            folder.rmdir()
        headers = [("content-type", "application/json")]
        answer = await client(f"{url}/shop/_doc/7?routing=r", "PUT", headers, b'{"title": "shoe"}')
        assert (answer.status, answer.status_header) == (200, "degraded; reason=model-error")
        bodies.append((await client(f"{url}/-/metrics")).body)
    (letter,) = [json.loads(line) for line in (tmp_path / "stays" / "letters").read_text().splitlines()]
    del letter["at"]
    assert letter == {
        **{"id": "7", "line": 1, "status": 0, "type": "model-error", "reason": "cannot read it"},
        "document": {"_index": "shop", "_routing": "r", "source": {"title": "shoe"}},
    }
    assert [b'gram_dead_letters_total{outcome="written"} 1.0' in body for body in bodies] == [True, False]
    assert [b'gram_dead_letters_total{outcome="left-out"} 1.0' in body for body in bodies] == [False, True]


async def test_the_hit_rate_of_the_cache_can_be_told(sidecar: Any, opensearch: Any, client: Any) -> None:
    """Decoded, shared within a request, remembered."""
    opensearch.answer = answering(*[[CREATED]] * 2)
    url = await sidecar()
    headers = [("content-type", "application/x-ndjson")]
    for _ in range(2):
        sent = bulk(*(({"index": {}}, {"title": "shoe"}) for _ in range(3)))
        await client(f"{url}/shop/_bulk", "POST", headers, sent)
    metrics = (await client(f"{url}/-/metrics")).body
    for how, number in (("cached", 3), ("joined", 2), ("decoded", 1)):
        assert f'gram_product_codes_total{{how="{how}"}} {number}.0'.encode() in metrics


def script_request(body: bytes) -> dict[str, Any]:
    """A `_bulk` to the index as ASGI has it."""
    return {
        **{"type": "http", "method": "POST", "path": "/shop/_bulk", "raw_path": b"/shop/_bulk", "query_string": b""},
        "headers": [(b"content-type", b"application/x-ndjson"), (b"content-length", b"%d" % len(body))],
    }


async def test_a_client_that_hangs_up_leaves_no_script_without_its_mark(
    opensearch: Any, opensearch_url: str, fake_generator: Any
) -> None:
    """OpenSearch goes on with the script, so the sidecar waits for it and for the mark, at its own end too."""
    opensearch.mappings = {"shop": mapping()}
    answer, arrived, go_on = answering([UPDATED], [UPDATED]), asyncio.Event(), asyncio.Event()

    async def held(seen: Any) -> Response:
        arrived.set()
        await go_on.wait()
        return await answer(seen)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_: Any) -> None:
        raise AssertionError("nobody is there")

    opensearch.answer, body = held, bulk(({"update": {"_id": "1"}}, RISKY))
    settings = SidecarSettings(upstream_url=opensearch_url, max_wait_ms=0.0)
    sidecar = Sidecar(settings, fake_generator(), CodingRules(Rendering(("title",))))
    async with sidecar.running(Starlette()):
        call = asyncio.create_task(sidecar(script_request(body), receive, send))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()
    _, mark = opensearch.searches
    assert read(mark.body)[1] == {"doc": {"gram": CLEARED}}
    count = {"outcome": "uncoded", "reason": "script"}
    assert sidecar.health.registry.get_sample_value("gram_documents_total", count) == 1.0


@pytest.mark.parametrize(("begins", "status"), [(False, 504), (True, None)])
async def test_where_no_whole_answer_comes_every_script_is_marked(
    sidecar: Any, opensearch: Any, client: Any, begins: bool, status: int | None
) -> None:
    """Nobody knows what OpenSearch has done by then; the writer gets the error all the same."""
    never, marked = asyncio.Event(), asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b'{"items":['
        await never.wait()

    async def answer(seen: Any) -> Response:
        if b"script" not in seen.body:
            marked.set()
            return JSONResponse({"items": [UPDATED, NOOP]})
        if not begins:
            await never.wait()
        return StreamingResponse(stuck())

    opensearch.answer = answer
    url = await sidecar(request_timeout_s=0.3)
    sent = bulk(*(({"update": {"_id": str(number)}}, RISKY) for number in range(2)))
    call = client(f"{url}/shop/_bulk", "POST", [("content-type", "application/x-ndjson")], sent)
    if status is None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await call
    else:
        assert (await call).status == status
    async with asyncio.timeout(10):
        await marked.wait()
    never.set()
    ids = [line["update"]["_id"] for line in read(opensearch.searches[1].body) if "update" in line]
    assert ids == ["0", "1"]


async def no_pause(_: float) -> None:
    """Waits for nothing."""


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b"[]", b'{"items":[]}', b'{"items":[{"update":{}}]}', b'{"items":7}']
)
async def test_an_answer_to_marks_that_cannot_be_read_is_no_mark(
    opensearch: Any, opensearch_url: str, body: bytes
) -> None:
    """They are made again, as often as the budget lets them, and then counted as not made."""
    opensearch.answer = answering(Response(body), Response(body))
    item = Scripted(0, BulkItem("update", {"_id": "1"}, {}, 1, b"", b""), GramFields.WEIGHTED)
    async with Upstream(opensearch_url) as upstream:
        marker = Marker(upstream, lambda: {"codes": [], "model": "pending"}, Retrying(tries=2, sleep=no_pause))
        lost = await marker.mark(b"/shop/_bulk", [], [item], single=False)
    assert (lost, len(opensearch.searches)) == (1, 2)


async def test_marks_that_cannot_be_sent_are_not_made() -> None:
    """Nothing listens: the writer is told with his answer."""
    item = Scripted(0, BulkItem("update", {"_id": "1"}, {}, 1, b"", b""), GramFields.WEIGHTED)
    async with Upstream("http://127.0.0.1:9", connect_timeout_s=0.5) as upstream:
        marker = Marker(upstream, lambda: {"codes": [], "model": "pending"}, Retrying(tries=2, sleep=no_pause))
        assert await marker.mark(b"/shop/_bulk", [], [item], single=False) == 1
