"""Fixtures of the integration tests: a real OpenSearch for the session, its client, a fresh index name per test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.client import connect


@pytest.fixture(scope="session")
def node() -> Iterator[RunningNode]:
    """A node of our own, with `.url`; ended with the session."""
    # Optimising Java code further would cost more CPU time than these tests can win back.
    with start_node(NodeSettings(jvm_options=("-XX:TieredStopAtLevel=1",))) as running:
        yield running


@pytest.fixture(scope="session")
def client(node: RunningNode) -> Iterator[OpenSearch]:
    """A synchronous client of the session's node."""
    with connect(node.url) as connected:
        yield connected


@pytest.fixture
def index_name(client: OpenSearch) -> Iterator[str]:
    """A name that no other test uses; indices whose name starts with it are deleted afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    client.indices.delete(index=f"{name}*", ignore_unavailable=True)
