"""The sidecar against an OpenSearch of paper: what goes on to it, what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering, source_hash
from gram_plugin.errors import DecodeError
from gram_plugin.serve.coding import CodingRules
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import create_sidecar

RULES = CodingRules(Rendering(("title",)))
KEYWORD, FEATURES = {"type": "keyword"}, {"type": "rank_features"}
FIELDS = {"codes": KEYWORD, "model": KEYWORD, "source": KEYWORD, "at": {"type": "date"}}
WEIGHTED = {"properties": {"gram": {"properties": {**FIELDS, "weights": FEATURES}}}}
PLAIN = {"properties": {"gram": {"properties": FIELDS}}}
BARE: dict[str, Any] = {"properties": {"title": {"type": "text"}}}


class WordGenerator:
    """One code for each distinct word; fails on `poison`; stands still while its gate is closed.

    One that is `held` closes its gate when the sidecar is ready.
    """

    generation = "g2"

    def __init__(self, *, held: bool = False, down: bool = False) -> None:
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.held = held
        self.down = down

    def hold(self) -> None:
        """Stands still from now on."""
        self.entered.clear()
        self.gate.clear()

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of the words, in order of the alphabet."""
        self.entered.set()
        self.gate.wait(10)
        if self.down or any("poison" in text for text in texts):
            raise DecodeError("no")
        codes = [[Attribute.of("type", found[:9]) for found in sorted(set(text.split()))] for text in texts]
        return [[ScoredCode(Code.of([attribute]), 0.5) for attribute in found[:limit]] for found in codes]


@dataclass(frozen=True)
class Sent:
    """A request as the paper OpenSearch got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case name."""
    return {name.lower(): value for name, value in headers.items()}


@dataclass(frozen=True)
class Answer:
    """What a client of the sidecar got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def gram_status(self) -> str | None:
        """The header `x-gram-status`."""
        return self.headers.get("x-gram-status")


@dataclass
class PaperOpenSearch:
    """Answers mappings from `indices`, `aliases` and `templates`, all else with one fixed answer, and keeps the log."""

    indices: dict[str, dict[str, Any]] = field(default_factory=lambda: {"products": WEIGHTED})
    aliases: dict[str, dict[str, bool]] = field(default_factory=dict)
    templates: dict[str, dict[str, Any]] = field(default_factory=dict)
    lookup_status: int = 200
    alias_status: int = 200
    answer: bytes = b'{"took":1}'
    status: int = 200
    gate: asyncio.Event | None = None
    log: list[Sent] = field(default_factory=list)
    lookups: list[Sent] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """One request."""
        sent = Sent(request.method, request.raw_path, lower(request.headers), await request.read())
        if "_mapping" in sent.target or "_simulate_index" in sent.target or "/_alias/" in sent.target:
            self.lookups.append(sent)
            return self.lookup(sent.target)
        self.log.append(sent)
        if self.gate is not None:
            await self.gate.wait()
        return web.Response(body=self.answer, status=self.status, headers={"X-Their-Own": "yes"})

    def lookup(self, target: str) -> web.Response:
        """A mapping, an alias or a simulated template."""
        name = target.split("/")[1] if "_mapping" in target else target.rpartition("/")[2]
        if self.lookup_status != 200:
            return web.json_response({}, status=self.lookup_status)
        if "_simulate_index" in target:
            return web.json_response({"template": {"mappings": self.templates.get(name, {})}})
        members = self.aliases.get(name, {name: False} if name in self.indices else {})
        if not members:
            return web.json_response({"error": "none"}, status=404)
        if "/_alias/" in target and self.alias_status != 200:
            return web.json_response({}, status=self.alias_status)
        if "/_alias/" in target:
            found = {index: {"aliases": {name: {"is_write_index": writes}}} for index, writes in members.items()}
            return web.json_response(found)
        return web.json_response({index: {"mappings": self.indices[index]} for index in members})


@asynccontextmanager
async def paper(opensearch: PaperOpenSearch) -> AsyncIterator[str]:
    """Serves the paper OpenSearch on loopback and gives its URL."""
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", r"/{path:[\s\S]*}", opensearch.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Client:
    """Speaks ASGI to the sidecar."""

    app: Starlette

    async def send(
        self,
        method: str,
        target: str,
        body: bytes | list[bytes] = b"",
        headers: dict[str, str] | None = None,
        *,
        ends: bool = True,
    ) -> Answer:
        """One request; a list of pieces is sent without Content-Length, and more never comes unless it `ends`."""
        pieces = [body] if isinstance(body, bytes) else list(body)
        path, _, query = target.partition("?")
        length = {"content-length": str(len(pieces[0]))} if isinstance(body, bytes) else {"transfer-encoding": "x"}
        given = {"content-type": "application/x-ndjson", **length, **(headers or {})}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        left = asyncio.Event()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                await left.wait()
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces) or not ends}

        async def keep(message: Any) -> None:
            sent.append(dict(message))

        await self.app(scope, receive, keep)
        found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


@asynccontextmanager
async def sidecar(
    opensearch: PaperOpenSearch,
    generator: WordGenerator | None = None,
    *,
    model: bool = True,
    rules: CodingRules = RULES,
    **changed: Any,
) -> AsyncIterator[Client]:
    """A sidecar before the paper OpenSearch."""
    async with paper(opensearch) as url:
        configured = SidecarSettings(**{"upstream_url": url, "max_wait_ms": 0.0, **changed})
        generator = generator or WordGenerator()
        app = create_sidecar(configured, generator if model else None, rules)
        client = Client(app)
        async with app.router.lifespan_context(app):
            await ready(client)
            if generator.held:
                generator.hold()
            yield client
            generator.gate.set()


async def ready(client: Client) -> None:
    """Until the sidecar says that it is ready."""
    async with asyncio.timeout(10):
        while (await client.send("GET", "/-/ready")).status != 200:  # noqa: ASYNC110 - asked as a client does
            await asyncio.sleep(0)


def lines(*documents: Any) -> bytes:
    """A `_bulk` body."""
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def read(body: bytes) -> list[Any]:
    """The documents of a `_bulk` body."""
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def gram(text: str, *, weighted: bool = True) -> dict[str, Any]:
    """The object that a product with this rendered text carries, without its time."""
    codes = [f"g2/type={word}" for word in sorted(set(text.split()))]
    found: dict[str, Any] = {"codes": codes, "model": "g2", "source": source_hash(text, "g2")}
    return {**found, "weights": [dict.fromkeys(codes, 0.5)] if codes else []} if weighted else found


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    """A document without the time of its codes."""
    inner = {key: value for key, value in document["gram"].items() if key != "at"}
    return {**document, "gram": inner}


PENDING: dict[str, Any] = {"codes": [], "source": None, "model": "pending", "weights": []}


async def test_bulk_documents_get_their_codes_and_the_answer_is_opensearchs_own() -> None:
    """Index and create items carry `gram`, all other lines and the answer are untouched."""
    opensearch = PaperOpenSearch(answer=b'{"errors":false,"items":[ ]}', status=200)
    sent = lines(
        {"index": {"_index": "products", "_id": "1"}},
        {"title": "red shoe"},
        {"delete": {"_index": "products", "_id": "2"}},
        {"create": {"_index": "products"}},
        {"title": "boot"},
    )
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/_bulk?refresh=true", sent, {"authorization": "Basic eA=="})
    assert (answer.status, answer.body, answer.gram_status) == (200, b'{"errors":false,"items":[ ]}', "applied")
    assert answer.headers["x-their-own"] == "yes"
    (got,) = opensearch.log
    assert (got.target, got.headers["authorization"]) == ("/_bulk?refresh=true", "Basic eA==")
    first, document, delete, create, other = read(got.body)
    assert [first, delete, create] == [read(sent)[0], read(sent)[2], read(sent)[3]]
    assert [timeless(document), timeless(other)] == [
        {"title": "red shoe", "gram": gram("red shoe")},
        {"title": "boot", "gram": gram("boot")},
    ]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/products/_doc/1"),
        ("POST", "/products/_doc/1?routing=a"),
        ("POST", "/products/_doc"),
        ("PUT", "/products/_create/1"),
        ("POST", "/products/_create/a%2Fb"),
        ("POST", "/products/_doc/"),
        ("PUT", "/products/_doc/a%0Ab"),
    ],
)
async def test_single_documents_get_their_codes(method: str, target: str) -> None:
    """The document endpoints code like `_bulk`, also for a body over several lines."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch) as client:
        answer = await client.send(method, target, b'{\n  "title": "Shoe",\n  "n": 1.10\n}\n')
    assert answer.gram_status == "applied"
    (got,) = opensearch.log
    assert got.target == target
    assert got.body.startswith(b'{\n  "title": "Shoe",\n  "n": 1.10')
    assert timeless(json.loads(got.body)) == {"title": "Shoe", "n": 1.1, "gram": gram("shoe")}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/products/_search?q=a%20b"),
        ("POST", "/products/_search"),
        ("PUT", "/products"),
        ("GET", "/products/_doc/1"),
        ("DELETE", "/products/_doc/1"),
        ("HEAD", "/products"),
        ("POST", "/products/_delete_by_query"),
        ("PUT", "/_index_template/_doc"),
        ("GET", "/products/_doc/a%0Ab"),
        ("PURGE", "/products/_doc/1"),
        ("GET", "/-/ready/"),
    ],
)
async def test_what_writes_no_document_passes_byte_for_byte(method: str, target: str) -> None:
    """Method, path, query and body of any other request go on unchanged, and no status is claimed."""
    opensearch = PaperOpenSearch()
    body = b"" if method in {"GET", "HEAD"} else b'{"query" : {}}'
    async with sidecar(opensearch) as client:
        answer = await client.send(method, target, body)
    (got,) = opensearch.log
    assert (got.method, got.target, got.body, answer.gram_status) == (method, target, body, None)


_TEXT = st.text(max_size=20) | st.sampled_from(["poison", "\ud800", "👟", "\x00", "red\nshoe", "gram"])
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_DOCUMENT = st.dictionaries(
    st.sampled_from(["title", "price", "", "a.b", "graм", "gramme"]) | _TEXT, _VALUE, max_size=5
)
_NOT_OURS = _DOCUMENT.filter(lambda document: not any(name.partition(".")[0] == "gram" for name in document))
_WRITE = st.tuples(st.sampled_from([{"index": {"_index": "products"}}, {"create": {"_id": "1"}}]), _NOT_OURS)
_DELETE = st.tuples(st.just({"delete": {"_id": "2"}}))


@given(st.lists(_WRITE | _DELETE, min_size=1, max_size=6), st.sampled_from([b"\n", b"\r\n", b" \n"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_what_reaches_opensearch_without_gram_is_what_the_client_sent(operations: list[Any], end: bytes) -> None:
    """For any `_bulk` body, taking the spliced object out again gives the client's bytes."""
    sent = b"".join(json.dumps(line).encode() + end for operation in operations for line in operation)

    async def run() -> bytes:
        opensearch = PaperOpenSearch()
        async with sidecar(opensearch) as client:
            await client.send("POST", "/products/_bulk", sent)
        return opensearch.log[0].body

    got = asyncio.run(run())
    expected = sent.split(b"\n")
    for number, line in enumerate(got.split(b"\n")):
        if b'"gram":{"codes":' not in line:
            assert line == expected[number]
            continue
        start, _, _ = line.rpartition(b'"gram":{"codes":')
        assert start.rstrip(b", ") + b"}" == expected[number].rstrip().removesuffix(b"}").rstrip(b", ") + b"}"
        assert json.loads(line)["gram"]["model"] in {"g2", "pending"}


async def test_a_gram_object_of_the_client_is_replaced() -> None:
    """The sidecar owns `gram`; what a client sends under it, dotted or not, never reaches the index."""
    opensearch = PaperOpenSearch()
    sent = lines({"index": {}}, {"gram": {"codes": ["mine"]}, "title": "shoe", "gram.model": "mine", "grams": 1})
    async with sidecar(opensearch) as client:
        await client.send("POST", "/products/_bulk", sent)
    assert timeless(read(opensearch.log[0].body)[1]) == {"title": "shoe", "grams": 1, "gram": gram("shoe")}


@pytest.mark.parametrize(
    "body",
    [
        lines({"index": {}}, {"title": "a"}) + b"{oops\n" + lines({"index": {}}, {"title": "b"}),
        lines({"index": {}}, {"title": "a"}, {"explode": {}}, {"title": "b"}),
        lines({"index": {}}, {"title": "a"}).rstrip(),
        lines({"index": {}}, {"title": "a"}, {"index": {}}),
        b"\xff\xfe\n",
        b"",
        b"[]\n",
    ],
)
async def test_a_body_that_is_no_bulk_body_goes_on_as_it_is(body: bytes) -> None:
    """A malformed line is for OpenSearch to refuse: the whole body is untouched, so nothing is indexed twice."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", body)
    assert ([sent.body for sent in opensearch.log], answer.gram_status) == (
        [body],
        "degraded; reason=malformed-body",
    )


async def test_a_broken_document_stays_as_it_is_and_its_neighbours_are_coded() -> None:
    """A source that is no object is OpenSearch's to refuse; the other documents get their codes."""
    opensearch = PaperOpenSearch()
    broken = b'{"index":{}}\n{"title": \n{"index":{}}\n[1]\n'
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", broken + lines({"index": {}}, {"title": "shoe"}))
    body = opensearch.log[0].body
    assert body.startswith(broken)
    assert timeless(read(body[len(broken) :])[1]) == {"title": "shoe", "gram": gram("shoe")}
    assert answer.gram_status == "degraded; reason=unreadable"


@pytest.mark.parametrize(
    ("generator", "model", "reason"),
    [
        (WordGenerator(down=True), True, "model-error"),
        (WordGenerator(held=True), True, "timeout"),
        (None, False, "no-model"),
    ],
)
async def test_a_model_that_fails_hangs_or_is_absent_never_stops_indexing(
    generator: WordGenerator | None, model: bool, reason: str
) -> None:
    """Documents go in without codes and pending, and the answer and the metrics say so."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch, generator, model=model, stall_timeout_s=0.05) as client:
        answer = await client.send("POST", "/products/_bulk", lines({"index": {}}, {"title": "shoe"}))
        metrics = await client.send("GET", "/-/metrics")
    assert timeless(read(opensearch.log[0].body)[1]) == {"title": "shoe", "gram": PENDING}
    assert (answer.status, answer.gram_status) == (200, f"degraded; reason={reason}")
    assert f'gram_documents_total{{outcome="uncoded",reason="{reason}"}} 1.0'.encode() in metrics.body


async def test_one_document_the_model_fails_on_does_not_cost_the_others_their_codes() -> None:
    """The poisonous document is pending, its batch is coded."""
    opensearch = PaperOpenSearch()
    sent = lines({"index": {}}, {"title": "poison"}, {"index": {}}, {"title": "shoe"})
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", sent)
    _, first, _, second = read(opensearch.log[0].body)
    assert [timeless(first)["gram"], timeless(second)["gram"]] == [PENDING, gram("shoe")]
    assert answer.gram_status == "degraded; reason=model-error"


SIZED = CodingRules(Rendering(("title", "specs.size")))


@pytest.mark.parametrize(
    ("update", "grams", "status"),
    [
        ({"doc": {"price": 3}}, {}, "applied"),
        ({"script": {"source": "x"}}, {}, "applied"),
        ({"doc": {"title": "boot"}}, {"doc": PENDING}, "degraded; reason=partial-update"),
        ({"doc": {"title": "boot", "specs": {"weight": 1}}}, {"doc": PENDING}, "degraded; reason=partial-update"),
        ({"doc": {"gram": {"codes": ["mine"]}}}, {"doc": PENDING}, "degraded; reason=partial-update"),
        (
            {"doc": {"title": "boot", "specs": {"size": "XL"}}, "doc_as_upsert": True},
            {"doc": gram("boot ; xl")},
            "applied",
        ),
        ({"doc": {"title": "boot", "specs.size": ["XL"]}}, {"doc": gram("boot ; xl")}, "applied"),
        ({"doc": {"title": "boot", "specs": None}}, {"doc": gram("boot")}, "applied"),
        ({"doc": {"title": "poison", "specs": []}}, {"doc": PENDING}, "degraded; reason=model-error"),
        ({"doc": {"price": 3}, "upsert": {"title": "boot"}}, {"upsert": gram("boot")}, "applied"),
        ({"script": {"source": "x"}, "upsert": {"title": "boot"}}, {"upsert": gram("boot")}, "applied"),
        (
            {"doc": {"title": "boot"}, "upsert": {"title": "shoe"}},
            {"doc": PENDING, "upsert": gram("shoe")},
            "degraded; reason=partial-update",
        ),
        (
            {"script": {"source": "x"}, "scripted_upsert": True, "upsert": {"title": "boot"}},
            {"upsert": PENDING},
            "degraded; reason=partial-update",
        ),
    ],
)
async def test_an_update_has_codes_where_the_whole_product_is_known_and_is_marked_where_it_is_not(
    update: dict[str, Any], grams: dict[str, dict[str, Any]], status: str
) -> None:
    """A document to upsert and one that sets every rendered field are coded; one that sets some loses its old codes."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch, rules=SIZED) as client:
        single = await client.send("POST", "/products/_update/1", json.dumps(update).encode())
        bulk = await client.send("POST", "/products/_bulk", lines({"update": {"_id": "1"}}, update))
        metrics = await client.send("GET", "/-/metrics")
    expected = {**update, **{place: {**update[place], "gram": found} for place, found in grams.items()}}
    for got in (json.loads(opensearch.log[0].body), read(opensearch.log[1].body)[1]):
        assert {key: timeless(value) if key in grams else value for key, value in got.items()} == expected
    assert (single.gram_status, bulk.gram_status) == (status, status)
    coded = 2.0 if grams and status == "applied" else 0.0
    assert f'gram_documents_total{{outcome="coded",reason=""}} {coded}'.encode() in metrics.body


@pytest.mark.parametrize(
    ("opensearch", "expected"),
    [
        (PaperOpenSearch(), gram("shoe")),
        (PaperOpenSearch(indices={"products": PLAIN}), gram("shoe", weighted=False)),
        (PaperOpenSearch(indices={"products": BARE}), "no-mapping"),
        (PaperOpenSearch(indices={}), "no-mapping"),
        (PaperOpenSearch(indices={}, templates={"products": WEIGHTED}), gram("shoe")),
        (PaperOpenSearch(indices={"a": WEIGHTED}, aliases={"products": {"a": False}}), gram("shoe")),
        (
            PaperOpenSearch(indices={"a": BARE, "b": WEIGHTED}, aliases={"products": {"a": False, "b": True}}),
            gram("shoe"),
        ),
        (
            PaperOpenSearch(indices={"a": BARE, "b": WEIGHTED}, aliases={"products": {"a": False, "b": False}}),
            "no-mapping",
        ),
        (PaperOpenSearch(lookup_status=403), "unknown-mapping"),
    ],
)
async def test_only_an_index_with_the_gram_fields_gets_codes(opensearch: PaperOpenSearch, expected: Any) -> None:
    """Aliases are resolved, templates count for an index to be, and any other index gets documents unchanged."""
    sent = lines({"index": {}}, {"title": "shoe"})
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", sent)
    if isinstance(expected, str):
        assert (opensearch.log[0].body, answer.gram_status) == (sent, f"degraded; reason={expected}")
    else:
        assert timeless(read(opensearch.log[0].body)[1]) == {"title": "shoe", "gram": expected}


TITLE, STOCK = {"doc": {"title": "boot"}}, {"doc": {"stock": 3}}
RENAMING = {"script": {"source": "ctx._source.title = params.t", "params": {"t": "boot"}}}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("update", [TITLE, RENAMING, {**STOCK, "upsert": {"title": "boot"}}])
async def test_an_update_that_may_leave_old_codes_waits_for_an_opensearch_that_is_away(
    status: int, update: dict[str, Any]
) -> None:
    """While nobody can say whether the product has codes, nothing of the request is sent; a moment later it is."""
    opensearch = PaperOpenSearch(lookup_status=status)
    sent = lines({"index": {}}, {"title": "shoe"}, {"update": {"_id": "1"}}, update)
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", sent)
        assert (answer.status, "retry-after" in lower(answer.headers), opensearch.log) == (503, True, [])
        assert json.loads(answer.body)["error"]["type"] == "gram_upstream_exception"
        opensearch.lookup_status = 200
        again = await client.send("POST", "/products/_bulk", sent)
        metrics = await client.send("GET", "/-/metrics")
    assert (again.status, len(opensearch.log) > 0) == (200, True)
    assert b'gram_refused_total{status="503"} 1.0' in metrics.body


@pytest.mark.parametrize("operation", [[{"index": {}}, {"title": "shoe"}], [{"update": {"_id": "1"}}, STOCK]])
async def test_what_leaves_no_old_codes_waits_for_nobody(operation: list[dict[str, Any]]) -> None:
    """A whole document goes in without codes, an update of other fields as it is, though no mapping can be read."""
    opensearch = PaperOpenSearch(lookup_status=503)
    sent = lines(*operation)
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", sent)
    assert (answer.status, answer.gram_status) == (200, "degraded; reason=unknown-mapping")
    assert [found.body for found in opensearch.log] == [sent]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_alias_that_cannot_be_asked_about_is_not_taken_for_one_without_codes(status: int) -> None:
    """Its mappings were read, but not which index is written to: an update waits, and nothing wrong is remembered."""
    members = {"products": {"a": False, "b": True}}
    opensearch = PaperOpenSearch(indices={"a": BARE, "b": WEIGHTED}, aliases=members, alias_status=status)
    sent = lines({"update": {"_id": "1"}}, TITLE)
    async with sidecar(opensearch) as client:
        refused = await client.send("POST", "/products/_bulk", sent)
        opensearch.alias_status = 200
        taken = await client.send("POST", "/products/_bulk", sent)
    assert (refused.status, taken.status, len(opensearch.log)) == (503, 200, 1)
    assert "gram" in read(opensearch.log[0].body)[1]["doc"]


async def test_a_script_that_gets_no_mark_waits_for_nobody() -> None:
    """Where the operator has said so, it goes on as it is whatever is known of the index."""
    opensearch = PaperOpenSearch(lookup_status=503)
    async with sidecar(opensearch, mark_scripts=False) as client:
        answer = await client.send("POST", "/products/_bulk", lines({"update": {"_id": "1"}}, RENAMING))
    assert (answer.status, len(opensearch.log)) == (200, 1)


async def test_an_index_is_looked_up_once_until_indices_may_have_changed() -> None:
    """The lookup is remembered; creating an index through the sidecar forgets it. The caller's credentials ask."""
    opensearch = PaperOpenSearch()
    credentials = {"authorization": "Basic eA=="}
    sent = lines({"index": {}}, {"title": "shoe"})
    async with sidecar(opensearch) as client:
        for _ in range(3):
            await client.send("POST", "/products/_bulk", sent, credentials)
            await client.send("DELETE", "/products/_doc/1")
        assert [found.headers["authorization"] for found in opensearch.lookups] == ["Basic eA=="]
        await client.send("PUT", "/other")
        await client.send("POST", "/products/_bulk", sent, credentials)
    assert len(opensearch.lookups) == 2


async def test_a_gzip_body_is_unpacked_and_coded() -> None:
    """What a client compresses is coded like any other; it goes on as plain text."""
    opensearch = PaperOpenSearch()
    sent = gzip.compress(lines({"index": {}}, {"title": "shoe"}))
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", sent, {"content-encoding": "gzip"})
    assert answer.gram_status == "applied"
    assert "content-encoding" not in opensearch.log[0].headers
    assert timeless(read(opensearch.log[0].body)[1])["gram"] == gram("shoe")


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (gzip.compress(b"{}\n")[:-3], {"content-encoding": "gzip"}, "malformed-body"),
        (gzip.compress(b"{}\n") + b"more", {"content-encoding": "gzip"}, "malformed-body"),
        (b"no gzip", {"content-encoding": "gzip"}, "malformed-body"),
        (b"\x28\xb5\x2f\xfd", {"content-encoding": "zstd"}, "content-type"),
        (b":)\n", {"content-type": "application/smile"}, "content-type"),
    ],
)
async def test_a_body_that_cannot_be_read_goes_on_as_it_is(body: bytes, headers: dict[str, str], reason: str) -> None:
    """Damaged or unknown packing is for OpenSearch to judge."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch) as client:
        answer = await client.send("POST", "/products/_bulk", body, headers)
    (got,) = opensearch.log
    assert (got.body, answer.gram_status) == (body, f"degraded; reason={reason}")
    assert {name: got.headers.get(name) for name in headers} == headers


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b" " * 2000, {}),
        ([b" " * 600, b" " * 600], {}),
        (gzip.compress(b" " * 100_000), {"content-encoding": "gzip"}),
    ],
)
async def test_a_body_over_the_limit_is_413(body: bytes | list[bytes], headers: dict[str, str]) -> None:
    """Announced, streamed or unpacked: more than `max_body_bytes` is refused in OpenSearch's error shape."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch, max_body_bytes=1024) as client:
        answer = await client.send("POST", "/products/_bulk", body, headers)
    error = json.loads(answer.body)
    assert (answer.status, error["status"], error["error"]["type"]) == (413, 413, "content_too_long_exception")
    assert opensearch.log == []


async def test_bodies_that_do_not_fit_beside_each_other_are_429_with_retry_after() -> None:
    """While three large bulks are worked on, a fourth is refused; afterwards it goes through."""
    opensearch, generator = PaperOpenSearch(), WordGenerator(held=True)
    sent = lines({"index": {}}, {"title": "shoe", "filler": "x" * 700})
    async with sidecar(opensearch, generator, max_body_bytes=1024) as client:
        calls = {asyncio.create_task(client.send("POST", "/products/_bulk", sent)) for _ in range(4)}
        done, working = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        generator.gate.set()
        assert [(await call).status for call in working] == [200] * 3
        assert (await client.send("POST", "/products/_bulk", sent)).status == 200
    (refused,) = [call.result() for call in done]
    error = json.loads(refused.body)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (error["status"], error["error"]["type"]) == (429, "rejected_execution_exception")


async def test_bulks_that_are_small_only_while_packed_are_429_when_they_do_not_fit_unpacked() -> None:
    """What counts is what lies in memory: of bodies that unpack to a kilobyte each, three fit."""
    opensearch, generator = PaperOpenSearch(), WordGenerator(held=True)
    sent = gzip.compress(lines({"index": {}}, {"title": "shoe", "filler": "x" * 700}))
    assert len(sent) < 100
    packed = {"content-encoding": "gzip"}
    async with sidecar(opensearch, generator, max_body_bytes=1024) as client:
        calls = {asyncio.create_task(client.send("POST", "/products/_bulk", sent, packed)) for _ in range(4)}
        done, working = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        generator.gate.set()
        statuses = [(await call).status for call in [*done, *working]]
    assert statuses == [429, 200, 200, 200]


async def test_a_full_queue_is_429_and_not_a_document_without_codes() -> None:
    """While `max_queue` documents wait for the model, further writes are refused; a bulk may have more than that."""
    opensearch, generator = PaperOpenSearch(), WordGenerator(held=True)
    words = ["shoe", "boot", "sock", "hat", "belt"]
    sent = lines(*(line for word in words for line in ({"index": {}}, {"title": word})))
    async with sidecar(opensearch, generator, max_queue=2) as client:
        first = asyncio.create_task(client.send("POST", "/products/_bulk", sent))
        await until(generator.entered.is_set)
        refused = await client.send("PUT", "/products/_doc/1", b'{"title": "shoe"}')
        generator.gate.set()
        statuses = [(await first).gram_status, (await client.send("POST", "/products/_bulk", sent)).gram_status]
    assert (refused.status, refused.headers["retry-after"], statuses) == (429, "1", ["applied", "applied"])
    for found in opensearch.log:
        assert [timeless(document)["gram"] for document in read(found.body)[1::2]] == [gram(word) for word in words]


async def test_documents_that_have_their_codes_wait_for_opensearch_without_a_place_in_the_queue() -> None:
    """A slow OpenSearch does not make the queue of the model full."""
    opensearch = PaperOpenSearch(gate=asyncio.Event())
    sent = lines({"index": {}}, {"title": "shoe"})
    async with sidecar(opensearch, max_queue=1) as client:
        calls = [asyncio.create_task(client.send("POST", "/products/_bulk", sent))]
        await until(lambda: len(opensearch.log) == 1)
        calls.append(asyncio.create_task(client.send("POST", "/products/_bulk", sent)))
        await until(lambda: len(opensearch.log) == 2)
        opensearch.gate.set()
        assert [(await call).status for call in calls] == [200, 200]


async def test_a_bulk_of_very_many_tiny_lines_is_413() -> None:
    """Parsed it would take many times the bytes that it has."""
    opensearch = PaperOpenSearch()
    sent = b"{}\n" * 300
    async with sidecar(opensearch, max_body_bytes=1024) as client:
        answer = await client.send("POST", "/products/_bulk", sent)
    assert (answer.status, opensearch.log) == (413, [])


async def test_a_client_that_announces_a_body_and_sends_none_is_408_and_stops_nobody() -> None:
    """Other writes go through meanwhile; after the read timeout the connection is closed with an answer."""
    opensearch = PaperOpenSearch()
    async with sidecar(opensearch, max_body_bytes=1024, request_timeout_s=0.2) as client:
        idle = [
            asyncio.create_task(client.send("POST", "/_bulk", b"{", {"content-length": "1024"}, ends=False))
            for _ in range(8)
        ]
        answer = await client.send("POST", "/products/_bulk", lines({"index": {}}, {"title": "shoe"}))
        refused = [await call for call in idle]
    assert (answer.status, answer.gram_status) == (200, "applied")
    assert {(found.status, found.headers["connection"]) for found in refused} == {(408, "close")}
    assert json.loads(refused[0].body)["error"]["type"] == "request_timeout_exception"


async def test_an_unreachable_opensearch_is_502_in_its_error_shape() -> None:
    """The client can tell that nothing was indexed."""
    configured = SidecarSettings(upstream_url="http://127.0.0.1:9", connect_timeout_s=0.5)
    app = create_sidecar(configured, WordGenerator(), RULES)
    async with app.router.lifespan_context(app):
        answer = await Client(app).send("POST", "/products/_bulk", lines({"index": {}}, {"title": "shoe"}))
    assert (answer.status, json.loads(answer.body)["status"]) == (502, 502)


@pytest.mark.parametrize("down", [False, True])
async def test_it_is_ready_once_the_model_was_warmed_up_or_failed_to_be(down: bool) -> None:
    """Before, `/-/ready` is 503; then it is 200 and names the generation, until the program ends."""
    generator = WordGenerator(down=down)
    generator.hold()
    app = create_sidecar(SidecarSettings(upstream_url="http://127.0.0.1:9"), generator, RULES)
    client = Client(app)
    async with app.router.lifespan_context(app):
        await until(generator.entered.is_set)
        early = await client.send("GET", "/-/ready")
        generator.gate.set()
        await ready(client)
        answer = await client.send("GET", "/-/ready")
    assert (early.status, json.loads(early.body)) == (503, {"ready": False, "generation": "g2"})
    assert json.loads(answer.body) == {"ready": True, "generation": "g2"}
    assert (await client.send("GET", "/-/ready")).status == 503


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the thread of the model has no event of this loop
            await asyncio.sleep(0)
