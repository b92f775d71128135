"""Bulk bodies are read as a real OpenSearch reads them: what it takes we take, what it refuses we refuse."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import RequestError as ServerRefusal

from gram_plugin.errors import RequestError
from gram_plugin.search.bulk import parse_bulk, render_bulk

INDEX = b'{"index":{"_id":"1"}}\n'
GOOD = b'{"index":{"_id":"2"}}\n{"a":2}\n'


@dataclass(frozen=True)
class Outcome:
    """Which items OpenSearch wrote and which it refused, in order."""

    written: tuple[bool, ...]


def send(client: OpenSearch, index: str, body: bytes) -> Outcome | None:
    """What OpenSearch makes of a body; None if it refuses the request."""
    try:
        answer = client.transport.perform_request(
            "POST", f"/{index}/_bulk", body=body, headers={"content-type": "application/x-ndjson"}
        )
    except ServerRefusal:
        return None
    return Outcome(tuple(next(iter(item.values()))["status"] < 300 for item in answer["items"]))


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (INDEX + b'{"a":1}\n' + GOOD, (True, True)),
        (INDEX.replace(b"\n", b"\r\n") + b'{"a":1}\r\n' + GOOD, (True, True)),
        (b"\n \r\n" + INDEX + b'{"a":1}\n\n' + GOOD + b"\n", (True, True)),
        (b"\xef\xbb\xbf" + INDEX + b'  {"a":1} \n', (True,)),
        (INDEX + b"\n" + GOOD, (False, True)),
        (INDEX + b'{"a":\n' + GOOD, (False, True)),
        (INDEX + b"[1]\n" + GOOD, (False, True)),
        (INDEX + b"null\n" + GOOD, (False, True)),
        (INDEX + b'{"a":1} rest\n' + GOOD, (False, True)),
        (INDEX + b'{"a":1,"a":2}\n' + GOOD, (False, True)),
        (INDEX + b'{"a":"\xff"}\n' + GOOD, (False, True)),
        (INDEX + b'{"s":"\\ud800"}\n' + GOOD, (True, True)),
        (INDEX + b'{"b":NaN}\n' + GOOD, (False, True)),
    ],
)
def test_accepted_bodies_keep_their_outcome(
    client: OpenSearch, index_name: str, body: bytes, written: tuple[bool, ...]
) -> None:
    """A body that is taken apart and put together again has the same outcome, item by item."""
    assert send(client, index_name, body) == Outcome(written)
    assert send(client, index_name, render_bulk(parse_bulk(body))) == Outcome(written)


@pytest.mark.parametrize(
    "body",
    [
        b"\n",
        INDEX + b'{"a":1}',
        b'{"delete":{"_id":"1"}}',
        GOOD + b'{"index":}\n{"a":1}\n',
        GOOD + b'{"upsert":{"_id":"1"}}\n{"a":1}\n',
        GOOD + b'{"index":[]}\n{"a":1}\n',
        GOOD + b'[{"index":{}}]\n{"a":1}\n',
        b'{"index":{"_id":"1","_id":"2"}}\n{"a":1}\n',
        b'{"update":{"_id":"1"}}\n{"doc":\n' + GOOD,
    ],
)
def test_refused_bodies_are_refused_by_both(client: OpenSearch, index_name: str, body: bytes) -> None:
    """Where OpenSearch refuses the request as a whole, reading it fails too."""
    assert send(client, index_name, body) is None
    with pytest.raises(RequestError):
        parse_bulk(body)


def test_action_without_source_is_not_lost_silently(client: OpenSearch, index_name: str) -> None:
    """OpenSearch drops a last action without source and reports success; we name its line instead."""
    body = GOOD + INDEX
    assert send(client, index_name, body) == Outcome((True,))
    with pytest.raises(RequestError, match="line 3 of the bulk body is the last one"):
        parse_bulk(body)
