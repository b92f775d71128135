"""The HTTP/1.1 of our servers: uvicorn's, with bounded heads, no trailers, and upgrades read as plain requests."""

from __future__ import annotations

import json
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536
"""Request line and headers together; OpenSearch takes 4 KB and 16 KB of them unless it is told to take more."""

MAX_PIPELINED = 100

LINGER_S = 2.0
"""How long what a refused client still sends is thrown away: closed at once, it would see a reset and no answer."""

_INVALID = "illegal_argument_exception"
_TOO_LONG = "too_long_http_header_exception"


class Protocol(HttpToolsProtocol):
    """Gives the app no request that could be another one for OpenSearch.

    Beyond what the parser refuses (a length beside chunks, folded headers and their like):

    - A head is at most `MAX_HEAD_BYTES` long, and so is what stands between or behind the parts of a body, so that one
      without end takes no memory.
    - At most `MAX_PIPELINED` requests wait behind the one that is answered; with more the connection is cut.
    - Trailers are dropped. uvicorn adds those that come at once to the headers, where a proxy in front that checks
      `authorization` or sets `x-proxy-user` has not seen them.
    - A request to upgrade is read as if it did not ask, which HTTP allows. uvicorn would drop its body and everything
      that comes after it; Java's HTTP client asks for HTTP/2 in this way with the first request of a connection.
    - `CONNECT` and `OPTIONS *` name nothing that the proxy of one server could ask it for.
    """

    _in_head = False
    _head_bytes = 0  # fed since the piece in which the head began
    _piece_bytes = 0
    _silent_bytes = 0  # fed since the last part of a body: chunk lines and trailers
    _is_too_long = False
    _upgrades = False
    _refused = False

    def data_received(self, data: bytes) -> None:
        """Reads on; what cannot be read ends the connection with 4xx."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._piece_bytes = len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse()
            return
        self._head_bytes += len(data)
        self._silent_bytes += len(data)
        if (self._in_head and self._head_bytes > MAX_HEAD_BYTES) or self._silent_bytes > MAX_HEAD_BYTES:
            self._is_too_long = True
            self._refuse()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._upgrades, self._head_bytes = True, False, -self._piece_bytes
        self._silent_bytes = -self._piece_bytes

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind the body, which is dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: the request begins, unless it is to be read again without its upgrade."""
        self._in_head = False
        self._is_too_long = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > (
            MAX_HEAD_BYTES
        )
        crowded = len(self.pipeline) >= MAX_PIPELINED
        if self._is_too_long or crowded or self.url == b"*" or self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserError
        self._upgrades = self.parser.should_upgrade()
        if not self._upgrades:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._silent_bytes = -self._piece_bytes
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._silent_bytes = -self._piece_bytes
        if not self._upgrades:
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parses; where the parser stops for an upgrade, a new one reads the same head without it and goes on.

        Raises:
            httptools.HttpParserError: this is no request, or none that is taken.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stopped:
                rest = rest[stopped.args[0] :]
                head = self._plain_head()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.feed_data(head)
            else:
                return

    def _plain_head(self) -> bytes:
        line = b" ".join([self.parser.get_method(), self.url, b"HTTP/" + self.parser.get_http_version().encode()])
        headers = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([line, *headers, b"", b""])

    def _refuse(self) -> None:
        """Answers with 4xx in OpenSearch's shape and takes nothing more; half an answer is cut instead.

        With requests in the pipeline the answer of another one would be next: the connection is cut.
        """
        self._refused = True
        if self.pipeline:
            self.transport.abort()
            return
        self.logger.warning("a request was refused: %s", "its head is too long" if self._is_too_long else "no HTTP")
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_answer(self._is_too_long))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def _answer(is_too_long: bool) -> bytes:
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_long else HTTPStatus.BAD_REQUEST
    reason = (
        f"line and headers of the request are longer than {MAX_HEAD_BYTES} bytes"
        if is_too_long
        else "this is no HTTP request, or one that can be read in two ways"
    )
    cause = {"type": _TOO_LONG if is_too_long else _INVALID, "reason": reason}
    content = json.dumps({"error": {"root_cause": [cause], **cause}, "status": int(status)}).encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return head.encode() + f"content-length: {len(content)}\r\n\r\n".encode() + content
