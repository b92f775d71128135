"""Fixtures: a real OpenSearch for the session, its client, index names, the shop of sofas with shims, a sidecar."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk

from gram_plugin.node.node import NodeSettings, RunningNode, start_node
from gram_plugin.search.client import connect
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, write_calibration
from gram_plugin.search.query import Mode
from gram_plugin.serve.settings import ShimSettings
from sidecars import Pair, WordGenerator, serving
from sofas import FakeGenerator, product, running


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


Shim = Callable[..., str]


@pytest.fixture(scope="module")
def shim(node: RunningNode) -> Iterator[Shim]:
    """Gives a function that starts a shim with settings and a model, and returns its URL."""
    with contextlib.ExitStack() as stack:

        def start(generator: FakeGenerator | None, **changed: Any) -> str:
            settings = replace(ShimSettings(upstream_url=node.url, budget_ms=10_000), **changed)
            return stack.enter_context(running(settings, generator))

        yield start


@pytest.fixture(scope="module")
def shop(client: OpenSearch) -> Iterator[str]:
    """An index of 120 products, of which the sofas and couches carry the code, calibrated for g1."""
    index = "shim-shop"
    properties = {"title": {"type": "text"}, "price": {"type": "integer"}, "brand": {"type": "keyword"}}
    client.indices.create(
        index=index, body={"settings": {"number_of_shards": 2}, "mappings": {"properties": properties}}
    )
    apply_to_index(client, index)
    write_calibration(client, index, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    bulk(client, [product(index, number) for number in range(120)], refresh=True)
    yield index
    client.indices.delete(index=index)


@pytest.fixture(scope="module")
def modes(shim: Shim) -> dict[str, str]:
    """One shim for each mode."""
    return {mode: shim(FakeGenerator(), mode=mode) for mode in Mode}


@pytest.fixture
def pair(node: RunningNode, client: OpenSearch) -> Iterator[Pair]:
    """Both ways to the node."""
    generator = WordGenerator()
    with serving(node.url, generator) as url, OpenSearch(url, timeout=30) as coded:
        yield Pair(client, coded, url, generator)
