"""Targets: which requests are read and which pass."""

from __future__ import annotations

import pytest

from gram_plugin.serve.targets import Target, find_target


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/_bulk", Target(None, None)),
        ("PUT", "/_bulk/", Target(None, None)),
        ("POST", "//products/_bulk", Target(None, "products")),
        ("POST", "/%3Clogs-%7Bnow%2Fd%7D%3E/_bulk", Target(None, "<logs-{now/d}>")),
        ("POST", "/products/_doc", Target("index", "products")),
        ("PUT", "/products/_doc/a%2Fb", Target("index", "products", "a/b")),
        ("POST", "/products/_create/1", Target("create", "products", "1")),
        ("POST", "/products/_update/1", Target("update", "products", "1")),
        ("PUT", "/products/_doc", None),
        ("PUT", "/products/_update/1", None),
        ("GET", "/products/_doc/1", None),
        ("DELETE", "/products/_doc/1", None),
        ("POST", "/products/_create", None),
        ("POST", "/products/_search", None),
        ("POST", "/_bulk/stream", None),
        ("POST", "/a/b/_bulk", None),
        ("POST", "/", None),
        ("PUT", "/products", None),
    ],
)
def test_only_writes_of_documents_are_read(method: str, path: str, expected: Target | None) -> None:
    """Method and path as OpenSearch reads them decide what a request writes, and into which index, under which id."""
    assert find_target(method, path) == expected
