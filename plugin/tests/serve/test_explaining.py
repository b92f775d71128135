"""`ext.gram.explain` through the shim before a fake OpenSearch."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any, cast

import pytest
from starlette.responses import JSONResponse, Response

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.search.explaining import with_named_words
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.enriching import Decision
from gram_plugin.serve.exchange import Exchanged
from gram_plugin.serve.explaining import explained
from gram_plugin.serve.http import UpstreamStream
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.searches import Item, target_of
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim
from gram_plugin.serve.status import Reason, degraded

LEXICAL = {"query": {"match": {"title": "red couch"}}, "size": 5}
ASKED = {**LEXICAL, "ext": {"gram": {"explain": True}}}
CODE = {"code": "type=sofa", "probability": 0.8, "rarity": 1.0, "boost": 1.6}


@pytest.fixture
def settings(opensearch_url: str) -> ShimSettings:
    """Settings with room for a slow machine."""
    return ShimSettings(upstream_url=opensearch_url, budget_ms=20_000)


@pytest.fixture
async def url(serve: Any, settings: ShimSettings, fake_generator: Any) -> str:
    """Where the shim searches."""
    return f"{await serve(create_shim(settings, fake_generator()))}/shop/_search"


def page(found: Any, matched: Any, **more: Any) -> Any:
    """An answer with one hit."""
    hit = {"_index": "shop", "_id": "1", "_score": 2.5, "_source": {"t": "é"}}
    hit |= {} if matched is None else {"matched_queries": matched}
    answer = found(1, **more)
    return {**answer, "hits": {**answer["hits"], "hits": [hit]}}


async def test_an_answer_tells_where_its_scores_come_from(client: Any, url: str, opensearch: Any, found: Any) -> None:
    """Codes with their worth, and for each hit the points of words and codes; hits and `ext` stay as they were."""

    async def answer(_: Any) -> Response:
        return JSONResponse(page(found, {"gram": 1.7, "gram:type=sofa": 0.8}, ext={"other": 1}))

    opensearch.answer = answer
    got = await client.search(url + "?x=1", ASKED)
    points = {"score": 2.5, "lexical": 1.7, "gained": 0.8, "exact": 0.0}
    hit = {"_index": "shop", "_id": "1", **points, "codes": [{"code": "type=sofa", "points": 0.8, "weight": 0.5}]}
    told = {"status": "applied", "mode": "rerank", "query": "red couch", "generation": "g1", "strength": 2.0}
    assert json.loads(got.body) == {
        **page(found, ["gram:type=sofa"]),
        "ext": {"other": 1, "gram": {**told, "codes": [CODE], "hits": [hit]}},
    }
    assert (got.status_header, got.header(b"content-length")) == ("applied", str(len(got.body)).encode())
    (seen,) = opensearch.searches
    codes = [ScoredCode(Code.parse("type=sofa"), 0.8)]
    body = enrich(LEXICAL, codes, "g1", ClauseSettings(strength=2.0), Mode.RERANK)
    assert seen.target == b"/shop/_search?x=1&include_named_queries_score=true"
    assert json.loads(seen.body) == with_named_words(body, LEXICAL["query"])


async def test_an_answer_without_codes_says_why(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, found: Any
) -> None:
    """Degraded or off: status and reason, no codes, no points asked for."""

    async def answer(_: Any) -> Response:
        return JSONResponse(page(found, None))

    opensearch.answer = answer
    shim = await serve(create_shim(settings, None))
    degraded = await client.search(shim + "/shop/_search", ASKED)
    off = await client.search(shim + "/shop/_search", {**ASKED, "query": {"term": {"a": "b"}}})
    said = [json.loads(got.body)["ext"]["gram"] for got in (degraded, off)]
    none: dict[str, Any] = {"codes": [], "hits": []}
    assert said == [
        {"status": "degraded", "reason": "no-model", "mode": "rerank", "query": "red couch", **none},
        {"status": "off", "reason": "no-query-text", **none},
    ]
    assert {seen.target for seen in opensearch.searches} == {b"/shop/_search"}


async def test_an_old_opensearch_tells_names_alone(client: Any, url: str, opensearch: Any, found: Any) -> None:
    """Before 2.12 the parameter is refused: the search is sent without it, and codes are told without points."""

    async def answer(seen: Any) -> Response:
        if b"include_named" in seen.target:
            reason = "request [/shop/_search] contains unrecognized parameter: [include_named_queries_score]"
            return JSONResponse({"error": {"type": "illegal_argument_exception", "reason": reason}}, status_code=400)
        return JSONResponse(page(found, ["gram", "gram:type=sofa"]))

    opensearch.answer = answer
    got = await client.search(url, ASKED)
    told = json.loads(got.body)["ext"]["gram"]
    points = {"score": 2.5, "lexical": None, "gained": None, "exact": 0.0}
    assert told["hits"] == [{"_index": "shop", "_id": "1", **points, "codes": [{"code": "type=sofa"}]}]
    assert (got.status_header, len(opensearch.searches)) == ("applied", 2)


@pytest.mark.parametrize("asks", ["?include_named_queries_score=true", "?include_named_queries_score"])
async def test_a_client_that_wants_points_keeps_them(
    client: Any, url: str, opensearch: Any, found: Any, asks: str
) -> None:
    """Its own parameter is not sent twice, and its hits keep the points of named queries, less ours for the words."""

    async def answer(_: Any) -> Response:
        return JSONResponse(page(found, {"gram": 1.7, "gram:type=sofa": 0.8}))

    opensearch.answer = answer
    got = await client.search(url + asks, ASKED)
    (hit,) = json.loads(got.body)["hits"]["hits"]
    assert hit["matched_queries"] == {"gram:type=sofa": 0.8}
    assert [seen.target for seen in opensearch.searches] == [b"/shop/_search" + asks.encode()]


async def test_zipped_answers_are_not_asked_for_and_read_all_the_same(
    client: Any, url: str, opensearch: Any, found: Any
) -> None:
    """An answer that is to be added to comes plain; a gzip one is unzipped."""

    async def answer(_: Any) -> Response:
        packed = gzip.compress(json.dumps(page(found, {"gram": 1.7})).encode())
        return Response(packed, headers={"content-encoding": "gzip"}, media_type="application/json")

    opensearch.answer = answer
    got = await client.search(url, ASKED, accept_encoding="gzip")
    assert json.loads(got.body)["ext"]["gram"]["hits"][0]["lexical"] == 1.7
    assert (got.header(b"content-encoding"), opensearch.searches[0].header(b"accept-encoding")) == (None, [])


@pytest.mark.parametrize(("status", "body"), [(404, b'{"error":"x"}'), (200, b"took: 1"), (200, b"[1]"), (200, b"")])
async def test_what_is_no_answer_goes_on_as_it_came(
    client: Any, url: str, opensearch: Any, status: int, body: bytes
) -> None:
    """Errors, YAML and fragments are OpenSearch's own, byte for byte."""

    async def answer(_: Any) -> Response:
        return Response(body, status_code=status, media_type="application/json")

    opensearch.answer = answer
    got = await client.search(url, ASKED)
    assert (got.status, got.body) == (status, body)


async def test_an_unexplained_search_is_not_touched(client: Any, url: str, opensearch: Any, found: Any) -> None:
    """Without `explain` no parameter and no `ext`: the answer's bytes are OpenSearch's."""
    content = json.dumps(page(found, ["gram:type=sofa"]), indent=2).encode()

    async def answer(_: Any) -> Response:
        return Response(content, media_type="application/json")

    opensearch.answer = answer
    got = await client.search(url, LEXICAL)
    assert (got.body, opensearch.searches[0].target) == (content, b"/shop/_search")


async def test_the_switch_explains_itself(
    client: Any, serve: Any, settings: ShimSettings, fake_generator: Any, tmp_path: Any
) -> None:
    """Switched off, an explained search says so."""
    (tmp_path / "off").touch()
    shim = await serve(create_shim(replace(settings, off_file=tmp_path / "off"), fake_generator()))
    got = await client.search(shim + "/shop/_search", ASKED)
    assert json.loads(got.body)["ext"]["gram"] == {"status": "off", "reason": "switched-off", "codes": [], "hits": []}


async def test_a_very_large_answer_goes_on_without_an_explanation(
    client: Any, url: str, opensearch: Any, found: Any
) -> None:
    """Over 4 MB the answer is OpenSearch's own, byte for byte."""
    content = json.dumps(page(found, {"gram": 1.7}, more="x" * 4_000_000)).encode()

    async def answer(_: Any) -> Response:
        return Response(content, media_type="application/json")

    opensearch.answer = answer
    assert (await client.search(url, ASKED)).body == content


class Arrived:
    """An answer that is there whole."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.status = 200
        self.headers: Headers = []

    async def gather(self, max_bytes: int) -> bytes | None:
        """As `UpstreamStream` says."""
        return self._body if len(self._body) <= max_bytes else None

    def close(self) -> None:
        """As `UpstreamStream` says."""


async def test_explaining_a_large_answer_lets_others_run(found: Any, longest_pause: Any) -> None:
    """The loop turns all the while, so that the deadlines of other searches hold."""
    hits = [{"_id": str(number), "_score": 1.0, "matched_queries": {"gram": 1.0}} for number in range(45_000)]
    body = json.dumps({**found(1), "hits": {"hits": hits}}).encode()
    target = target_of("POST", b"/shop/_search", b"")
    assert target is not None
    done = Exchanged(cast(UpstreamStream, Arrived(body)), [Decision(degraded(Reason.NO_MODEL))])
    item = Item(b"", b"{}", degraded(Reason.NO_MODEL), explain=True)
    answers = []

    async def explain() -> None:
        answers.append(await explained(done, item, target, []))

    pause = await longest_pause(explain)
    assert (b'"reason":"no-model"' in answers[0].body, pause < 0.6) == (True, True)
