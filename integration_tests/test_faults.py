"""Faults between shim and OpenSearch, and clients that hang up: what was promised holds, and all comes back by itself.

The answers of a direct search are what every fault is measured against.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk

from faultproxy import NONE, Fault, FaultProxy, reply
from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.client import connect
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, write_calibration
from gram_plugin.serve.settings import ShimSettings
from shimprocess import Process, shim_process
from sofas import MATCH, FakeGenerator, answer, ask, product, running

INDEX = "faults-shop"
TARGET = f"/{INDEX}/_search"
BODY: dict[str, Any] = {"query": MATCH, "size": 200, "aggs": {"brands": {"terms": {"field": "brand"}}}}
ENRICHED = b"rank_feature"
LOOKUP = b"/_mapping"
TINY = Path(__file__).parents[1] / "plugin/tests/decode/tiny_bundle"


def fill(client: OpenSearch) -> None:
    """An index of 120 products, calibrated for g1."""
    properties = {"title": {"type": "text"}, "price": {"type": "integer"}, "brand": {"type": "keyword"}}
    client.indices.create(
        index=INDEX,
        body={"settings": {"number_of_shards": 1, "number_of_replicas": 0}, "mappings": {"properties": properties}},
    )
    apply_to_index(client, INDEX)
    write_calibration(client, INDEX, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    bulk(client, [product(INDEX, number) for number in range(120)], refresh=True)


@pytest.fixture(scope="module")
def shop(client: OpenSearch) -> Iterator[str]:
    """The index."""
    fill(client)
    yield INDEX
    client.indices.delete(index=INDEX)


@pytest.fixture(scope="module")
def proxy(node: RunningNode, shop: str) -> Iterator[FaultProxy]:
    """The way from the shims to OpenSearch."""
    with FaultProxy(node.url).running() as started:
        yield started


@dataclass(frozen=True)
class Way:
    """A shim behind the proxy, and OpenSearch without either."""

    shim: str
    direct: str
    proxy: FaultProxy

    def status(self) -> str:
        """What the shim says of a search that it answers."""
        return ask(self.shim, TARGET, BODY)[1]["x-gram-status"]

    def lexical(self) -> tuple[int, Any]:
        """The direct answer."""
        found: tuple[int, Any] = answer(self.direct, TARGET, BODY)
        return found

    def until_applied(self) -> None:
        """Returns once searches have codes again, which nobody helps them to."""
        limit = time.monotonic() + 60
        while self.status() != "applied":
            assert time.monotonic() < limit


@pytest.fixture
def way(node: RunningNode, proxy: FaultProxy) -> Iterator[Callable[..., Way]]:
    """Gives a function that starts a shim with settings and a model, warm in its look-up of the index unless `cold`."""
    with contextlib.ExitStack() as stack:

        def start(*, cold: bool = False, generator: FakeGenerator | None = None, **changed: Any) -> Way:
            settings = replace(ShimSettings(upstream_url=proxy.url, budget_ms=10_000), **changed)
            found = Way(stack.enter_context(running(settings, generator or FakeGenerator())), node.url, proxy)
            if not cold:
                found.until_applied()
            proxy.requests.clear()
            return found

        yield start
        proxy.fault = NONE


SLOW = {
    "latency": Fault(latency_s=0.2),
    "jitter": Fault(jitter_s=0.05),
    "slicing": Fault(slice_bytes=97),
    "single-bytes": Fault(slice_bytes=1),
    "bandwidth": Fault(bytes_per_s=100_000, slice_bytes=1000),
    "slow-close": Fault(slow_close_s=1.0, slice_bytes=1000),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_way_changes_no_answer(way: Callable[..., Way], name: str) -> None:
    """Delayed, sliced and narrow: every one of twenty searches at once has its codes, and the hits of a quick way."""
    shim = way()
    quick = answer(shim.shim, TARGET, BODY)
    shim.proxy.fault = SLOW[name]
    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        found = list(clients.map(lambda _: answer(shim.shim, TARGET, BODY), range(20)))
    assert found == [quick] * 20


@pytest.mark.parametrize("name", SLOW)
def test_what_is_no_search_goes_through_byte_for_byte(way: Callable[..., Way], name: str) -> None:
    """Reads and refusals arrive whole, whatever the way does to the pieces."""
    shim = way()
    shim.proxy.fault = SLOW[name]
    for method, target, body in (("GET", f"/{INDEX}/_doc/7", None), ("POST", f"/{INDEX}/_count", {"query": MATCH})):
        assert ask(shim.shim, target, body, method) == ask(shim.direct, target, body, method)


LOST = {
    "reset-before-the-answer": Fault(cut_after_bytes=0, reset=True),
    "closed-before-the-answer": Fault(cut_after_bytes=0),
    "closed-in-the-head": Fault(cut_after_bytes=9),
}


@pytest.mark.parametrize("name", LOST)
def test_a_search_without_an_answer_is_a_marked_502(way: Callable[..., Way], name: str) -> None:
    """OpenSearch's error shape and a reason; each search is sent once; the next one is served when the way is back."""
    shim = way()
    shim.proxy.fault = LOST[name]
    status, headers, text = ask(shim.shim, TARGET, BODY)
    assert (status, headers["x-gram-status"]) == (502, "degraded; reason=upstream")
    assert json.loads(text)["error"]["type"] == "gram_upstream_exception"
    assert len(shim.proxy.requests) == 1
    shim.proxy.fault = NONE
    assert shim.status() == "applied"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("target", [TARGET, f"/{INDEX}/_doc/7"])
def test_half_an_answer_never_looks_whole(way: Callable[..., Way], target: str, reset: bool) -> None:
    """An answer that breaks off in its body breaks off for the client; the next one is whole."""
    shim = way()
    shim.proxy.fault = Fault(cut_after_bytes=400, reset=reset)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(shim.shim, target, BODY if target == TARGET else None, "POST" if target == TARGET else "GET")
    shim.proxy.fault = NONE
    assert shim.status() == "applied"


def test_an_opensearch_that_stalls_is_a_504_after_the_timeout(way: Callable[..., Way]) -> None:
    """With a timeout set the client learns of it; without the fault the next search is served."""
    shim = way(request_timeout_s=0.5)
    shim.proxy.fault = Fault(stall=True)
    status, headers, _ = ask(shim.shim, TARGET, BODY)
    assert (status, headers["x-gram-status"]) == (504, "degraded; reason=upstream")
    shim.proxy.fault = NONE
    assert shim.status() == "applied"


def test_a_refused_connection_recovers_by_itself(way: Callable[..., Way]) -> None:
    """While nothing listens searches are marked 502s, and a moment later they have codes again."""
    shim = way()
    shim.proxy.refuse()
    try:
        refused = [ask(shim.shim, TARGET, BODY)[::2] for _ in range(3)]
    finally:
        shim.proxy.listen()
    assert [status for status, _ in refused] == [502] * 3
    assert shim.status() == "applied"


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Service Unavailable"])
def test_overload_of_opensearch_reaches_the_client_once(way: Callable[..., Way], status: str) -> None:
    """What would meet the lexical search too is not sent again: the load must not double when it hurts most."""
    shim = way()
    shim.proxy.fault = Fault(reply=reply(status, b'{"error":"busy"}', "retry-after: 7"), only=b"/_search")
    found, headers, text = ask(shim.shim, TARGET, BODY)
    assert (found, headers["retry-after"], text) == (int(status[:3]), "7", b'{"error":"busy"}')
    assert len(shim.proxy.requests) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
def test_a_refused_clause_gives_the_lexical_answer(way: Callable[..., Way], status: str) -> None:
    """Only the enriched search fails: status, hits, order and facets are the direct ones."""
    shim = way()
    shim.proxy.fault = Fault(reply=reply(status, b"{}"), only=ENRICHED)
    assert answer(shim.shim, TARGET, BODY) == shim.lexical()
    assert shim.status() == "degraded; reason=refused"


LOOKUPS = {
    "stalls": (Fault(only=LOOKUP, stall=True), "index-lookup-late"),
    "is-slow": (Fault(only=LOOKUP, latency_s=5), "index-lookup-late"),
    "is-cut": (Fault(only=LOOKUP, cut_after_bytes=300), "index-lookup-failed"),
    "is-reset": (Fault(only=LOOKUP, cut_after_bytes=0, reset=True), "index-lookup-failed"),
    "is-refused": (Fault(only=LOOKUP, reply=reply("503 Service Unavailable", b"{}")), "index-lookup-failed"),
    "is-garbage": (Fault(only=LOOKUP, reply=reply("200 OK", b"<html>")), "index-lookup-failed"),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_look_up_that_fails_costs_codes_and_nothing_else(way: Callable[..., Way], name: str) -> None:
    """The answer is the direct one, within the budget and marked; when the look-up works again so do codes."""
    fault, reason = LOOKUPS[name]
    shim = way(cold=True, budget_ms=300, calibration_age_s=0.1)
    shim.proxy.fault = fault
    began = time.monotonic()
    found = answer(shim.shim, TARGET, BODY)
    took_s = time.monotonic() - began
    assert (found, shim.status()) == (shim.lexical(), f"degraded; reason={reason}")
    assert took_s < 3  # the budget, and what a busy machine needs for a search; a look-up would take 5 s and more
    if name != "stalls":  # a stalled look-up is given up after ten seconds
        shim.proxy.fault = NONE
        shim.until_applied()


def test_a_slow_model_costs_the_budget_and_nothing_else(way: Callable[..., Way]) -> None:
    """On a slow way too a model that hangs leaves the direct answer, later by the budget at most."""
    gate = threading.Event()
    shim = way(cold=True, generator=FakeGenerator(gate=gate), budget_ms=200)
    shim.proxy.fault = Fault(jitter_s=0.02, slice_bytes=500)
    began = time.monotonic()
    found = [answer(shim.shim, TARGET, BODY) for _ in range(5)]
    took_s = time.monotonic() - began
    statuses = {shim.status()}
    gate.set()
    assert (found, statuses <= {"degraded; reason=late", "degraded; reason=breaker-open"}) == (
        [shim.lexical()] * 5,
        True,
    )
    assert took_s < 5 * (0.2 + 2)
    shim.until_applied()


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A folder that the server's account can enter; those of pytest are for one account only."""
    with tempfile.TemporaryDirectory(prefix="gram-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder / "node"


def test_opensearch_restarts_beneath_the_shim(data_folder: Path) -> None:
    """Gone: marked 502s. Back with its data: the same answers as before, with codes, and nobody touched the shim."""
    settings = NodeSettings(data=data_folder, jvm_options=("-XX:TieredStopAtLevel=1",))
    with contextlib.ExitStack() as stack:
        with start_node(settings) as first, connect(first.url) as client:
            fill(client)
            proxy = stack.enter_context(FaultProxy(first.url).running())
            shim = stack.enter_context(running(ShimSettings(upstream_url=proxy.url, budget_ms=10_000), FakeGenerator()))
            before = answer(shim, TARGET, BODY)
            client.indices.flush(index=INDEX)
        gone = ask(shim, TARGET, BODY)
        with start_node(settings) as second:
            proxy.target = second.url
            with connect(second.url) as client:
                client.cluster.health(index=INDEX, wait_for_status="green", timeout=60)
            way = Way(shim, second.url, proxy)
            way.until_applied()
            after = answer(shim, TARGET, BODY)
    assert (gone[0], gone[1]["x-gram-status"], after) == (502, "degraded; reason=upstream", before)


@pytest.fixture
def process(proxy: FaultProxy, tmp_path: Path) -> Iterator[Process]:
    """A shim with a real bundle behind the proxy."""
    settings = {"GRAM_BUDGET_MS": "5000", "GRAM_MODE": "recall", "GRAM_BUNDLE_CHECK_S": "0"}
    shutil.copytree(TINY, tmp_path / "bundle")
    with shim_process(proxy.url, tmp_path / "bundle", tmp_path / "shim.log", settings) as started:
        yield started
    proxy.fault = NONE


def test_a_bundle_that_vanishes_or_breaks_costs_nothing(process: Process, node: RunningNode) -> None:
    """A damaged bundle is refused, a removed one serves from memory, a whole one is taken again: no answer differs."""

    def state(*actions: Callable[[], object]) -> tuple[Any, str]:
        for act in actions:
            act()
        return answer(process.url, TARGET, BODY), ask(process.url, TARGET, BODY)[1]["x-gram-status"]

    def damage() -> None:
        (process.bundle / "codebook.tsv").write_bytes(b"damaged")

    def remove() -> None:
        shutil.rmtree(process.bundle)

    def restore() -> None:
        shutil.copytree(TINY, process.bundle)

    before = state()
    damaged = state(damage, lambda: process.renewed("refused", 1))
    removed = state(remove, lambda: process.renewed("refused", 2))
    restored = state(restore, lambda: process.renewed("taken", 1))
    assert (damaged, removed, restored) == (before, before, before)
    assert before[0][0] == 200
