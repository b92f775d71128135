"""Requests to OpenSearch that are tried again, and those that waiting cannot mend."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from gram_plugin.errors import SearchError
from gram_plugin.search.client import connect_async
from gram_plugin.search.requests import Requests


@dataclass
class Patience:
    """Three tries, and what was waited for."""

    tries: int = 3
    pauses: list[int] = field(default_factory=list)

    async def pause(self, tried: int, retry_after_s: float) -> None:
        """Waits for nothing."""
        self.pauses.append(tried)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}')
    await writer.drain()
    writer.close()


async def _ask(url: str, patience: Patience, ca_file: Path | None) -> object:
    client = connect_async(url, ca_file=str(ca_file) if ca_file else None, environ={})
    try:
        return await Requests(client, patience).ask("greeting", "GET", "/")
    finally:
        await client.close()


async def test_a_certificate_that_is_not_trusted_is_told_at_once(tmp_path: Path) -> None:
    """A server of a private authority: without its certificate nothing is tried twice, with it all is well."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    patience = Patience()
    async with await asyncio.start_server(_answer, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(SearchError, match=r"greeting failed.*certificate verify failed") as caught:
            await _ask(url, patience, None)
        assert ("GRAM_OPENSEARCH_CA" in caught.value.next_step, patience.pauses) == (True, [])
        assert await _ask(url, patience, tmp_path / "ca.pem") == {"a": 1}


async def test_a_server_that_is_away_is_asked_as_often_as_the_budget_says() -> None:
    """It may come back, so its absence is nothing final."""
    patience = Patience()
    with pytest.raises(SearchError, match="gave up after 3 tries"):
        await _ask("http://127.0.0.1:9", patience, None)
    assert patience.pauses == [1, 2]
