"""The node room against real servers: modules, a cluster of three, bad settings, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from opensearchpy import OpenSearch

from gram_plugin.errors import NodeError
from gram_plugin.node.account import server_account
from gram_plugin.node.folder import is_locked
from gram_plugin.node.node import NodeSettings, RunningNode, cluster_url, start_node

LIMIT_S = 180.0
QUICK = ("-XX:TieredStopAtLevel=1",)


def wait_until(reached: Callable[[], bool]) -> None:
    """Returns as soon as a condition holds; fails after `LIMIT_S` seconds."""
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < deadline
        os.sched_yield()


def status_of(pid: int) -> list[str]:
    """State, parent and further columns of a process as the kernel gives them; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    return status_of(pid)[:1] not in ([], ["Z"])


def descendants(pid: int) -> list[int]:
    """Pids of a process's children, each followed by its own."""
    others = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    direct = [other for other in others if status_of(other)[1:2] == [str(pid)]]
    return [found for child in direct for found in (child, *descendants(child))]


@pytest.fixture
def gram(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program `gram` with a state folder of its own; ends what a test left."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-m", "gram_plugin.cli", *arguments],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
        program.communicate()


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A folder that the server's account can enter, unlike pytest's own."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "data with a space"


def test_the_node_analyses_english_and_ranks_by_features(client: OpenSearch, index_name: str) -> None:
    """The default version holds the modules that our mappings need: `english` and `rank_features`."""
    properties = {"title": {"type": "text", "analyzer": "english"}, "gram": {"type": "rank_features"}}
    client.indices.create(index=index_name, body={"mappings": {"properties": properties}})
    client.index(index=index_name, body={"title": "running shoes", "gram": {"type=shoe": 0.5}}, refresh=True)

    answer = client.search(index=index_name, body={"query": {"match": {"title": "run"}}})

    assert answer["hits"]["total"]["value"] == 1


def test_servers_run_under_the_unprivileged_account(node: RunningNode) -> None:
    """OpenSearch refuses root; started by root it runs under another account, otherwise under our own."""
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in node.pids} == {server_account().uid}
    assert server_account().uid != 0


def test_servers_listen_on_loopback_alone(node: RunningNode) -> None:
    """Another machine can reach neither HTTP nor transport."""
    hosts = {server.address(kind).rpartition(":")[0] for server in node.servers for kind in ("http", "transport")}
    assert hosts == {"127.0.0.1"}


def test_a_url_is_used_as_it_is(node: RunningNode) -> None:
    """With a URL no node is started."""
    with cluster_url(f"{node.url}/") as url:
        assert url == node.url


def test_three_nodes_form_one_cluster_and_leave_nothing() -> None:
    """Three servers elect one manager and hold a replica each; after the block no process and no folder is left."""
    with start_node(NodeSettings(nodes=3, jvm_options=QUICK)) as cluster:
        with OpenSearch(cluster.urls[2]) as client:
            client.indices.create(index="spread", body={"settings": {"number_of_replicas": 2}})
            health = client.cluster.health(index="spread", wait_for_status="green", timeout=60)
        assert (health["number_of_nodes"], health["status"], health["active_shards"]) == (3, "green", 3)
        folder, pids = cluster.folder, (*cluster.pids, cluster.keeper.pid)

    assert [pid for pid in pids if exists(pid)] == []
    assert not folder.exists()


def test_a_named_folder_keeps_the_data_and_is_locked(data_folder: Path) -> None:
    """Documents are there again after a restart; a second cluster in the same folder is refused."""
    settings = NodeSettings(data=data_folder, jvm_options=QUICK)
    with start_node(settings) as first, OpenSearch(first.url) as client:
        client.index(index="kept", id="1", body={"title": "sofa"}, refresh=True)
        with pytest.raises(NodeError, match="in use by servers that run already"):
            start_node(settings)

    with start_node(settings) as second, OpenSearch(second.url) as client:
        assert client.get(index="kept", id="1")["_source"] == {"title": "sofa"}
    assert not is_locked(data_folder)


def test_a_taken_port_is_named(node: RunningNode) -> None:
    """A port in use is found before anything starts."""
    taken = int(node.url.rpartition(":")[2])
    with pytest.raises(NodeError, match=f"port {taken} on 127.0.0.1 cannot be used"):
        start_node(NodeSettings(port=taken))


def test_a_setting_that_the_server_refuses_shows_its_log() -> None:
    """The error carries the end of the server's log, and the server's folder is gone."""
    with pytest.raises(NodeError, match=r"unknown setting \[no.such.setting\]") as caught:
        start_node(NodeSettings(settings={"no.such.setting": 1}, jvm_options=QUICK))
    assert "ended with status" in caught.value.message


def test_a_heap_that_java_refuses_is_named() -> None:
    """A heap of nonsense fails before a server starts."""
    with pytest.raises(NodeError, match="12parsecs"):
        start_node(NodeSettings(heap="12parsecs"))


def test_a_start_that_takes_too_long_leaves_nothing() -> None:
    """The limit ends the servers too."""
    before = set(descendants(os.getpid()))
    with pytest.raises(NodeError, match="had no ports in time"):
        start_node(NodeSettings(start_timeout_s=0.5))
    assert set(descendants(os.getpid())) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_its_parent(gram: Callable[..., subprocess.Popen[str]], number: signal.Signals) -> None:
    """However `gram node run` ends, keeper and server end too."""
    program = gram("node", "run", "--java-option", QUICK[0])
    assert program.stdout
    assert program.stdout.readline().startswith("http://127.0.0.1:")
    pids = descendants(program.pid)
    assert len(pids) == 2

    program.send_signal(number)

    wait_until(lambda: not any(map(exists, pids)))
    assert program.wait(LIMIT_S) == (-number if number == signal.SIGKILL else 128 + number)


def test_no_server_outlives_its_keeper(gram: Callable[..., subprocess.Popen[str]]) -> None:
    """Should the keeper itself be killed, the kernel ends the server, and the program removes the folder."""
    program = gram("node", "run", "--java-option", QUICK[0])
    assert program.stdout
    program.stdout.readline()
    keeper, server = descendants(program.pid)
    folder = Path(f"/proc/{server}/fd/1").readlink().parents[1]

    os.kill(keeper, signal.SIGKILL)

    wait_until(lambda: not exists(server))
    assert program.wait(LIMIT_S) == 1
    assert not folder.exists()


def test_a_started_node_is_found_and_stopped(gram: Callable[..., subprocess.Popen[str]]) -> None:
    """`start` leaves a server running, `status` finds it, a second `start` is refused, `stop` ends it."""

    def run(*arguments: str) -> Sequence[str | int]:
        program = gram("node", *arguments)
        output, errors = program.communicate(timeout=LIMIT_S)
        return program.returncode, output, errors

    status, url, _ = run("start", "--java-option", QUICK[0])
    assert status == 0
    found, output, _ = run("status")
    assert (found, str(output).splitlines()[0]) == (0, f"url      {str(url).strip()}")
    assert run("start")[0] == 1
    assert run("stop") == (0, f"stopped {str(url).strip()}\n", "")
    assert run("status")[0] == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(str(url).strip().rpartition(":")[2])))
