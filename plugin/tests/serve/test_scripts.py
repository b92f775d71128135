"""Scripts: which of them may change the text of a product, and which have, by OpenSearch's answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gram_plugin.contract.text import Rendering
from gram_plugin.search.bulk import BulkItem
from gram_plugin.serve.fields import GramFields
from gram_plugin.serve.scripts import Scripted, changed_of, is_changed, may_change_text

RENDERING = Rendering(("title", "specs.size"))


@pytest.mark.parametrize(
    "script",
    [
        "ctx._source.views += 1",
        "ctx._source.views++; ctx._source.seen = params.now",
        "if (ctx._source.price < params.title) { ctx.op = 'none' } else { ctx._source.price = params.price }",
        "ctx._source.tags.add(params.tag)",
        "for (title in params.all) { ctx._source.n += title }",
        {"source": "ctx._source.views += params.by", "params": {"by": 2, "ctx": "title"}},
        {"source": "ctx._source.views += 1", "lang": "painless"},
    ],
)
def test_fields_that_are_named_and_not_read_are_harmless(script: Any) -> None:
    """Counters, prices and stocks change no text, so their products keep their codes."""
    assert not may_change_text({"script": script}, RENDERING, "gram")


@pytest.mark.parametrize(
    "script",
    [
        "ctx._source.title = params.title",
        "ctx._source.specs.size = 3",
        "def specs = ctx._source.specs; specs.size = 1",
        "ctx._source.gram.codes.clear()",
        "ctx._source['title'] = 'x'",
        "ctx._source[params.field] = 'x'",
        "ctx['_source'].title = 'x'",
        "ctx._source.remove('title')",
        "ctx._source.putAll(params)",
        "ctx._source.put ('title', 'x')",
        "ctx._source.remove/**/('title')",
        "ctx._source.remove // all of it\n('title')",
        "ctx._source = params.whole",
        "def all = ctx._source; all.title = 'x'",
        "def all = ctx; all._source.title = 'x'",
        "ctx . _source.title = 'x'",
        "ctx._source\n.title = 'x'",
        "ctx?._source.title",
        "f(ctx); ctx._source.views += 1",
        {"id": "stored"},
        {"source": "ctx._source.views += 1", "lang": "expression"},
        {"source": {"views": 1}},
        {},
        [],
        7,
    ],
)
def test_whatever_else_a_script_does_may_change_the_text(script: Any) -> None:
    """The whole source in hand, a name that is made up, a stored script: nobody can tell."""
    assert may_change_text({"script": script}, RENDERING, "gram")


@pytest.mark.parametrize("update", [{}, {"doc": {"title": "x"}}, {"script": None, "doc": {"title": "x"}}])
def test_an_update_without_a_script_is_none_of_its_business(update: dict[str, Any]) -> None:
    """Partial documents are judged elsewhere."""
    assert not may_change_text(update, RENDERING, "gram")


def scripted(place: int) -> Scripted:
    """An update in its place."""
    return Scripted(place, BulkItem("update", {"_id": str(place)}, {}, 1, b"", b""), GramFields.WEIGHTED)


RESULTS: list[Any] = [
    {"update": {"status": 200, "result": "updated"}},
    {"update": {"status": 200, "result": "noop"}},
    {"update": {"status": 404, "error": {"type": "document_missing_exception"}}},
    {"update": {"status": 201, "result": "created"}},
    {"update": {"status": 200, "result": "deleted"}},
    {"update": {"status": 200}},
    {"index": {"status": 200, "result": "updated"}},
]


def test_only_what_was_updated_is_changed() -> None:
    """Neither failures nor no-ops; what `filter_path` hides counts as changed. Other items are not looked at."""
    found = changed_of([scripted(place) for place in range(6)], 7, json.dumps({"items": RESULTS}).encode())
    assert [item.place for item in found] == [0, 5]


@pytest.mark.parametrize("answer", [None, b"", b"{oops", b"[]", b'{"items":[]}', b'{"items":[{}]}', b'{"items":7}'])
def test_where_the_answer_cannot_be_read_all_may_be_changed(answer: bytes | None) -> None:
    """Losing codes that were right costs one backfill; keeping wrong ones costs searches."""
    assert changed_of([scripted(0)], 1, answer) == [scripted(0)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"result":"updated"}', True),
        (b'{"result":"noop"}', False),
        (b'{"result":"deleted"}', False),
        (b'{"_id":"1"}', True),
        (b"", True),
        (None, True),
    ],
)
def test_the_answer_to_a_single_update(answer: bytes | None, expected: bool) -> None:
    """Read by the same rules."""
    assert is_changed(answer) is expected
