"""In which fields of an index a title stands as one keyword."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.search.titles import MAX_TITLES, title_keywords

KEYWORD = {"type": "keyword", "ignore_above": 256}
TITLE = {"type": "text", "fields": {"keyword": KEYWORD, "en": {"type": "text"}, "raw": {"type": "keyword"}}}


def index(title: Any, **others: Any) -> dict[str, Any]:
    """The mappings of an index with this title."""
    return {"properties": {"title": title, **others}}


@pytest.mark.parametrize(
    ("mappings", "path", "found"),
    [
        (index(TITLE), "title", ("title.keyword", "title.raw")),
        (index(KEYWORD), "title", ("title",)),
        (index({"type": "search_as_you_type", "fields": {"keyword": KEYWORD}}), "title", ("title.keyword",)),
        (index({"properties": {"de": TITLE}}), "title.de", ("title.de.keyword", "title.de.raw")),
        (index({"type": "alias", "path": "name"}, name=TITLE), "title", ("name.keyword", "name.raw")),
        (index({"type": "alias", "path": "title"}), "title", ()),
        (index({"type": "text"}), "title", ()),
        (index({"type": "text", "fields": {"keyword": {**KEYWORD, "index": False}}}), "title", ()),
        (index({"type": "text", "fields": ["keyword"]}), "title", ()),
        (index({"type": "nested", "properties": {"de": TITLE}}), "title.de", ()),
        (index(TITLE), "name", ()),
        (index(TITLE), "", ()),
        (index(None), "title", ()),
        ({}, "title", ()),
        (None, "title", ()),
    ],
)
def test_fields_of_one_index(mappings: Any, path: str, found: tuple[str, ...]) -> None:
    """Sub-fields of whatever the title is, the title itself, behind an alias; only what a query can look for."""
    assert title_keywords([mappings], path) == found


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (index(TITLE), ("title.keyword", "title.raw")),
        (index({"type": "text"}), ("title.keyword", "title.raw")),
        (index(KEYWORD), ("title.keyword", "title.raw")),
        (index({"type": "text", "fields": {"keyword": {"type": "date"}}}), ("title.raw",)),
        (index({"type": "text", "fields": {"keyword": {**KEYWORD, "index": False}}}), ("title.raw",)),
        ({"properties": {}}, ("title.keyword", "title.raw")),
    ],
)
def test_fields_of_several_indices(other: Any, found: tuple[str, ...]) -> None:
    """What one of them lacks finds nothing there; what it has as something else would find that, and is left out."""
    assert title_keywords([index(TITLE), other], "title") == found
    assert sorted(title_keywords([other, index(TITLE)], "title")) == sorted(found)


def test_there_are_never_many() -> None:
    """However many indices name theirs differently."""
    indices = [index({"type": "text", "fields": {f"k{n}": KEYWORD}}) for n in range(9)]
    assert title_keywords(indices, "title") == tuple(f"title.k{n}" for n in range(MAX_TITLES))


shapes = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["title", "properties", "fields", "type", "path", "keyword"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.lists(shapes, max_size=3), st.sampled_from(["title", "title.keyword", "properties", "."]))
def test_any_answer_is_read(indices: list[Any], path: str) -> None:
    """A mapping of any shape gives fields or none."""
    assert all(isinstance(name, str) for name in title_keywords(indices, path))
