"""A `gram shim` in a process of its own: its memory under each fault, its clock, its death, clients that leave it.

`SOAK_CLIENTS` is the number of clients that hang up at one time (`make soak`: 10,000).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faultproxy import NONE, Fault, FaultProxy, reply
from gram_plugin.node.node import RunningNode
from shimprocess import Process, hang_up, shim_process
from sofas import MATCH, answer, ask

TARGET = "/shim-shop/_search"
BODY: dict[str, Any] = {"query": MATCH, "size": 5, "aggs": {"brands": {"terms": {"field": "brand"}}}}
TINY = Path(__file__).parents[1] / "plugin/tests/decode/tiny_bundle"
CLOCK = Path(__file__).with_name("jumpingclock.py")
CLIENTS = int(os.environ.get("SOAK_CLIENTS", "300"))
UPSTREAM = 500
"""Connections to OpenSearch that a crowd may take, a little below `GRAM_MAX_CONNECTIONS`."""
SETTINGS = {"GRAM_BUDGET_MS": "5000", "GRAM_MODE": "recall", "GRAM_BUNDLE_CHECK_S": "0"}
DAY_S = 86_400


@pytest.fixture(scope="module")
def proxy(node: RunningNode, shop: str) -> Iterator[FaultProxy]:
    """The way from the shims to OpenSearch."""
    with FaultProxy(node.url).running() as started:
        yield started


@pytest.fixture(scope="module")
def process(proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A shim with a real bundle behind the proxy, which gives up on a silent OpenSearch soon."""
    said = tmp_path_factory.mktemp("shim") / "log"
    settings = {**SETTINGS, "GRAM_REQUEST_TIMEOUT_S": "0.5", "GRAM_BUDGET_MS": "200"}
    with shim_process(proxy.url, TINY, said, settings) as started:
        ask(started.url, TARGET, BODY)
        yield started


@pytest.fixture
def fault(proxy: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, to be given a fault until the end of the test."""
    yield proxy
    proxy.fault = NONE


def search(url: str, number: int) -> None:
    """One search of a text of its own; whatever becomes of it."""
    body = {**BODY, "query": {"match": {"title": f"red couch {number}"}}}
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        ask(url, TARGET, body)


FAULTS = {
    "none": NONE,
    "latency": Fault(latency_s=0.05),
    "jitter": Fault(jitter_s=0.02),
    "slicing": Fault(slice_bytes=97),
    "bandwidth": Fault(bytes_per_s=100_000, slice_bytes=1000),
    "slow-close": Fault(slow_close_s=1.0),
    "reset": Fault(cut_after_bytes=0, reset=True),
    "closed-in-the-head": Fault(cut_after_bytes=9),
    "half-written-body": Fault(cut_after_bytes=400),
    "timeout": Fault(stall=True),
    "overload": Fault(reply=reply("429 Too Many Requests", b"{}")),
    "bad-gateway": Fault(reply=reply("502 Bad Gateway", b"{}")),
    "unavailable": Fault(reply=reply("503 Service Unavailable", b"{}")),
    "clause-refused": Fault(reply=reply("400 Bad Request", b"{}"), only=b"rank_feature"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_memory_and_sockets_are_bounded_under_a_fault(process: Process, fault: FaultProxy, name: str) -> None:
    """Three rounds of 60 searches, 20 at a time: the last takes no memory that the first did not, and no socket."""
    files, sizes = process.files(), []
    fault.fault = FAULTS[name]
    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        for turn in range(3):
            list(clients.map(lambda number: search(process.url, number), range(60 * turn, 60 * turn + 60)))
            sizes.append(process.resident_kib())
    fault.fault = NONE
    process.settle(files + 24)  # the pool keeps a connection for each of the 20, and a look-up may run
    assert sizes[2] - sizes[0] < 8192
    limit = time.monotonic() + 30
    while ask(process.url, TARGET, BODY)[0] != 200:
        assert time.monotonic() < limit


def test_clients_that_hang_up_leave_nothing_behind(proxy: FaultProxy, tmp_path: Path) -> None:
    """Three times they all leave while OpenSearch stalls: their searches are cut, memory and sockets come back."""
    patient = {**SETTINGS, "GRAM_CONNECT_TIMEOUT_S": "600", "GRAM_KEEP_ALIVE_S": "3600"}  # nobody is sent away
    with shim_process(proxy.url, TINY, tmp_path / "log", patient) as process:
        ask(process.url, TARGET, BODY)
        process.settle(files := process.files() + 4)
        sizes = [process.resident_kib()]
        for turn in range(3):
            proxy.fault = Fault(stall=True, only=b"/_search")
            began = time.monotonic()
            with contextlib.ExitStack() as waiting:
                for number in range(turn * CLIENTS, (turn + 1) * CLIENTS):
                    waiting.enter_context(contextlib.closing(hang_up(process.url, TARGET, number)))
                process.crowd(files + CLIENTS + min(CLIENTS // 2, UPSTREAM), limit_s=60 + CLIENTS / 50)
                crowded = (process.files(), process.resident_kib())
            process.settle(files, limit_s=60 + CLIENTS / 50)
            proxy.fault = NONE
            assert ask(process.url, TARGET, BODY)[0] == 200
            sizes.append(process.resident_kib())
            took_s = time.monotonic() - began
            print(f"{CLIENTS} clients, {took_s:.1f} s; files, KiB with them: {crowded}; KiB before, after: {sizes}")
    # A process keeps most of the memory that it once had; what counts is that the next crowd takes no more of it.
    assert sizes[3] - sizes[2] < 16_384
    assert sizes[3] - sizes[0] < 65_536 + 64 * CLIENTS  # KiB


def test_a_wall_clock_that_jumps_changes_nothing(proxy: FaultProxy, node: RunningNode, tmp_path: Path) -> None:
    """A day ahead, two days back: equal answers, kept codes, no look-up more, a new bundle is taken all the same."""
    offset = tmp_path / "offset"
    offset.write_text("0", encoding="ascii")
    settings = {**SETTINGS, "GRAM_CALIBRATION_AGE_S": "3600"}
    with shim_process(proxy.url, TINY, tmp_path / "log", settings, (str(CLOCK), str(offset))) as process:
        before = answer(process.url, TARGET, BODY), ask(process.url, TARGET, BODY)[1]["x-gram-status"]
        proxy.requests.clear()
        for turn, ahead_s in enumerate((DAY_S, -DAY_S, 0)):
            offset.write_text(str(ahead_s), encoding="ascii")
            began = time.monotonic()
            after = answer(process.url, TARGET, BODY), ask(process.url, TARGET, BODY)[1]["x-gram-status"]
            assert (after, time.monotonic() - began < 10) == (before, True)
            assert process.counted('gram_query_codes_total{how="decoded"}') == 1.0
            assert process.counted('gram_query_codes_total{how="cached"}') == 3.0 + 2 * turn
        assert [b"/_mapping" in request for request in proxy.requests] == [False] * 6
        process.renewed("taken", 1)
        assert answer(process.url, TARGET, BODY) == before[0]
    log = (tmp_path / "log").read_text(encoding="utf-8")
    days = {line.split('"at": "')[1][:10] for line in log.splitlines() if '"event": "search"' in line}
    assert (before[0][0], before[1], len(days)) == (200, "applied", 3)  # the clock did jump: its log tells three days


def test_a_shim_that_is_killed_is_replaced_by_the_next(proxy: FaultProxy, node: RunningNode, tmp_path: Path) -> None:
    """The model dies with its process: OpenSearch is left with no search of it, and a new process serves at once."""
    with shim_process(proxy.url, TINY, tmp_path / "first", SETTINGS) as first:
        before = answer(first.url, TARGET, BODY)
        proxy.requests.clear()
        proxy.fault = Fault(stall=True, only=b"/_search")
        waiting = [hang_up(first.url, TARGET, 3 * number + 1) for number in range(8)]
        limit = time.monotonic() + 30
        while len(proxy.requests) < len(waiting):
            assert time.monotonic() < limit
        first.kill()
        ends = [client.recv(1) for client in waiting if not _is_reset(client)]
        proxy.fault = NONE
        for client in waiting:
            client.close()
    limit = time.monotonic() + 30
    while proxy.connections:
        assert time.monotonic() < limit, proxy.connections
    with shim_process(proxy.url, TINY, tmp_path / "second", SETTINGS) as second:
        after = answer(second.url, TARGET, BODY)
    assert (after, set(ends) <= {b""}) == (before, True)


def _is_reset(client: Any) -> bool:
    """Whether the other end of a connection has gone with a reset."""
    try:
        client.recv(1, 2)  # MSG_PEEK
    except ConnectionError:
        return True
    return False
