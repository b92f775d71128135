"""Requests that are made to be read in two ways, or to be too much, through the shim to a real OpenSearch.

Each hides the deletion of an index behind, within or beside itself. What the parser makes of each is in
plugin/tests/serve/test_protocol.py; here OpenSearch says whether anything of it was heard.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import RunningNode
from sofas import MATCH, FakeGenerator, ask

BODY = json.dumps({"query": MATCH}).encode()
BRACKETS, BOMB = gzip.compress(b"[" * 1_000_000), gzip.compress(b" " * 20_000_000)
TE = b"transfer-encoding: chunked"


def request(line: bytes, *headers: bytes, body: bytes = b"", length: bool = True) -> bytes:
    """One request."""
    framing = [b"content-length: %d" % len(body)] if length else []
    head = [line + b" HTTP/1.1", b"host: x", b"content-type: application/json", *headers, *framing]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def hidden(index: bytes) -> dict[str, bytes]:
    """Requests that hide `DELETE /index`."""
    delete = b"DELETE /" + index + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    search, other = b"POST /" + index + b"/_search", b"POST /" + index + b"/_count"
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    return {
        "length-and-chunks": request(search, TE, body=b"0\r\n\r\n" + delete),
        "chunks-and-short-length": request(other, TE, b"content-length: 3", body=chunk + delete, length=False),
        "two-lengths": request(other, b"content-length: 0", body=delete),
        "bad-chunks": request(other, TE, body=b"3\r\nabcdef\r\n0\r\n\r\n" + delete, length=False),
        "obscured-encoding": request(other, b"transfer-encoding: xchunked", body=chunk + delete, length=False),
        "length-in-a-trailer": request(
            other, TE, body=chunk[:-2] + b"content-length: 9\r\n\r\n" + delete, length=False
        ),
        "line-end-in-a-header": request(search, b"x-a: 1\r\r\n" + delete, body=BODY),
        "folded-header": request(search, b"x-a: 1\r\n " + delete[:-4], body=BODY),
        "body-of-a-read": request(b"GET /" + index + b"/_mapping", body=delete),
        "upgrade": request(search, b"connection: upgrade", b"upgrade: h2c", body=delete),
        "line-end-in-the-path": request(search + b"?q=%0d%0a%0d%0aDELETE%20/" + index, body=BODY),
        "dots-in-the-path": request(b"POST /" + index + b"/_search/../../" + index + b"/_count", body=BODY),
        "encoded-slash": request(b"POST /" + index + b"%2f_search", body=BODY),
        "header-of-100-kb": request(search, b"x-a: " + b"a" * 100_000, body=BODY),
        "header-of-20-kb": request(search, b"x-a: " + b"a" * 20_000, body=BODY),
        "url-of-5-kb": request(search + b"?q=" + b"a" * 5000, body=BODY),
        "10000-headers": request(search, *(b"x-%d: 1" % number for number in range(10_000)), body=BODY),
        "a-million-brackets": request(search, body=b"[" * 500_000 + b"]" * 500_000),
        "two-million-brackets": request(search, body=b'{"query":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        "brackets-packed": request(search, b"content-encoding: gzip", body=BRACKETS),
        "packed-bomb": request(search, b"content-encoding: gzip", body=BOMB),
        "brackets-in-an-item": request(b"POST /_msearch", body=b"{}\n" + b"[" * 100_000 + b"\n"),
    }


def status_of(url: str, raw: bytes) -> int:
    """Status of the first answer; 0 where the connection ends without one. A hang is a failure."""
    parts = urlsplit(url)
    with contextlib.closing(
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
    ) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(raw)
        try:
            line = connection.recv(12)
        except ConnectionError:
            return 0
    return int(line[9:12] or 0)


@pytest.fixture(scope="module")
def hostile(shim: Callable[..., str]) -> str:
    """The shim that is attacked, the same one all the time."""
    return shim(FakeGenerator())


@pytest.mark.parametrize("name", hidden(b"x"))
def test_nothing_that_is_hidden_in_a_request_is_done(
    client: OpenSearch, node: RunningNode, shop: str, hostile: str, index_name: str, name: str
) -> None:
    """Refused with 4xx, or answered as OpenSearch itself answers; the index is there, and the next search has codes."""
    aside = f"{index_name}-direct"  # OpenSearch itself does what some of them hide
    for index in (index_name, aside):
        client.index(index=index, body={"title": "red couch"}, refresh=True)
    through = status_of(hostile, hidden(index_name.encode())[name])
    assert 400 <= through < 500 or through == status_of(node.url, hidden(aside.encode())[name])
    assert client.count(index=index_name)["count"] == 1
    status, headers, _ = ask(hostile, f"/{shop}/_search", {"query": MATCH})
    assert (status, headers["x-gram-status"]) == (200, "applied")
