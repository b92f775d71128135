"""Which requests are searches, and what their bodies want."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.search.query import Mode
from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.indices import IndexNames
from gram_plugin.serve.searches import Kind, Search, Target, Wishes, items_of, render_items, target_of
from gram_plugin.serve.status import NotEnriched, Reason, degraded

WISHES = Wishes(Mode.RERANK, 50.0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", b"/_search", b"", (Kind.SEARCH, "", "")),
        ("POST", b"/a/_search", b"", (Kind.SEARCH, "a", "")),
        ("POST", b"/a,b*/_msearch/", b"x=1", (Kind.MSEARCH, "a,b*", "")),
        ("GET", b"/%3Ca-%7Bnow%2Fd%7D%3E/_search", b"", (Kind.SEARCH, "%3Ca-%7Bnow%2Fd%7D%3E", "")),
        ("GET", b"/_all/_search", b"ignore_unavailable", (Kind.SEARCH, "_all", "ignore_unavailable=")),
        ("GET", b"/a/_search", b"expand_wildcards=open&q=1", (Kind.SEARCH, "a", "expand_wildcards=open")),
        ("GET", b"/_search/template", b"", (Kind.SEARCH_TEMPLATE, "", "")),
        ("POST", b"/a/_search/template", b"", (Kind.SEARCH_TEMPLATE, "a", "")),
        ("POST", b"/a*/_msearch/template", b"", (Kind.MSEARCH_TEMPLATE, "a*", "")),
    ],
)
def test_searches_are_known_by_method_and_path(
    method: str, path: bytes, query: bytes, expected: tuple[Any, ...]
) -> None:
    """Endpoint, indices as they were written, and what decides how they resolve."""
    target = target_of(method, path, query)
    assert target is not None
    assert (target.kind, target.names.expression, target.names.options) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", b"/_search"),
        ("HEAD", b"/a/_search"),
        ("GET", b"/a/b/_search"),
        ("GET", b"/"),
        ("GET", b""),
        ("GET", b"*"),
    ]
    + [
        ("POST", path)
        for path in (b"/_search/scroll", b"/a/_doc/_search", b"/_nodes/_search", b"/_render/template", b"/template")
    ],
)
def test_everything_else_is_none(method: str, path: bytes) -> None:
    """Other methods and paths are relayed."""
    assert target_of(method, path, b"") is None


@settings(max_examples=30)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_a_body_without_ext_gram_stays_byte_for_byte(document: dict[str, Any]) -> None:
    """Whatever a body says, its lexical form is itself."""
    document.pop("ext", None)
    raw = json.dumps(document, indent=1).encode()
    (item,) = items_of(raw, Target(Kind.SEARCH, IndexNames(""), {}), WISHES)
    assert item.lexical == raw


@given(st.binary())
def test_no_bytes_are_an_error(raw: bytes) -> None:
    """Anything at all is read or left alone, as one search and as many."""
    target = Target(Kind.SEARCH, IndexNames(""), {})
    (item,) = items_of(raw, target, WISHES)
    assert render_items([item], [item.lexical], Kind.SEARCH) == raw
    try:
        items = items_of(raw, Target(Kind.MSEARCH, IndexNames(""), {}), WISHES)
    except NotEnriched:
        return
    assert render_items(items, [item.lexical for item in items], Kind.MSEARCH) == raw


def test_an_item_of_msearch_has_its_own_indices() -> None:
    """The head line beats the URL; an empty one, or one without indices, takes the URL's."""
    heads = [b"{}", b"", b'{"index":"a/b"}', b'{"index":["a","b*"],"ignore_unavailable":true}', b'{"routing":"x"}']
    body = b"".join(head + b'\n{"query":{"match":{"t":"x"}}}\n' for head in heads)
    items = items_of(body, Target(Kind.MSEARCH, IndexNames("shop", "o=1"), {}), WISHES)
    names = [item.wanted.names for item in items if isinstance(item.wanted, Search)]
    url = IndexNames("shop", "o=1")
    listed = IndexNames("a,b*", "ignore_unavailable=true")
    assert names == [url, url, IndexNames("a%2Fb", "o=1"), listed, url]


def test_only_single_searches_are_explained() -> None:
    """Of many searches OpenSearch tells no points, so their bodies stay those of searches that are not explained."""
    line = b'{"query":{"match":{"t":"x"}},"ext":{"gram":{"explain":true}}}'
    single = items_of(line, Target(Kind.SEARCH, IndexNames("shop"), {}), WISHES)
    many = items_of(b"{}\n" + line + b"\n", Target(Kind.MSEARCH, IndexNames("shop"), {}), WISHES)
    assert [item.explain for item in (*single, *many)] == [True, False]
    assert [item.lexical for item in (*single, *many)] == [b'{"query":{"match":{"t":"x"}}}'] * 2


def test_of_very_many_searches_those_beyond_the_deadline_stay_unread() -> None:
    """But for those that may hold an `ext.gram`, which OpenSearch must not see."""
    plain = b'{"query":{"match":{"t":"x"}}}'
    ours, escaped = b'{"query":{},"ext":{"gram":{}}}', b'{"query":{},"ext":{"\\u0067ram":{}}}'
    body = b"".join(b"{}\n" + line + b"\n" for line in (plain, plain, ours, escaped, b"no json"))
    ticks = iter(range(100))
    late = Deadline(1.0, lambda: float(next(ticks)))
    items = items_of(body, Target(Kind.MSEARCH, IndexNames("shop"), {}), WISHES, late)
    assert [item.lexical for item in items] == [plain, plain, b'{"query":{}}', b'{"query":{}}', b"no json"]
    assert [isinstance(item.wanted, Search) for item in items[:2]] == [True, True]
    assert items[4].wanted == degraded(Reason.LATE)
