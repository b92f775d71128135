"""The way to OpenSearch and back, byte for byte: one upstream, its streamed answers, our error bodies.

Hop-by-hop headers belong to one connection and are dropped; all others go through in order.
Nothing is decompressed, followed or stored.
"""

from __future__ import annotations

import json
import logging
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from yarl import URL

from gram_plugin.errors import ConfigError, SearchError
from gram_plugin.serve.outgoing import PIECE_BYTES, Body, Headers, as_ascii, for_aiohttp, framing, is_long, pieces

LOG = logging.getLogger(__name__)

# RFC 9110 7.6.1, and Expect, which the server in front of us has answered already.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate te trailer transfer-encoding upgrade expect".split()
)
_AUTOMATIC = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True)
class UpstreamAnswer:
    """A whole answer in memory; the body is as OpenSearch sent it, compressed or not."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class UpstreamStream:
    """An answer whose body is still on its way. Close it, or hand it to `RelayedResponse`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._seen: list[bytes] = []
        self.status = response.status
        self.headers = without_hop_by_hop(response.raw_headers)

    async def peek(self) -> bytes:
        """The first piece of the body; it stays in the stream.

        Raises:
            SearchError: the body broke off.
        """
        if not self._seen:
            try:
                self._seen.append(await self._response.content.readany())
            except _BROKEN as error:
                raise _broke_off(error) from error
        return self._seen[0]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the body as it arrives.

        Raises:
            aiohttp.ClientError: the body ended before it was whole.
        """
        for piece in self._seen:
            if piece:
                yield piece
        self._seen.clear()
        async for piece in self._response.content.iter_any():
            yield piece

    async def gather(self, max_bytes: int) -> bytes | None:
        """The whole body when it has at most `max_bytes`, else None; either way it stays in the stream.

        Raises:
            SearchError: the body broke off.
        """
        size = sum(map(len, self._seen))
        try:
            async for piece in self._response.content.iter_any():
                self._seen.append(piece)
                size += len(piece)
                if size > max_bytes:
                    return None
        except _BROKEN as error:
            raise _broke_off(error) from error
        return b"".join(self._seen)

    async def whole(self, max_bytes: int) -> UpstreamAnswer:
        """Reads the rest into memory and closes.

        Raises:
            SearchError: there are more than `max_bytes`, or the body broke off.
        """
        try:
            body = await self.gather(max_bytes)
        finally:
            self.close()
        if body is None:
            raise SearchError(f"the answer of OpenSearch is larger than {max_bytes} bytes")
        return UpstreamAnswer(self.status, tuple(self.headers), body)

    def close(self) -> None:
        """Gives the connection back when the body was read to its end, else cuts it."""
        self._response.close()


class RelayedResponse(Response):
    """Sends an upstream answer on as it arrives; when it breaks off, so does the client's."""

    def __init__(self, stream: UpstreamStream, extra_headers: Headers = ()) -> None:
        self.status_code = stream.status
        self.background = None
        self.raw_headers = replace_headers(stream.headers, extra_headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the response as ASGI."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in self._stream.chunks():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except _BROKEN as error:
            # The end is not sent, so the server cuts the connection and the client sees a broken answer.
            LOG.warning("an answer of OpenSearch broke off: %r", error)
        finally:
            self._stream.close()

    def close(self) -> None:
        """Lets go of an answer that nobody reads."""
        self._stream.close()


class Upstream:
    """Connections to one OpenSearch. Needs `start()` in the running loop, then `close()`.

    Raises:
        ConfigError: `ca_file` holds no certificates.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout_s: float = 5.0,
        request_timeout_s: float = 0.0,
        max_connections: int = 512,
        ca_file: Path | None = None,
        verify_tls: bool = True,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        # `connect` bounds the wait for a place among `max_connections` too, not only the handshake.
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_connect=connect_timeout_s, sock_read=request_timeout_s or None
        )
        self._max_connections = max_connections
        self._tls = _tls(ca_file, verify_tls)
        self._session: aiohttp.ClientSession | None = None
        self._once: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Opens the pool."""
        self._session, self._once = self._opened(kept=True), self._opened(kept=False)

    def _opened(self, *, kept: bool) -> aiohttp.ClientSession:
        """A session whose connections are kept for the next request, or closed after one."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, ssl=self._tls, force_close=not kept),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTOMATIC,
            auto_decompress=False,
            max_line_size=65_536,
            max_field_size=65_536,
        )
        # aiohttp sends GET, PUT and DELETE again when a pooled connection dies before the answer. What OpenSearch
        # did by then is not known: a repeated `PUT _create` is told 409 for the very document that it stored.
        session._retry_connection = False
        return session

    async def close(self) -> None:
        """Closes every connection."""
        for session in (self._session, self._once):
            if session is not None:
                await session.close()
        self._session = self._once = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, method: str, target: bytes, headers: Headers, body: Body = None) -> UpstreamStream:
        """Sends one request and returns when the head of the answer is there.

        `target` is path and query as received; `headers` lose what is hop-by-hop. With `body` as bytes
        the length is ours, with a stream the caller's Content-Length, if any, is kept.

        Raises:
            SearchError: OpenSearch could not be reached or gave no HTTP answer.
        """
        sent = without_hop_by_hop(headers, drop=framing(body))
        session = self._once if is_long(target, sent) else self._session
        if session is None:
            raise SearchError("the connections to OpenSearch are closed", next_step="call start() first")
        if isinstance(body, bytes) and len(body) > PIECE_BYTES:
            sent.append((b"content-length", b"%d" % len(body)))
            body = pieces(body)
        url = URL(self.base_url + as_ascii(target), encoded=True)
        try:
            response = await session.request(method, url, headers=for_aiohttp(sent), data=body, allow_redirects=False)
        except _BROKEN as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise SearchError(f"the request cannot be sent on: {error}") from error
        return UpstreamStream(response)

    async def send(
        self, method: str, path: str, query: str, headers: Headers, body: bytes | None, *, max_bytes: int = 1 << 28
    ) -> UpstreamAnswer:
        """Sends one request and reads the whole answer.

        Raises:
            SearchError: no whole answer of at most `max_bytes` came.
        """
        target = f"{path}?{query}" if query else path
        stream = await self.open(method, target.encode(), headers, body)
        return await stream.whole(max_bytes)

    async def forward(self, request: Request, *, body: Body = None, extra_response_headers: Headers = ()) -> Response:
        """Sends a client's request on, streaming both ways; a `body` replaces the client's.

        An unreachable upstream becomes a 502 (504 when it timed out) in OpenSearch's error shape.
        """
        if body is None and has_body(request):
            body = request.stream()
        try:
            stream = await self.open(request.method, raw_target(request), request.headers.raw, body)
        except SearchError as error:
            return upstream_error(error)
        return RelayedResponse(stream, extra_response_headers)

    def _unreachable(self, error: BaseException) -> SearchError:
        timed_out, kind = isinstance(error, TimeoutError), SearchError
        if isinstance(error, aiohttp.ClientConnectorError):
            kind = UpstreamUnconnected
        found = "did not answer in time" if timed_out else f"cannot be reached: {error or type(error).__name__}"
        step = "check that OpenSearch is up and that GRAM_UPSTREAM_URL names it"
        return (
            UpstreamTimeout(f"OpenSearch at {self.base_url} {found}", next_step=step)
            if timed_out
            else kind(f"OpenSearch at {self.base_url} {found}", next_step=step)
        )


class UpstreamUnconnected(SearchError):
    """No connection came about, so OpenSearch has got nothing."""


class UpstreamTimeout(SearchError):
    """OpenSearch took longer than the settings allow."""


def upstream_error(error: SearchError, extra_headers: Headers = ()) -> Response:
    """502, or 504 for a timeout, in the shape of OpenSearch's own errors."""
    status = 504 if isinstance(error, UpstreamTimeout) else 502
    return error_response(status, "gram_upstream_exception", str(error), extra_headers)


def error_response(status: int, kind: str, reason: str, extra_headers: Headers = ()) -> Response:
    """An error in the shape that OpenSearch clients parse."""
    cause = {"type": kind, "reason": reason}
    content = json.dumps({"error": {"root_cause": [cause], **cause}, "status": status})
    response = Response(content, status_code=status, media_type="application/json")
    response.raw_headers.extend(extra_headers)
    return response


def raw_target(request: Request) -> bytes:
    """Path and query exactly as received, percent-encoding included."""
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return path + b"?" + query if query else path


def has_body(request: Request) -> bool:
    """True when the client announced a body."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def without_hop_by_hop(
    headers: Iterable[tuple[bytes, bytes]], drop: frozenset[bytes] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """The headers that go on, in order: not hop-by-hop, not named by Connection, not in `drop`."""
    pairs = list(headers)
    named = {
        token.strip().lower() for name, value in pairs if name.lower() == b"connection" for token in value.split(b",")
    }
    unwanted = _HOP_BY_HOP | named | drop
    return [(name, value) for name, value in pairs if name.lower() not in unwanted]


def replace_headers(headers: Headers, extra: Headers) -> list[tuple[bytes, bytes]]:
    """`headers` and then `extra`; what `extra` names is taken out first."""
    named = {name.lower() for name, _ in extra}
    return [pair for pair in headers if pair[0].lower() not in named] + list(extra)


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header, by lower-case name."""
    return next((value for found, value in headers if found.lower() == name), None)


def inflated(encoding: bytes | None, data: bytes, max_bytes: int) -> bytes | None:
    """Undoes `gzip` or no encoding; None for any other, for damage, and beyond `max_bytes`.

    A cut-off piece gives what it holds so far.
    """
    if not encoding or encoding.lower() == b"identity":
        return data if len(data) <= max_bytes else None
    if encoding.lower() not in {b"gzip", b"x-gzip"}:
        return None
    try:
        found = zlib.decompressobj(31).decompress(data, max_bytes + 1)
    except zlib.error:
        return None
    return found if len(found) <= max_bytes else None


def _broke_off(error: BaseException) -> SearchError:
    return SearchError(
        f"the answer of OpenSearch broke off: {error!r}",
        next_step="send the request again, and look at OpenSearch's log",
    )


def _tls(ca_file: Path | None, verify: bool) -> ssl.SSLContext | bool:
    if not verify:
        return False
    try:
        return ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
    except OSError as error:  # ssl.SSLError is one: the file is there but holds no certificates
        raise ConfigError(
            f"no certificates can be read from {ca_file}: {error.strerror or error}",
            next_step="set GRAM_CA_FILE, for `gram ingest` --ca or GRAM_OPENSEARCH_CA, to a PEM file",
        ) from error
