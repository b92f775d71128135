"""The way to OpenSearch and back."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gram_plugin.errors import ConfigError, SearchError
from gram_plugin.serve.hangup import CancelOnHangup
from gram_plugin.serve.http import (
    Upstream,
    UpstreamTimeout,
    UpstreamUnconnected,
    error_response,
    inflated,
    without_hop_by_hop,
)

Serve = Callable[[ASGIApp], Awaitable[str]]


def proxy(upstream: Upstream) -> ASGIApp:
    """An app that forwards everything."""

    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response = await upstream.forward(Request(scope, receive))
            await response(scope, receive, send)

    return CancelOnHangup(forward)


@pytest.fixture
async def upstream(opensearch_url: str) -> AsyncIterator[Upstream]:
    """Connections to the fake OpenSearch."""
    async with Upstream(opensearch_url) as started:
        yield started


@pytest.fixture
async def url(serve: Serve, upstream: Upstream) -> str:
    """Where the proxy listens."""
    return await serve(proxy(upstream))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_method_target_and_body_arrive_as_sent(client: Any, url: str, opensearch: Any, method: str) -> None:
    """Method, percent-encoding, query string and body reach OpenSearch unchanged."""
    target = "/a%2Fb/%3Clogs-%7Bnow%2Fd%7D%3E//_doc/%C3%A9+x?q=a%20b&&x=%26;y"
    await client(url + target, method, body=b"\x00raw\r\n\xff")
    seen = opensearch.seen[0]
    assert (seen.method, seen.target, seen.body) == (method, target.encode(), b"\x00raw\r\n\xff")


async def test_request_headers_keep_order_and_duplicates(client: Any, url: str, opensearch: Any) -> None:
    """Headers go on in order with duplicates; those of one connection and of the caller's host do not."""
    sent = [
        ("x-b", "2"),
        ("x-a", "1"),
        ("x-b", "3"),
        ("authorization", "Basic abc"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
    ]
    await client(url + "/", "GET", sent)
    kept = [pair for pair in opensearch.seen[0].headers if pair[0] != b"host"]
    assert kept == [(b"x-b", b"2"), (b"x-a", b"1"), (b"x-b", b"3"), (b"authorization", b"Basic abc")]


async def test_answer_comes_back_as_sent(client: Any, url: str, opensearch: Any) -> Any:
    """Status, duplicate headers and a compressed body reach the client unchanged."""
    packed = gzip.compress(b"{}" * 1000)

    async def answer(_: Any) -> Any:
        response = Response(packed, status_code=418, headers={"content-encoding": "gzip"})
        response.raw_headers += [(b"warning", b"299 one"), (b"warning", b"299 two")]
        return response

    opensearch.answer = answer
    got = await client(url + "/x")
    length = str(len(packed)).encode()
    expected = [
        (b"content-encoding", b"gzip"),
        (b"content-length", length),
        (b"warning", b"299 one"),
        (b"warning", b"299 two"),
    ]
    assert (got.status, got.headers, got.body) == (418, expected, packed)


async def test_head_keeps_the_length_without_a_body(client: Any, url: str, opensearch: Any) -> Any:
    """HEAD gives the length of the body that GET would give, and no body."""

    async def answer(_: Any) -> Any:
        return Response(b"", headers={"content-length": "1234"})

    opensearch.answer = answer
    got = await client(url + "/x", "HEAD")
    assert (got.status, got.headers, got.body) == (200, [(b"content-length", b"1234")], b"")


async def test_streams_both_ways(client: Any, url: str, opensearch: Any) -> AsyncIterator[bytes]:
    """A chunked request arrives whole, and an answer's first piece is there before its last is made."""
    release = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await release.wait()
        yield b"last"

    async def answer(_: Any) -> Any:
        return StreamingResponse(pieces())

    async def upload() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b" * 100_000, b"c"):
            yield piece

    opensearch.answer = answer
    async with aiohttp.ClientSession() as session, session.post(url + "/x", data=upload()) as response:
        first = await response.content.readany()
        release.set()
        rest = await response.content.read()
    assert (first, rest, opensearch.seen[0].body) == (b"first", b"last", b"a" + b"b" * 100_000 + b"c")


async def test_a_client_that_hangs_up_cancels_the_request_upstream(url: str, opensearch: Any) -> Any:
    """The request to OpenSearch is cut when its client goes away before the answer."""
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        cancelled.set()

    async def answer(_: Any) -> Any:
        return hang

    opensearch.answer = answer
    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
    await arrived.wait()
    writer.close()
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_an_answer_that_breaks_off_is_broken_for_the_client_too(client: Any, serve: Any) -> None:
    """Half an answer never looks like a whole one."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Upstream(f"http://127.0.0.1:{port}") as upstream:
            url = await serve(proxy(upstream))
            with pytest.raises(aiohttp.ClientError):
                await client(url + "/x")


async def test_a_request_that_never_left_can_be_told_from_one_that_may_have_arrived() -> None:
    """Where nothing listens nothing was done; a connection that breaks later tells nothing."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    kinds = []
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        for port in (9, server.sockets[0].getsockname()[1]):
            async with Upstream(f"http://127.0.0.1:{port}") as upstream:
                with pytest.raises(SearchError) as caught:
                    await upstream.open("POST", b"/x", [], b"")
                kinds.append(type(caught.value))
    assert kinds == [UpstreamUnconnected, SearchError]


async def test_an_upstream_that_is_down_is_a_502_that_says_so(client: Any, serve: Any) -> None:
    """The error has OpenSearch's shape, names the upstream and the next step."""
    async with Upstream("http://127.0.0.1:9") as upstream:
        got = await client(await serve(proxy(upstream)) + "/x")
    assert got.status == 502
    assert b'"type": "gram_upstream_exception"' in got.body
    assert b"OpenSearch at http://127.0.0.1:9 cannot be reached" in got.body
    assert b"GRAM_UPSTREAM_URL" in got.body


async def test_a_silent_upstream_is_a_504(client: Any, serve: Any, opensearch: Any, opensearch_url: str) -> None:
    """An upstream that takes longer than the settings allow gives 504."""
    never = asyncio.Event()

    async def answer(_: Any) -> None:
        await never.wait()

    opensearch.answer = answer
    async with Upstream(opensearch_url, request_timeout_s=0.05) as upstream:
        got = await client(await serve(proxy(upstream)) + "/x")
        never.set()
    assert got.status == 504


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_request_whose_connection_dies_is_never_sent_twice(method: str) -> None:
    """The second request on a kept connection is read and not answered: its sender is told, and decides."""
    seen: list[bytes] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = [] if seen else [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
        for answer in [*answers, b""]:
            seen.append((await reader.readuntil(b"\r\n\r\nx")).split(b" ")[0])
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Upstream(f"http://127.0.0.1:{port}") as upstream:
            await upstream.send("POST", "/i/_doc", "", [], b"x")
            with pytest.raises(SearchError, match="cannot be reached"):
                await upstream.send(method, "/i/_create/1", "", [], b"x")
    assert seen == [b"POST", method.encode()]


@pytest.mark.parametrize(("target", "value"), [("/i/_doc/" + "x" * 5000, "v"), ("/i/_doc/1", "v" * 20_000)])
async def test_a_head_that_is_refused_for_its_length_holds_up_no_other(target: str, value: str) -> None:
    """OpenSearch answers 400, keeps the connection open and is deaf on it from then on: nobody gets it afterwards."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            too_long = len(head) > 4096
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % (400 if too_long else 200))
            if too_long:
                await reader.read()
                writer.close()
                return

    asked = [("/", "v"), (target, value), ("/", "v"), ("/", "v")]
    async with await asyncio.start_server(deaf, "127.0.0.1", 0) as server, asyncio.timeout(30):
        port = server.sockets[0].getsockname()[1]
        async with Upstream(f"http://127.0.0.1:{port}") as upstream:
            sent = [await upstream.send("GET", path, "", [(b"x", text.encode())], None) for path, text in asked]
    assert [answer.status for answer in sent] == [200, 400, 200, 200]


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_certificates_that_cannot_be_read_are_a_mistake_of_the_settings(tmp_path: Path, content: bytes | None) -> None:
    """No file, an empty one or a damaged one: the message names the file and what sets it."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"no certificates can be read from {path}: ") as caught:
        Upstream("https://localhost:9200", ca_file=path)
    assert [name in caught.value.next_step for name in ("GRAM_CA_FILE", "--ca", "GRAM_OPENSEARCH_CA")] == [True] * 3


async def test_no_request_waits_for_a_connection_for_ever(opensearch: Any, opensearch_url: str) -> None:
    """When all connections are taken by answers that do not come, the next request is told so in time."""
    never = asyncio.Event()

    async def answer(_: Any) -> Any:
        await never.wait()
        return Response(b"")

    opensearch.answer = answer
    async with Upstream(opensearch_url, max_connections=1, connect_timeout_s=0.2) as upstream:
        taken = asyncio.create_task(upstream.send("GET", "/x", "", [], None))
        while not opensearch.seen:
            await asyncio.wait([taken], timeout=0.01)
        try:
            with pytest.raises(UpstreamTimeout, match="did not answer in time"):
                await asyncio.wait_for(upstream.send("GET", "/y", "", [], None), 10)
        finally:
            never.set()
        assert (await taken).status == 200


@pytest.mark.parametrize("length", [0, 1, 1 << 18, (1 << 18) + 1, 3_000_000])
async def test_a_body_of_any_length_arrives_whole_with_its_length(
    upstream: Upstream, opensearch: Any, length: int
) -> None:
    """A large one too, which goes in pieces; the length is ours, whatever the client had said of another body."""
    body = bytes(index % 251 for index in range(length))
    await upstream.send("POST", "/_bulk", "", [(b"content-length", b"7"), (b"x-a", b"1")], body)
    seen = opensearch.seen[0]
    assert [pair for pair in seen.headers if pair[0] in (b"content-length", b"transfer-encoding", b"x-a")] == [
        (b"x-a", b"1"),
        (b"content-length", b"%d" % length),
    ]
    assert seen.body == body


async def test_send_reads_the_whole_answer_within_its_bound(upstream: Upstream, opensearch: Any) -> Any:
    """`send` gives status, headers and body, and refuses what is larger than asked for."""

    async def answer(_: Any) -> Any:
        return Response(b"x" * 100, headers={"x-a": "b"})

    opensearch.answer = answer
    got = await upstream.send("POST", "/x", "y=1", [(b"x-c", b"d")], b"body", max_bytes=100)
    assert (got.status, got.headers, got.body) == (200, ((b"x-a", b"b"), (b"content-length", b"100")), b"x" * 100)
    assert (opensearch.seen[0].target, opensearch.seen[0].body) == (b"/x?y=1", b"body")
    with pytest.raises(SearchError, match="larger than 99 bytes"):
        await upstream.send("GET", "/x", "", [], None, max_bytes=99)


def test_errors_have_the_shape_of_opensearch() -> None:
    """Clients of OpenSearch find status, type and reason where they look for them."""
    response = error_response(429, "gram_overload", "full")
    cause = b'{"type": "gram_overload", "reason": "full"}'
    assert response.body == b'{"error": {"root_cause": [' + cause + b"], " + cause[1:-1] + b'}, "status": 429}'


@given(st.lists(st.tuples(st.sampled_from([b"a", b"TE", b"connection", b"b"]), st.sampled_from([b"a", b"b, c", b"x"]))))
def test_hop_by_hop_headers_are_all_that_goes(headers: list[tuple[bytes, bytes]]) -> None:
    """What stays is in order, and is neither hop-by-hop nor named by Connection."""
    named = {token.strip() for name, value in headers if name == b"connection" for token in value.split(b",")}
    expected = [pair for pair in headers if pair[0] not in {b"TE", b"connection"} | named]
    assert without_hop_by_hop(headers) == expected


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        (None, b"abc", b"abc"),
        (b"gzip", gzip.compress(b"abc"), b"abc"),
        (b"gzip", gzip.compress(b"a" * 1000), None),
        (b"gzip", b"no gzip", None),
        (b"br", b"abc", None),
    ],
)
def test_inflating_is_bounded(encoding: bytes | None, data: bytes, expected: bytes | None) -> None:
    """Only gzip and plain are read, and never more than the bound."""
    assert inflated(encoding, data, 10) == expected
