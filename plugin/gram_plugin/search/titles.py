"""Titles as keywords: the fields of an index in which a product's title stands as one term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opensearchpy import OpenSearch

from gram_plugin.search.client import asking

MAX_TITLES = 4
"""Most fields of one search: several indices may name theirs differently."""


def read_title_keywords(client: OpenSearch, index: str, title: str) -> tuple[str, ...]:
    """The `title_keywords` of an index, or of all indices behind an alias.

    Raises:
        SearchError: OpenSearch could not be reached or refused.
    """
    with asking(client, f"reading the mapping of {index}"):
        mappings = client.indices.get_mapping(index=index)
    return title_keywords((found.get("mappings") for found in mappings.values()), title)


def title_keywords(indices: Iterable[Any], title: str) -> tuple[str, ...]:
    """Fields that hold the title as one keyword which a query can look for, at most `MAX_TITLES`.

    A name that is something else in one of the indices is left out: there it would be searched as that.

    Args:
        indices: what stands under `mappings` of each index. `{"title": {"type": "text", "fields": {"keyword": …}}}`
            gives `("title.keyword",)`, a title that is a keyword itself `("title",)`; an alias leads to its field.
        title: path of the field; none has an empty one.
    """
    read = list(indices)
    named = dict.fromkeys(name for mappings in read for name in _keywords_of(mappings, title))
    return tuple(name for name in named if all(_fits(mappings, name) for mappings in read))[:MAX_TITLES]


def _keywords_of(mappings: Any, path: str) -> list[str]:
    field = _field(mappings, path)
    if field is not None and field.get("type") == "alias":
        path = str(field.get("path"))
        field = _field(mappings, path)
    if field is None:
        return []
    inner = field.get("fields")
    below = inner.items() if isinstance(inner, Mapping) else ()
    return [path] * _is_searchable(field) + [f"{path}.{name}" for name, found in below if _is_searchable(found)]


def _fits(mappings: Any, name: str) -> bool:
    """Whether an index has the keyword or nothing of that name: what is not there finds nothing."""
    field = _field(mappings, name)
    return field is None or _is_searchable(field)


def _is_searchable(field: Any) -> bool:
    return isinstance(field, Mapping) and field.get("type") == "keyword" and field.get("index") in (None, True, "true")


def _field(mappings: Any, path: str) -> Mapping[str, Any] | None:
    """The definition of a field or a sub-field; None where there is none, or it stands in nested objects."""
    found = mappings
    for step in path.split("."):
        if not isinstance(found, Mapping) or found.get("type") == "nested":
            return None
        below = found.get("properties") or found.get("fields")
        found = below.get(step) if isinstance(below, Mapping) else None
    return found if isinstance(found, Mapping) else None
