"""A server's files: settings, Java options, and what its folder tells while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gram_plugin.node.java import Java
from gram_plugin.node.server import Server, cluster_settings, jvm_options

SHIPPED = """\
# heap
-Xms1g
-Xmx1g
11-:-XX:+UseG1GC
-Djava.io.tmpdir=${OPENSEARCH_TMPDIR}
-XX:HeapDumpPath=data
-XX:ErrorFile=logs/hs_err_pid%p.log
9-:-Xlog:gc*:file=logs/gc.log:utctime
21-:-javaagent:agent/opensearch-agent.jar
"""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server that is not prepared yet."""
    return Server(tmp_path / "node-0", tmp_path / "home", Java(tmp_path / "jdk", 25, full=True))


def test_options_keep_the_distributions_and_write_nothing_into_its_folder() -> None:
    """Heap is ours; logs and dumps of Java would go to a folder that the server's account cannot write."""
    assert jvm_options(SHIPPED, "256m", ["-Xss2m"]).splitlines() == [
        "11-:-XX:+UseG1GC",
        "21-:-javaagent:agent/opensearch-agent.jar",
        "-Xms256m",
        "-Xmx256m",
        "-Xss2m",
    ]


def test_settings_are_written_as_yaml_that_is_json(server: Server) -> None:
    """Strings with a colon, booleans and lists survive."""
    server.prepare({"a.text": "x: y", "b.flag": True, "c.list": ["1", "2"]}, "-Xmx1g\n")
    assert (server.config / "opensearch.yml").read_text(encoding="utf-8").splitlines() == [
        'node.name: "node-0"',
        f'path.data: "{server.folder}/data"',
        f'path.logs: "{server.folder}/logs"',
        'a.text: "x: y"',
        "b.flag: true",
        'c.list: ["1", "2"]',
    ]


def test_ports_of_an_earlier_run_are_forgotten(server: Server) -> None:
    """A folder that is used again does not send callers to an old port."""
    server.prepare({}, "")
    server.ports_file("http").write_text("[::1]:9201\n127.0.0.1:9200\n", encoding="ascii")
    before = server.address("http")
    server.prepare({}, "")
    assert (before, server.address("http")) == ("127.0.0.1:9200", "")


def test_three_servers_know_their_first_electors() -> None:
    """One server forms a cluster alone, three wait for each other."""
    one, three = cluster_settings(1, 9200), cluster_settings(3, 0)
    assert (one["discovery.type"], one["http.port"]) == ("single-node", 9200)
    assert three["cluster.initial_cluster_manager_nodes"] == ["node-0", "node-1", "node-2"]
    assert {one["network.host"], three["network.host"]} == {"127.0.0.1"}


def test_the_log_tail_is_short_and_never_fails(server: Server) -> None:
    """No log is an empty tail."""
    assert server.log_tail() == ""
    server.prepare({}, "")
    server.console.write_bytes(b"first\nsecond \xff\nthird\n")
    assert server.log_tail(2) == "second \ufffd\nthird"
