"""Requests as attackers and odd clients send them, byte by byte, to a shim that is served as it is in production.

Every one is refused with 4xx, or reaches OpenSearch as the one request that it is: never as two, never without its
body, never with a header that its head did not have. OpenSearch is a listener here that writes down what it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from gram_plugin.serve.program import server_config
from gram_plugin.serve.protocol import MAX_HEAD_BYTES, MAX_PIPELINED
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

SEARCH = json.dumps({"query": {"match": {"title": "red couch"}}}).encode()
SECOND = b"DELETE /shop HTTP/1.1\r\nhost: x\r\n\r\n"
POST, SEARCHED = b"POST /shop/_doc/1 HTTP/1.1", b"POST /shop/_search HTTP/1.1"


@dataclass
class Listener:
    """Reads requests as strictly as they are framed; what else is on a connection would be one more request."""

    mappings: dict[str, Any]
    lines: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers `{}` to every request, the mapping to a look-up."""
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, head = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        body = await self._body(reader, head.lower())
        answer = b"{}"
        if b"/_mapping" in line:
            answer = json.dumps(self.mappings).encode()
        else:
            self.lines.append(line)
            self.heads.append(head)
            self.bodies.append(body)
        whole = b"" if line.startswith(b"HEAD") else answer
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + whole)

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        length = re.search(rb"(?m)^content-length: (\d+)\r$", head)
        if length:
            return await reader.readexactly(int(length[1]))
        body = b""
        while b"transfer-encoding: chunked" in head:
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                break
        return body


@pytest.fixture
async def upstream(index_mapping: Any) -> Listener:
    """OpenSearch."""
    return Listener({"shop": index_mapping()})


@pytest.fixture
async def port(upstream: Listener, fake_generator: Any) -> AsyncIterator[int]:
    """Where the shim listens, served as `gram shim` serves it."""
    async with await asyncio.start_server(upstream, "127.0.0.1", 0, limit=1 << 22) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = ShimSettings(upstream_url=url, budget_ms=20_000)
        shim = uvicorn.Server(server_config(create_shim(settings, fake_generator()), settings))
        listener = socket.create_server(("127.0.0.1", 0))
        task = asyncio.create_task(shim.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        shim.should_exit = True
        await task


def request(line: bytes, *headers: bytes, body: bytes = b"", length: bool = True) -> bytes:
    """One request, with the length of its body unless that is left out."""
    lines = [line, b"host: x", *headers, *([b"content-length: %d" % len(body)] if length and body else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunks(*pieces: bytes) -> bytes:
    """A chunked body with its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def statuses(port: int, raw: bytes, answers: int = 1) -> list[int]:
    """Statuses of so many answers; fewer where the shim closes the connection. A hang is a failure."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(raw)
    found: list[int] = []
    async with asyncio.timeout(30):
        while len(found) < answers and (line := await reader.readline()):
            found.append(int(line.split()[1]))
            head = (await reader.readuntil(b"\r\n\r\n")).lower() if found[-1] != 100 else await reader.readline()
            length = re.search(rb"content-length: (\d+)\r", head)
            if length and not raw.startswith(b"HEAD"):
                await reader.readexactly(int(length[1]))
        if found and 400 <= found[-1] < 500 and len(found) < answers:
            assert await reader.read() == b""
    writer.close()
    return found


TE = b"transfer-encoding: chunked"
REFUSED = {
    "length-and-chunks": request(POST, TE, body=b"0\r\n\r\n" + SECOND),
    "chunks-and-length": request(POST, b"content-length: 4", TE, body=chunks(b"abc") + SECOND, length=False),
    "two-lengths": request(POST, b"content-length: 0", body=SECOND),
    "equal-lengths": request(POST, b"content-length: %d" % len(SECOND), body=SECOND),
    "list-of-lengths": request(POST, b"content-length: 5, 5", body=b"hello", length=False),
    "signed-length": request(POST, b"content-length: +5", body=b"hello", length=False),
    "negative-length": request(POST, b"content-length: -5", body=b"hello", length=False),
    "hexadecimal-length": request(POST, b"content-length: 0x5", body=b"hello", length=False),
    "endless-length": request(POST, b"content-length: " + b"9" * 30, body=b"hello", length=False),
    "unknown-encoding": request(POST, b"transfer-encoding: xchunked", body=chunks(b"a") + SECOND, length=False),
    "encoding-identity": request(POST, b"transfer-encoding: identity", body=chunks(b"a") + SECOND, length=False),
    "chunked-not-last": request(POST, b"transfer-encoding: chunked, x", body=chunks(b"a") + SECOND, length=False),
    "encoding-twice": request(POST, TE, TE, body=chunks(b"a") + SECOND, length=False),
    "space-before-colon": request(POST, b"transfer-encoding : chunked", body=chunks(b"a") + SECOND, length=False),
    "folded-header": request(POST, b"x-a: 1\r\n x-b: 2", body=b"{}"),
    "folded-encoding": request(POST, b"transfer-encoding:\r\n chunked", body=chunks(b"a") + SECOND, length=False),
    "bare-line-feeds": request(POST, body=b"{}").replace(b"\r\n", b"\n"),
    "return-in-a-value": request(POST, b"x-a: 1\rx-b: 2", body=b"{}"),
    "line-feed-in-a-value": request(POST, b"x-a: 1\nx-b: 2", body=b"{}"),
    "nul-in-a-value": request(POST, b"x-a: 1\x00", body=b"{}"),
    "space-in-a-name": request(POST, b"x a: 1", body=b"{}"),
    "no-colon": request(POST, b"x-a", body=b"{}"),
    "no-name": request(POST, b": 1", body=b"{}"),
    "return-in-the-path": request(b"GET /a\rb HTTP/1.1"),
    "nul-in-the-path": request(b"GET /a\x00b HTTP/1.1"),
    "raw-utf-8-in-the-path": request("GET /é HTTP/1.1".encode()),
    "no-path": request(b"GET http://evil HTTP/1.1"),
    "credentials-as-path": request(b"GET @evil/ HTTP/1.1"),
    "server-wide-options": request(b"OPTIONS * HTTP/1.1"),
    "tunnel": request(b"CONNECT evil:443 HTTP/1.1") + SECOND,
    "tunnel-with-path": request(b"CONNECT /x HTTP/1.1") + SECOND,
    "unknown-method": request(b"FOO / HTTP/1.1"),
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls-on-plain-port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "chunk-size-that-is-none": request(SEARCHED, TE, body=b"zz\r\nx\r\n0\r\n\r\n", length=False),
    "negative-chunk": request(POST, TE, body=b"-1\r\nx\r\n0\r\n\r\n", length=False),
    "endless-chunk": request(POST, TE, body=b"f" * 18 + b"\r\nx\r\n0\r\n\r\n", length=False),
    "chunk-longer-than-told": request(POST, TE, body=b"1\r\nxyz\r\n0\r\n\r\n", length=False),
    "later-chunk-damaged": request(POST, TE, body=b"1\r\nx\r\nzz\r\n" + SECOND, length=False),
    "line-feed-in-an-extension": request(POST, TE, body=b"5;a\nhello\r\n0\r\n\r\n", length=False),
    "length-as-trailer": request(POST, TE) + chunks(b"abc" + SECOND)[:-2] + b"content-length: 3\r\n\r\n",
    "header-of-100-kb": request(SEARCHED, b"x-a: " + b"a" * 100_000, body=SEARCH),
    "10000-headers": request(SEARCHED, *(b"x-%d: %0100d" % (n, n) for n in range(10_000)), body=SEARCH),
    "url-of-100-kb": request(b"GET /_search?q=" + b"a" * 100_000 + b" HTTP/1.1"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused(port: int, upstream: Listener, name: str) -> None:
    """One 4xx, the connection is closed, and OpenSearch sees nothing of it: neither the first request nor a second."""
    found = await statuses(port, REFUSED[name], answers=2)
    assert (found, upstream.lines) == ([431 if name in TOO_LARGE else 400], [])


TOO_LARGE = {"header-of-100-kb", "10000-headers", "url-of-100-kb"}

PASSED: dict[str, tuple[bytes, bytes, bytes]] = {
    "absolute-form": (request(b"GET http://evil:1/shop/_doc/1?a=b HTTP/1.1"), b"GET /shop/_doc/1?a=b HTTP/1.1", b""),
    "dots": (
        request(b"POST /a/../b/%2e%2e/..%2f_search/./_doc HTTP/1.1", body=b"{}"),
        b"POST /a/../b/%2e%2e/..%2f_search/./_doc HTTP/1.1",
        b"{}",
    ),
    "encoded-line-ends": (
        request(b"GET /a%0d%0ax-b:%201/_doc?q=%0d%0a%00 HTTP/1.1"),
        b"GET /a%0d%0ax-b:%201/_doc?q=%0d%0a%00 HTTP/1.1",
        b"",
    ),
    "two-slashes": (request(b"GET //evil/_search/x HTTP/1.1"), b"GET //evil/_search/x HTTP/1.1", b""),
    "fragment": (request(b"GET /a?b#c HTTP/1.1"), b"GET /a?b HTTP/1.1", b""),
    "request-as-body-of-get": (request(b"GET /a HTTP/1.1", body=SECOND), b"GET /a HTTP/1.1", SECOND),
    "request-as-body-of-head": (request(b"HEAD /a HTTP/1.1", body=SECOND), b"HEAD /a HTTP/1.1", SECOND),
    "request-as-chunk": (request(POST, TE, body=chunks(b"a", SECOND), length=False), POST, b"a" + SECOND),
    "chunk-extension": (request(POST, TE, body=b"2;x=y\r\n{}\r\n0\r\n\r\n", length=False), POST, b"{}"),
    "length-named-by-connection": (request(POST, b"connection: content-length", body=b"{}"), POST, b"{}"),
    "upgrade-to-http-2": (
        request(
            POST, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABk", body=SECOND
        ),
        POST,
        SECOND,
    ),
    "upgrade-to-websocket": (
        request(b"GET /a HTTP/1.1", b"connection: upgrade", b"upgrade: websocket"),
        b"GET /a HTTP/1.1",
        b"",
    ),
    "trailers": (
        request(POST, TE) + chunks(b"abc")[:-2] + b"authorization: Basic eDp5\r\nx-proxy-user: admin\r\n\r\n",
        POST,
        b"abc",
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["at-once", "byte-by-byte"])
@pytest.mark.parametrize("name", PASSED)
async def test_what_is_clear_reaches_opensearch_as_one_request(
    port: int, upstream: Listener, name: str, split: bool
) -> None:
    """Line and body are the client's, the connection serves on, and no header comes from anywhere but the head."""
    raw, line, body = PASSED[name]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (raw[at : at + 1] for at in range(len(raw))) if split else [raw]:
        writer.write(piece)
        await writer.drain()
    writer.write(request(b"GET /after HTTP/1.1"))
    async with asyncio.timeout(30):
        while len(upstream.lines) < 2:
            assert (await reader.readline()) != b""
    writer.close()
    assert (upstream.lines, upstream.bodies) == ([line, b"GET /after HTTP/1.1"], [body, b""])
    names = {item.partition(b":")[0].lower() for item in upstream.heads[0].split(b"\r\n")} - {b""}
    assert names <= {b"host", b"content-length", b"transfer-encoding"}


async def test_a_search_with_an_upgrade_keeps_its_query(port: int, upstream: Listener) -> None:
    """Java's own client asks for HTTP/2 with its first request: the search is enriched like any other."""
    raw = request(SEARCHED, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AA", body=SEARCH)
    assert await statuses(port, raw + raw, answers=2) == [200, 200]
    assert [b"rank_feature" in body for body in upstream.bodies] == [True, True]


@pytest.mark.parametrize(
    "begun",
    [b"GET / HTTP/1.1\r\nx-a: ", request(POST, TE) + b"1\r\na\r\n0\r\nx-a: "],
    ids=["head", "trailers"],
)
async def test_a_head_or_trailers_without_end_are_not_read_to_their_end(
    port: int, upstream: Listener, begun: bytes
) -> None:
    """The 431 is there soon after the bound, while the client still sends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.readline())
    writer.write(begun)
    sent = 0
    while not answer.done() and sent < 1000 * MAX_HEAD_BYTES:
        writer.write(b"a" * MAX_HEAD_BYTES)
        sent += MAX_HEAD_BYTES
        await writer.drain()
    line = await asyncio.wait_for(answer, 30)
    writer.close()
    assert (line[:13], upstream.lines) == (b"HTTP/1.1 431 ", [])
    assert sent < 1000 * MAX_HEAD_BYTES


async def everything(port: int, raw: bytes) -> bytes:
    """All that comes back until the connection ends, in whatever way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(raw)
    found = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            while piece := await reader.read(1 << 16):
                found += piece
    writer.close()
    return found


async def test_what_is_refused_behind_waiting_requests_is_no_answer_to_one_of_them(port: int) -> None:
    """The connection is cut: a 400 would be read as the answer to a request before it, or as a part of one."""
    raw = request(b"GET /a HTTP/1.1") + request(b"GET /b HTTP/1.1") + b"GARBAGE\r\n\r\n"
    assert b" 400 " not in await everything(port, raw)
    assert await statuses(port, request(b"GET /after HTTP/1.1")) == [200]


@pytest.mark.parametrize(("count", "whole"), [(MAX_PIPELINED, True), (20 * MAX_PIPELINED, False)])
async def test_only_so_many_requests_wait_in_a_pipeline(port: int, count: int, whole: bool) -> None:
    """A client that sends on without reading is cut off, before what it sent takes memory."""
    last = request(b"GET /last HTTP/1.1", b"connection: close")
    found = await everything(port, request(b"GET /a HTTP/1.1") * count + last)
    assert (found.count(b"HTTP/1.1 200 OK") == count + 1) is whole
    assert await statuses(port, request(b"GET /after HTTP/1.1")) == [200]


BOMBS = {
    "brackets": b'{"query":' + b"[" * 499_990 + b"]" * 499_990 + b"}",
    "unclosed-brackets": b"[" * 1_000_000,
    "too-many-brackets": b"[" * 2_000_000,
    "objects": b'{"a":' * 200_000,
    "long-number": b'{"size": ' + b"9" * 900_000 + b"}",
    "long-key": b'{"' + b"k" * 900_000 + b'": 1}',
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", BOMBS)
async def test_a_search_that_is_a_bomb_passes_unread(port: int, upstream: Listener, name: str, packed: bool) -> None:
    """A million brackets and their like go on byte for byte, for OpenSearch to refuse; the next search is served."""
    body = gzip.compress(BOMBS[name]) if packed else BOMBS[name]
    headers = [b"content-type: application/json", *([b"content-encoding: gzip"] if packed else [])]
    raw = request(SEARCHED, *headers, body=body) + request(SEARCHED, body=SEARCH)
    assert await statuses(port, raw, answers=2) == [200, 200]
    assert (upstream.bodies[0] == body, b"rank_feature" in upstream.bodies[1]) == (True, True)


async def test_an_unfinished_request_ends_with_its_client(port: int, upstream: Listener) -> None:
    """A body that stops coming is never sent on as if it were whole."""
    raw = request(POST, b"content-length: 9999", body=b"hello", length=False)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    await writer.drain()
    writer.close()
    assert await statuses(port, request(b"GET /after HTTP/1.1")) == [200]
    assert upstream.lines == [b"GET /after HTTP/1.1"]
