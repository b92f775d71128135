"""Search templates before a fake OpenSearch: what is rendered, on whose behalf, and what is sent on."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from starlette.responses import JSONResponse, Response

from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.http import Upstream, UpstreamAnswer
from gram_plugin.serve.searches import Wishes, target_of
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim
from gram_plugin.serve.templates import MAX_TEMPLATES, SOURCE, Templates

LEXICAL = {"query": {"match": {"title": "red couch"}}, "size": 5}
TEMPLATE = {"id": "stored", "params": {"text": "red couch"}, "profile": False}
NDJSON = ("content-type", "application/x-ndjson")


@pytest.fixture
def settings(opensearch_url: str) -> ShimSettings:
    """Settings with room for a slow machine."""
    return ShimSettings(upstream_url=opensearch_url, budget_ms=20_000)


@pytest.fixture
def model(fake_generator: Any) -> Any:
    """The fake model."""
    return fake_generator()


@pytest.fixture
async def url(serve: Any, settings: ShimSettings, model: Any) -> str:
    """Where the shim listens."""
    found: str = await serve(create_shim(settings, model))
    return found


def rendering(found: Any, output: Any, status: int = 200) -> Any:
    """How OpenSearch answers: a rendered template, and hits to every search."""

    async def answer(seen: Any) -> Response:
        if seen.target.startswith(b"/_render"):
            return JSONResponse({"template_output": output}, status_code=status)
        if seen.target.partition(b"?")[0].endswith(b"_msearch/template"):
            return JSONResponse({"responses": [found(1)] * (seen.body.count(b"\n") // 2)})
        return JSONResponse(found(1))

    return answer


def rendered(opensearch: Any) -> list[Any]:
    """What was sent to be rendered."""
    return [seen for seen in opensearch.searches if seen.target == b"/_render/template"]


def searched(opensearch: Any) -> list[Any]:
    """The other requests but look-ups."""
    return [seen for seen in opensearch.searches if seen.target != b"/_render/template"]


async def test_a_template_goes_on_as_a_template(client: Any, url: str, opensearch: Any, found: Any, model: Any) -> None:
    """The very request is rendered; to the same URL goes a template whose parameter is the enriched search."""
    opensearch.answer = rendering(found, LEXICAL)
    got = await client.search(url + "/shop/_search/template?scroll=1m", TEMPLATE)
    (asked,), (sent,) = rendered(opensearch), searched(opensearch)
    enriched = enrich(LEXICAL, model.codes, "g1", ClauseSettings(strength=2.0), Mode.RERANK)
    assert (got.status_header, json.loads(asked.body)) == ("applied", TEMPLATE)
    assert sent.target == b"/shop/_search/template?scroll=1m"
    assert json.loads(sent.body) == {"profile": False, "source": SOURCE, "params": {"gram": enriched}}


@pytest.mark.parametrize(("said", "window"), [({}, 1000), ({"explain": True}, 0), ({"profile": True}, 0)])
async def test_a_template_is_rescored_unless_it_says_what_would_tell(
    client: Any, url: str, opensearch: Any, found: Any, model: Any, said: Any, window: int
) -> None:
    """`explain` and `profile` stand in the template request, and not in the search that it stands for."""
    opensearch.answer = rendering(found, LEXICAL)
    template = {**{key: value for key, value in TEMPLATE.items() if key != "profile"}, **said}
    await client.search(url + "/shop/_search/template", template)
    (sent,) = searched(opensearch)
    settings = ClauseSettings(strength=2.0, window=window)
    enriched = enrich(LEXICAL, model.codes, "g1", settings, Mode.RERANK)
    assert json.loads(sent.body) == {**said, "source": SOURCE, "params": {"gram": enriched}}


async def test_the_caller_renders(client: Any, url: str, opensearch: Any, found: Any) -> None:
    """Credentials and identity of the caller go with the rendering, his encodings do not."""
    opensearch.answer = rendering(found, LEXICAL)
    await client.search(
        url + "/shop/_search/template", TEMPLATE, authorization="Basic eDp5", accept_encoding="gzip", x_opaque_id="7"
    )
    (asked,) = rendered(opensearch)
    names = (b"authorization", b"x-opaque-id", b"accept-encoding", b"content-type")
    assert [asked.header(name) for name in names] == [[b"Basic eDp5"], [b"7"], [], [b"application/json"]]


@pytest.mark.parametrize(("output", "status"), [(LEXICAL, 404), (LEXICAL, 503), ([1], 200), (None, 200)])
async def test_what_is_not_rendered_goes_on_as_it_came(
    client: Any, url: str, opensearch: Any, found: Any, output: Any, status: int
) -> None:
    """A missing template, a busy cluster, an answer that is no search: the client's own bytes, marked."""
    opensearch.answer = rendering(found, output, status)
    body = json.dumps(TEMPLATE, indent=2).encode()
    got = await client(url + "/shop/_search/template", "POST", [("content-type", "application/json")], body)
    assert (got.status_header, searched(opensearch)[0].body) == ("off; reason=template", body)


async def test_a_slow_rendering_does_not_hold_the_search(
    client: Any, serve: Any, settings: ShimSettings, opensearch_url: str, opensearch: Any, found: Any, model: Any
) -> None:
    """When the budget is over the template goes on as it came."""
    url = await serve(create_shim(ShimSettings(upstream_url=opensearch_url, budget_ms=30), model))
    gate, whole = asyncio.Event(), rendering(found, LEXICAL)

    async def answer(seen: Any) -> Response:
        if seen.target.startswith(b"/_render"):
            await gate.wait()
        response: Response = await whole(seen)
        return response

    opensearch.answer = answer
    got = await client.search(url + "/shop/_search/template", TEMPLATE)
    gate.set()
    assert (got.status_header, json.loads(searched(opensearch)[0].body)) == ("degraded; reason=late", TEMPLATE)


INLINE = {"source": LEXICAL, "params": {}}
WISHING = {"source": {**LEXICAL, "ext": {"gram": {"query": "sofa"}}}}


@pytest.mark.parametrize(
    ("template", "has_model", "mode", "status", "asked"),
    [
        (INLINE, True, "rerank", "applied", 1),
        (INLINE, False, "rerank", "degraded; reason=no-model", 0),
        (INLINE, True, "off", "off; reason=mode", 0),
        (WISHING, False, "rerank", "degraded; reason=no-model", 1),
        (TEMPLATE, False, "rerank", "degraded; reason=no-model", 1),
        (TEMPLATE, True, "off", "off; reason=mode", 1),
    ],
)
async def test_what_can_get_no_codes_is_rendered_only_for_its_extension(
    client: Any,
    serve: Any,
    settings: ShimSettings,
    opensearch: Any,
    found: Any,
    model: Any,
    template: Any,
    has_model: bool,
    mode: str,
    status: str,
    asked: int,
) -> None:
    """Without a model or a mode no request is spent, unless the template holds `ext.gram` or may hold it unseen."""
    opensearch.answer = rendering(found, LEXICAL)
    url = await serve(create_shim(settings, model if has_model else None))
    got = await client.search(url + "/shop/_search/template", template, x_gram_mode=mode)
    assert (got.status_header, len(rendered(opensearch))) == (status, asked)


async def test_many_templates_are_bounded(client: Any, url: str, opensearch: Any, found: Any) -> None:
    """Of a long `_msearch/template` the first are rendered; the others stay byte for byte."""
    opensearch.answer = rendering(found, LEXICAL)
    line = b"{}\n" + json.dumps(TEMPLATE).encode() + b"\n"
    got = await client(url + "/shop/_msearch/template", "POST", [NDJSON], line * (MAX_TEMPLATES + 2))
    (sent,) = searched(opensearch)
    bodies = sent.body.split(b"\n")[1::2]
    assert (got.status_header, len(rendered(opensearch))) == (f"applied; items={MAX_TEMPLATES}/{MAX_TEMPLATES + 2}", 64)
    assert [b"rank_feature" in body for body in bodies] == [True] * MAX_TEMPLATES + [False] * 2


async def test_lines_that_do_not_pair_up_are_not_rendered(client: Any, url: str, opensearch: Any, found: Any) -> None:
    """OpenSearch refuses them itself."""
    opensearch.answer = rendering(found, LEXICAL)
    got = await client(url + "/_msearch/template", "POST", [NDJSON], b"{}\n")
    assert (got.status_header, rendered(opensearch)) == ("off; reason=invalid-json", [])


class Rendering:
    """An OpenSearch that has the answer to a rendering ready."""

    def __init__(self, output: Any) -> None:
        self._answer = UpstreamAnswer(200, (), json.dumps({"template_output": output}).encode())

    async def send(self, *_: object, **__: object) -> UpstreamAnswer:
        """As `Upstream` says."""
        return self._answer


async def test_reading_a_large_rendered_search_lets_others_run(longest_pause: Any) -> None:
    """The loop turns all the while, so that the deadlines of other searches hold."""
    terms = [{"term": {"sku": str(number)}} for number in range(100_000)]
    output = {"query": {"bool": {"must": {"match": {"title": "sofa"}}, "should": terms}}}
    target = target_of("POST", b"/shop/_search/template", b"")
    assert target is not None
    templates = Templates(cast(Upstream, Rendering(output)), lambda: 0.0)
    body = json.dumps(TEMPLATE).encode()
    assert await longest_pause(lambda: templates.items_of(body, target, Wishes(Mode.RERANK, 60_000), [], 0.0)) < 0.6


async def test_the_switch_leaves_templates_alone(
    client: Any, serve: Any, settings: ShimSettings, opensearch: Any, found: Any, model: Any, tmp_path: Any
) -> None:
    """Switched off, nothing is rendered."""
    (tmp_path / "off").touch()
    changed = ShimSettings(upstream_url=settings.upstream_url, off_file=tmp_path / "off")
    opensearch.answer = rendering(found, LEXICAL)
    url = await serve(create_shim(changed, model))
    await client.search(url + "/shop/_search/template", TEMPLATE)
    assert ([json.loads(seen.body) for seen in searched(opensearch)], rendered(opensearch)) == ([TEMPLATE], [])
