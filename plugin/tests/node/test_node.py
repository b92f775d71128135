"""Settings and the checks that come before a start."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.account import Account
from gram_plugin.node.node import NodeSettings, check_port, check_url, cluster_url, is_healthy, readable_cache


@pytest.mark.parametrize("nodes", [0, 2, 4])
def test_a_cluster_has_one_or_three_nodes(nodes: int) -> None:
    """Two cannot elect, more are no test of anything new."""
    with pytest.raises(ConfigError, match="has 1 or 3 nodes"):
        NodeSettings(nodes=nodes)


def test_one_port_is_not_enough_for_three_nodes() -> None:
    """Three servers cannot share one port."""
    with pytest.raises(ConfigError, match="three nodes need three"):
        NodeSettings(nodes=3, port=9200)


def test_a_taken_port_is_found_before_anything_starts() -> None:
    """The message names the port and the option."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(NodeError, match=f"port {port} on 127.0.0.1 cannot be used") as caught:
            check_port(port)
    assert caught.value.next_step == "choose another --port, or leave it out to get a free one"
    check_port(port)


def test_a_port_out_of_range_is_refused() -> None:
    """65536 is no port."""
    with pytest.raises(NodeError, match="port 65536"):
        check_port(65536)


@pytest.mark.parametrize("url", ["localhost:9200", "ftp://host", "http://", "/var/run"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """A host name alone is the usual slip."""
    with pytest.raises(ConfigError, match=f"{re.escape(repr(url))} is no URL"):
        check_url(url)


def test_a_given_url_starts_nothing() -> None:
    """The URL comes back without its trailing slash."""
    with cluster_url("https://search.example:9200/") as url:
        assert url == "https://search.example:9200"


def test_an_address_without_server_is_not_healthy() -> None:
    """No answer is no error while a server comes up."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not is_healthy(f"http://127.0.0.1:{unused.getsockname()[1]}", 1)


def test_a_cache_that_the_account_cannot_enter_is_replaced_by_the_systems(tmp_path: Path) -> None:
    """Root's home is closed for others, so root unpacks where the server's account can read."""
    stranger = Account("stranger", 4_000_000, 4_000_000, changes=True)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert readable_cache(closed, stranger, system=Path("/")) == Path("/")
    with pytest.raises(NodeError, match="account 'stranger' can enter neither"):
        readable_cache(closed, stranger, system=closed)
