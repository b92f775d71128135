"""A shop of sofas, a model that sees sofas in every query, and a shim between them: what tests of the shim share."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.serve.program import server_config
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

SOFA = Code.of([Attribute("type", "sofa")])
TITLES = ("red couch", "red sofa", "blue couch", "green lamp", "red lamp", "couch table")


@dataclass
class FakeGenerator:
    """Every query is about sofas, unless the model raises or hangs at its gate."""

    error: Exception | None = None
    gate: threading.Event | None = None
    generation: str = "g1"
    texts: list[str] = field(default_factory=list)

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As the protocol says."""
        self.texts += texts
        if self.gate is not None:
            self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return [[ScoredCode(SOFA, 0.9)] for _ in texts]


@contextlib.contextmanager
def hosted(config: uvicorn.Config) -> Iterator[str]:
    """An application on a free port, served by a thread until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def running(settings: ShimSettings, generator: FakeGenerator | None) -> Iterator[str]:
    """A shim, served as `gram shim` serves it."""
    with hosted(server_config(create_shim(settings, generator), settings)) as url:
        yield url


def product(index: str, number: int) -> dict[str, Any]:
    """One product as a bulk action."""
    title = TITLES[number % len(TITLES)]
    source: dict[str, Any] = {"title": f"{title} {number}", "price": number % 17, "brand": f"b{number % 4}"}
    if "table" not in title and ("couch" in title or "sofa" in title):
        stored = SOFA.stored("g1")
        weight = 0.2 + number / 200
        source["gram"] = {"codes": [stored], "weights": {stored: weight}, "model": "g1", "source": "0" * 32}
    return {"_index": index, "_id": str(number), "_source": source}


def ask(
    url: str, target: str, body: Any = None, method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request with nothing added by a client library."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **headers} if data is not None else headers
    with contextlib.closing(connection):
        connection.request(method, target, data, sent)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def answer(url: str, target: str, body: Any, **headers: str) -> Any:
    """Status and JSON of an answer without what differs between two equal searches: times and scroll ids."""
    status, _, text = ask(url, target, body, **headers)
    return status, without_times(json.loads(text))


def without_times(value: Any) -> Any:
    """The value without durations and ids that name one run."""
    if isinstance(value, dict):
        volatile = {"took", "_scroll_id", "profile", "pit_id"}
        return {key: without_times(item) for key, item in value.items() if key not in volatile}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def ids(found: Any) -> list[str]:
    """Ids of the hits, in order."""
    return [hit["_id"] for hit in found["hits"]["hits"]]


MATCH: dict[str, Any] = {"match": {"title": "red couch"}}
BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "page": {"from": 5, "size": 7},
    "filter": {"query": {"bool": {"must": [MATCH], "filter": [{"term": {"brand": "b1"}}]}}},
    "post-filter": {"post_filter": {"term": {"brand": "b2"}}},
    "aggs": {"aggs": {"brands": {"terms": {"field": "brand"}, "aggs": {"price": {"avg": {"field": "price"}}}}}},
    "sort": {"sort": [{"price": "asc"}, {"_id": "asc"}]},
    "score-sort": {"sort": ["_score", {"price": "desc"}, {"_id": "asc"}]},
    "search-after": {"sort": [{"price": "asc"}, {"_id": "asc"}], "search_after": [3, "2"]},
    "collapse": {"collapse": {"field": "brand"}},
    "highlight": {"highlight": {"fields": {"title": {}}}},
    "rescore": {"rescore": {"window_size": 10, "query": {"rescore_query": {"term": {"brand": "b3"}}}}},
    "suggest": {"suggest": {"s": {"text": "cuoch", "term": {"field": "title"}}}},
    "explain": {"explain": True, "size": 2},
    "profile": {"profile": True},
    "min-score": {"min_score": 0.3},
    "totals": {"track_total_hits": 3},
    "no-totals": {"track_total_hits": False},
    "source": {"_source": ["title"], "fields": ["price"]},
    "count-only": {"size": 0, "aggs": {"brands": {"terms": {"field": "brand"}}}},
    "multi-match": {"query": {"multi_match": {"query": "red couch", "fields": ["title^2", "brand"]}}},
    "query-string": {"query": {"query_string": {"query": "red AND couch", "default_field": "title"}}},
    "function-score": {
        "query": {"function_score": {"query": MATCH, "field_value_factor": {"field": "price", "missing": 1}}}
    },
    "dis-max": {"query": {"dis_max": {"queries": [MATCH, {"match_phrase": {"title": "red couch"}}]}}},
    "nothing-found": {"query": {"match": {"title": "zebra"}}},
}
FULL = {name: {"query": MATCH, "size": 200, **body} for name, body in BODIES.items()}
