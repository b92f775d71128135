"""What the tests of the programs share: real loopback servers, a fake OpenSearch and a fake model."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode

SOFA = ScoredCode(Code.of([Attribute("type", "sofa")]), 0.8)


@dataclass(frozen=True)
class Seen:
    """One request as the fake OpenSearch got it."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> list[bytes]:
        """All values of a header."""
        return [value for found, value in self.headers if found == name]


@dataclass
class FakeOpenSearch:
    """Records every request; answers mappings itself and all else by `answer`."""

    mappings: dict[str, Any] = field(default_factory=dict)
    mapping_status: int = 200
    seen: list[Seen] = field(default_factory=list)
    answer: Callable[[Seen], Awaitable[Response]] | None = None
    lookup_gate: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        seen = Seen(request.method, target, list(scope["headers"]), await request.body())
        self.seen.append(seen)
        if scope["path"].endswith("/_mapping"):
            if self.lookup_gate is not None:
                await self.lookup_gate.wait()
            response: Response = JSONResponse(self.mappings, status_code=self.mapping_status)
        elif self.answer is not None:
            response = await self.answer(seen)
        else:
            response = JSONResponse(found(3))
        await response(scope, receive, send)

    @property
    def searches(self) -> list[Seen]:
        """All requests but look-ups of mappings."""
        return [seen for seen in self.seen if not seen.target.partition(b"?")[0].endswith(b"/_mapping")]


@dataclass
class FakeGenerator:
    """Gives the same codes to every text, or raises, or waits for `gate`."""

    codes: Sequence[ScoredCode] = (SOFA,)
    error: Exception | None = None
    gate: threading.Event | None = None
    generation: str = "g1"
    texts: list[str] = field(default_factory=list)

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As the protocol says."""
        self.texts += texts
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return [list(self.codes) for _ in texts]


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The only value of a header; None without it."""
        values = [value for found, value in self.headers if found.lower() == name]
        assert len(values) <= 1
        return values[0] if values else None

    @property
    def status_header(self) -> str | None:
        """The value of `x-gram-status`."""
        value = self.header(b"x-gram-status")
        return None if value is None else value.decode()


class Client:
    """An HTTP client that adds nothing, decodes nothing and follows nothing."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(
        self,
        url: str,
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        body: Any = None,
    ) -> Answer:
        """Sends one request to the very URL."""
        sent = self._session.request(
            method, URL(url, encoded=True), headers=list(headers), data=body, allow_redirects=False
        )
        async with sent as response:
            return Answer(response.status, list(response.raw_headers), await response.read())

    async def search(self, url: str, body: Any, **headers: str) -> Answer:
        """POSTs a search body."""
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await self(url, "POST", [("content-type", "application/json"), *named], json.dumps(body).encode())


def found(total: int, **more: Any) -> dict[str, Any]:
    """An answer of OpenSearch with `total` hits."""
    shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
    hits = {"total": {"value": total, "relation": "eq"}, "max_score": 1.0, "hits": []}
    return {"took": 1, "timed_out": False, "_shards": shards, "hits": hits, **more}


def mapping(generation: str = "g1", *, calibrated: bool = True, strength: float = 0.5) -> dict[str, Any]:
    """The mapping of one index that has our fields."""
    fields = {"codes": {"type": "keyword"}, "weights": {"type": "rank_features"}}
    calibration = {"generation": generation, "strength": strength, "score_scale": 4.0, "queries": 9, "at": "now"}
    meta = {"_meta": {"gram": {"calibration": calibration}}} if calibrated else {}
    return {"mappings": {**meta, "properties": {"gram": {"properties": fields}, "title": {"type": "text"}}}}


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[str]:
    """Serves an app on a free port of loopback; the socket listens before the server takes from it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(app, log_level="critical", ws="none", server_header=False, date_header=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


PAUSES_MEASURED = 5


async def longest_pause(work: Callable[[], Awaitable[object]]) -> float:
    """The longest time for which the event loop did not turn while work was done, as a share of the whole time.

    The least of five tries without garbage collection: what else the machine does can only make a pause longer.
    """
    gc.collect()
    gc.disable()
    try:
        return min([await _longest_pause(work()) for _ in range(PAUSES_MEASURED)])
    finally:
        gc.enable()


async def _longest_pause(work: Awaitable[object]) -> float:
    task = asyncio.ensure_future(work)
    began = last = time.perf_counter()
    longest = 0.0
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest / (last - began)


@pytest.fixture(name="longest_pause")
def longest_pause_fixture() -> Callable[[Callable[[], Awaitable[object]]], Awaitable[float]]:
    """Measures how long work holds up others."""
    return longest_pause


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[ASGIApp], Awaitable[str]]]:
    """Gives a function that serves an app until the test ends and returns its URL."""
    async with AsyncExitStack() as stack:
        yield lambda app: stack.enter_async_context(running(app))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """The client."""
    skipped = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
    async with aiohttp.ClientSession(
        auto_decompress=False, skip_auto_headers=skipped, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield Client(session)


@pytest.fixture
async def opensearch() -> FakeOpenSearch:
    """A fake OpenSearch whose index `shop` is calibrated for g1."""
    return FakeOpenSearch({"shop": mapping()})


@pytest.fixture
async def opensearch_url(serve: Callable[[ASGIApp], Awaitable[str]], opensearch: FakeOpenSearch) -> str:
    """Where the fake OpenSearch listens."""
    return await serve(opensearch)


@pytest.fixture
def fake_generator() -> type[FakeGenerator]:
    """The class of the fake model."""
    return FakeGenerator


@pytest.fixture(name="found")
def found_fixture() -> Callable[..., dict[str, Any]]:
    """Makes answers of OpenSearch."""
    return found


@pytest.fixture
def index_mapping() -> Callable[..., dict[str, Any]]:
    """Makes mappings of one index."""
    return mapping
