"""The customer's lexical query: as gram.toml describes it, and the usual forms that a search engineer would try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gram_exporter.config import SearchConfig

Lexical = Callable[[str], dict[str, Any]]
"""Query text to the `query` part of a search body."""


def lexical_query(search: SearchConfig) -> Lexical:
    """The query that `[search]` describes; all fields of the index where it names none.

    With `fuzzy` > 0 a `best_fields` match of fuzziness AUTO stands beside it at that weight:
    misspellings find something, and exact words stay ahead.
    """
    return partial(_query, search)


def _query(search: SearchConfig, text: str) -> dict[str, Any]:
    fields = {"fields": list(search.fields)} if search.fields else {}
    exact = {"multi_match": {"query": text, "type": search.type, "operator": search.operator, **fields}}
    if not search.fuzzy:
        return exact
    forgiving = {"query": text, "type": "best_fields", "fuzziness": "AUTO", **fields}
    return {"bool": {"should": [exact, {"multi_match": {**forgiving, "boost": search.fuzzy}}]}}


def _form(
    type_name: str, boost: int, operator: str, fuzzy: float, text_fields: Sequence[str], other_fields: Sequence[str]
) -> SearchConfig:
    title, *rest = text_fields
    return SearchConfig(
        type=type_name, operator=operator, fuzzy=fuzzy, fields=(f"{title}^{boost}", *rest, *other_fields)
    )


LEXICAL_QUERIES: tuple[Callable[[Sequence[str], Sequence[str]], SearchConfig], ...] = tuple(
    partial(_form, type_name, boost, operator, fuzzy)
    for type_name in ("cross_fields", "best_fields", "most_fields")
    for boost in (1, 3)
    for operator, fuzzy in (("or", 0.0), ("or", 0.3), ("and", 0.0))
)
"""Eighteen forms: type, title boost, operator, fuzzy companion."""
