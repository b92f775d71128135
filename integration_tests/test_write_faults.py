"""Faults between sidecar and OpenSearch, models that hang and clients that leave: what was promised of writes holds.

Killed programs and servers are in test_write_kills.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from opensearchpy import OpenSearch

from faultproxy import NONE, Fault, FaultProxy, reply
from gram_plugin.contract.codes import MAX_CODES, Role, ScoredCode
from gram_plugin.contract.text import Rendering
from gram_plugin.node.node import RunningNode
from gram_plugin.serve.coding import CodingRules
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import create_sidecar
from shimprocess import hang_up
from sidecars import WordGenerator, create, ndjson, plain, raw, served, settled, stored
from sofas import ask

BULK = b"/_bulk"
LOOKUP = b"/_mapping"
DOCUMENTS = 30
SCRIPT: dict[str, Any] = {"script": {"source": "ctx._source.title = 'boot'"}}
CLEARED: dict[str, Any] = {"codes": [], "weights": [], "source": None, "model": "pending"}
CLIENTS = 60


class GatedGenerator(WordGenerator):
    """Stands still while its gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As its parent."""
        self.gate.wait(60)
        return super().generate(texts, role, limit)


@dataclass(frozen=True)
class Way:
    """A sidecar behind the proxy, OpenSearch without either, and an index."""

    url: str
    proxy: FaultProxy
    direct: OpenSearch
    index: str
    generator: GatedGenerator = field(default_factory=GatedGenerator)

    def send(self, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and answer of a bulk."""
        status, found, text = ask(self.url, f"/{self.index}/_bulk", body, **headers)
        return status, found, json.loads(text)

    def stored(self) -> dict[str, Any]:
        """What the index holds."""
        return stored(self.direct, self.index)

    def bulks(self) -> int:
        """How many bulks have reached the proxy."""
        return sum(BULK in request.partition(b"\r\n")[0] for request in self.proxy.requests)

    def metric(self, line: str) -> bool:
        """Whether the sidecar's metrics have this line."""
        return f"\n{line}\n".encode() in ask(self.url, "/-/metrics", method="GET")[2]


@pytest.fixture(scope="module")
def proxy(node: RunningNode) -> Iterator[FaultProxy]:
    """The way from the sidecars to OpenSearch."""
    with FaultProxy(node.url).running() as started:
        yield started


@pytest.fixture
def way(client: OpenSearch, proxy: FaultProxy, index_name: str) -> Iterator[Callable[..., Way]]:
    """Gives a function that starts a sidecar with settings, which knows its index unless `cold`."""
    create(client, index_name)
    with contextlib.ExitStack() as stack:

        def start(*, cold: bool = False, **changed: Any) -> Way:
            generator = GatedGenerator()
            stack.callback(generator.gate.set)
            settings = replace(SidecarSettings(upstream_url=proxy.url), **changed)
            url = stack.enter_context(served(create_sidecar(settings, generator, CodingRules(Rendering(("title",))))))
            found = Way(url, proxy, client, index_name, generator)
            until(lambda: ask(url, "/-/ready", method="GET")[0] == 200)
            if not cold:
                assert found.send(ndjson({"index": {"_id": "warm"}}, {"title": "warm"}))[0] == 200
                client.delete(index=index_name, id="warm")
            proxy.requests.clear()
            return found

        yield start
        proxy.fault = NONE


def until(condition: Callable[[], bool]) -> None:
    """Until the condition holds."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "the condition never held"
        time.sleep(0.005)


def documents(word: str = "shoe") -> dict[str, dict[str, Any]]:
    """Products by id."""
    return {str(number): {"title": f"{word} n{number}", "price": number} for number in range(DOCUMENTS)}


def body_of(found: dict[str, dict[str, Any]]) -> bytes:
    """A bulk that indexes them."""
    return ndjson(*(line for name, document in found.items() for line in ({"index": {"_id": name}}, document)))


def codes_of(found: dict[str, Any]) -> dict[str, list[str]]:
    """The codes of every product by id."""
    return {name: document["gram"]["codes"] for name, document in found.items()}


CODED = {name: sorted(f"g1/type={word}" for word in found["title"].split()) for name, found in documents().items()}

SLOW = {
    "latency": Fault(latency_s=0.2),
    "jitter": Fault(jitter_s=0.02, slice_bytes=500),
    "single-bytes": Fault(slice_bytes=1),
    "bandwidth": Fault(bytes_per_s=100_000, slice_bytes=1000),
    "slow-close": Fault(slow_close_s=0.5, slice_bytes=1000),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_way_changes_no_answer_and_no_document(way: Callable[..., Way], name: str) -> None:
    """Ten writers at once: each answer is a direct one's, and every product has its codes."""
    sidecar, other = way(), "test-write-faults-direct"
    create(sidecar.direct, other)
    try:
        expected = raw(sidecar.direct, "POST", f"/{other}/_bulk", body_of(documents()))
    finally:
        sidecar.direct.indices.delete(index=other)
    sidecar.proxy.fault = SLOW[name]
    first = sidecar.send(body_of(documents()))
    answer = settled(first[2], sidecar.index)
    for got, wanted in zip(answer["items"], expected[1]["items"], strict=True):
        got["index"]["_seq_no"] = wanted["index"]["_seq_no"]  # the product that warmed it up has counted
    assert [first[0], answer] == settled(expected, other)
    with concurrent.futures.ThreadPoolExecutor(10) as writers:
        found = list(writers.map(lambda _: sidecar.send(body_of(documents())), range(10)))
    assert [(status, headers["x-gram-status"]) for status, headers, _ in found] == [(200, "applied")] * 10
    assert codes_of(sidecar.stored()) == CODED
    assert plain(sidecar.stored()) == documents()


LOST = {
    "reset-before-the-answer": Fault(cut_after_bytes=0, reset=True, only=BULK),
    "closed-before-the-answer": Fault(cut_after_bytes=0, only=BULK),
    "closed-in-the-head": Fault(cut_after_bytes=9, only=BULK),
}


@pytest.mark.parametrize("name", LOST)
def test_a_write_without_an_answer_is_a_502_and_is_not_sent_twice(way: Callable[..., Way], name: str) -> None:
    """What OpenSearch did by then is not known, so only its writer may repeat it; then nothing is missing or double."""
    sidecar = way()
    sidecar.proxy.fault = LOST[name]
    status, _, answer = sidecar.send(body_of(documents()))
    assert (status, answer["error"]["type"], sidecar.bulks()) == (502, "gram_upstream_exception", 1)
    sidecar.proxy.fault = NONE
    assert [sidecar.send(body_of(documents()))[0] for _ in range(2)] == [200, 200]
    assert codes_of(sidecar.stored()) == CODED


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
def test_half_an_answer_never_looks_whole(way: Callable[..., Way], reset: bool, scripted: bool) -> None:
    """It breaks off for the writer too, whether or not the sidecar has to read it; writing again heals all."""
    sidecar = way()
    assert sidecar.send(body_of(documents()))[0] == 200
    sent = body_of(documents("boot"))
    if scripted:
        sent += ndjson({"update": {"_id": "0"}}, SCRIPT)
    sidecar.proxy.fault = Fault(cut_after_bytes=400, reset=reset, only=BULK)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        sidecar.send(sent)
    sidecar.proxy.fault = NONE
    assert sidecar.send(sent)[0] == 200
    expected = {name: sorted([f"g1/type=n{name}", "g1/type=boot"]) for name in documents()}
    assert codes_of(sidecar.stored()) == ({**expected, "0": []} if scripted else expected)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Service Unavailable"])
def test_overload_of_opensearch_reaches_the_writer_once(way: Callable[..., Way], status: str) -> None:
    """With its own words and its own `retry-after`; the load is not doubled when it hurts most."""
    sidecar = way()
    sidecar.proxy.fault = Fault(reply=reply(status, b'{"error":"busy"}', "retry-after: 7"), only=BULK)
    found, headers, answer = sidecar.send(body_of(documents()))
    assert (found, headers["retry-after"], answer) == (int(status[:3]), "7", {"error": "busy"})
    assert (sidecar.bulks(), sidecar.stored()) == (1, {})


def test_an_opensearch_that_stalls_is_a_504_after_the_timeout(way: Callable[..., Way]) -> None:
    """The writer learns that nothing is known; the next write is taken."""
    sidecar = way(request_timeout_s=0.5)
    sidecar.proxy.fault = Fault(stall=True, only=BULK)
    assert sidecar.send(body_of(documents()))[0] == 504
    sidecar.proxy.fault = NONE
    assert sidecar.send(body_of(documents()))[0] == 200
    assert codes_of(sidecar.stored()) == CODED


def test_a_refused_connection_recovers_by_itself(way: Callable[..., Way]) -> None:
    """While nothing listens writes are 502; a moment later they are taken, with codes."""
    sidecar = way()
    sidecar.proxy.refuse()
    try:
        refused = [sidecar.send(body_of(documents()))[0] for _ in range(3)]
    finally:
        sidecar.proxy.listen()
    assert refused == [502] * 3
    status, headers, _ = sidecar.send(body_of(documents()))
    assert (status, headers["x-gram-status"], codes_of(sidecar.stored())) == (200, "applied", CODED)


LOOKUPS = {
    "stalls": Fault(only=LOOKUP, stall=True),
    "is-cut": Fault(only=LOOKUP, cut_after_bytes=300),
    "is-reset": Fault(only=LOOKUP, cut_after_bytes=0, reset=True),
    "is-refused": Fault(only=LOOKUP, reply=reply("503 Service Unavailable", b"{}")),
    "is-garbage": Fault(only=LOOKUP, reply=reply("200 OK", b"<html>")),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_look_up_that_fails_costs_the_codes_and_no_document(way: Callable[..., Way], name: str) -> None:
    """Of an index never known documents go in as they are; of one known before they are coded on."""
    sidecar = way(cold=True, request_timeout_s=0.5, mapping_age_s=0.0)
    sidecar.proxy.fault = LOOKUPS[name]
    status, headers, _ = sidecar.send(body_of(documents()))
    assert (status, headers["x-gram-status"]) == (200, "degraded; reason=unknown-mapping")
    assert sidecar.stored() == documents()
    sidecar.proxy.fault = NONE
    assert sidecar.send(body_of(documents()))[1]["x-gram-status"] == "applied"
    sidecar.proxy.fault = LOOKUPS[name]
    assert sidecar.send(body_of(documents()))[1]["x-gram-status"] == "applied"
    assert codes_of(sidecar.stored()) == CODED


def test_a_model_that_hangs_costs_the_codes_and_nothing_else(way: Callable[..., Way]) -> None:
    """On a slow way too everything is indexed, as pending, within the bound; once the model moves there are codes."""
    sidecar = way(stall_timeout_s=0.2)
    sidecar.proxy.fault = Fault(jitter_s=0.01, slice_bytes=500)
    sidecar.generator.gate.clear()
    began = time.monotonic()
    found = [sidecar.send(body_of(documents())) for _ in range(5)]
    took_s = time.monotonic() - began
    reasons = [headers["x-gram-status"].partition("=")[2] for _, headers, _ in found]
    assert ([status for status, *_ in found], reasons[:3]) == ([200] * 5, ["timeout"] * 3)
    assert set(reasons[3:]) <= {"breaker-open", "timeout"}  # a busy machine may be slower than the breaker's pause
    assert {document["gram"]["model"] for document in sidecar.stored().values()} == {"pending"}
    assert plain(sidecar.stored()) == documents()
    assert took_s < 30  # five stalls take one second, a model that is waited for a minute each
    sidecar.generator.gate.set()
    until(lambda: sidecar.send(body_of(documents()))[1]["x-gram-status"] == "applied")
    assert codes_of(sidecar.stored()) == CODED


def test_a_mark_that_cannot_be_made_is_said(way: Callable[..., Way]) -> None:
    """The script was run, so its writer is told 200; the header tells that old codes stay, the metrics count it."""
    sidecar = way()
    sidecar.send(ndjson({"index": {"_id": "1"}}, {"title": "shoe"}))
    sidecar.proxy.fault = Fault(only=b'"retry_on_conflict"', reply=reply("403 Forbidden", b"{}"))
    status, headers, answer = sidecar.send(ndjson({"update": {"_id": "1"}}, SCRIPT))
    assert (status, answer["errors"], headers["x-gram-status"]) == (200, False, "degraded; reason=script-unmarked")
    assert sidecar.stored()["1"]["gram"]["codes"] == ["g1/type=shoe"]
    assert sidecar.metric('gram_documents_total{outcome="uncoded",reason="script-unmarked"} 1.0')
    sidecar.proxy.fault = NONE
    assert sidecar.send(ndjson({"update": {"_id": "1"}}, SCRIPT))[1]["x-gram-status"] == "degraded; reason=script"
    assert sidecar.stored()["1"] == {"title": "boot", "gram": CLEARED}


def test_clients_that_hang_up_leave_nothing_behind(way: Callable[..., Way]) -> None:
    """Amid their bodies, and while OpenSearch stalls: connections and memory come back, others are served."""
    sidecar = way()
    before = sidecar.proxy.connections
    sidecar.proxy.fault = Fault(stall=True, only=BULK)
    waiting: list[socket.socket] = [hang_up(sidecar.url, f"/{sidecar.index}/_doc", number) for number in range(CLIENTS)]
    waiting += [hang_up(sidecar.url, f"/{sidecar.index}/_bulk", number) for number in range(CLIENTS)]
    until(lambda: sidecar.bulks() >= CLIENTS // 2)
    for connection in waiting:
        connection.close()
    until(lambda: sidecar.proxy.connections <= before + CLIENTS // 2)
    until(lambda: sidecar.metric("gram_body_bytes 0.0"))
    sidecar.proxy.fault = NONE
    status, headers, _ = sidecar.send(body_of(documents()))
    assert (status, headers["x-gram-status"]) == (200, "applied")
    assert codes_of(sidecar.stored()).items() >= CODED.items()
