"""The customer's lexical query: as gram.toml describes it, and the usual forms that a search engineer would try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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


def first_forms(text_fields: Sequence[str], other_fields: Sequence[str]) -> list[SearchConfig]:
    """Six forms to try first: multi_match type and title boost."""
    title, *rest = text_fields
    return [
        SearchConfig(type=type_name, fields=(f"{title}^{boost}", *rest, *other_fields))
        for type_name in ("cross_fields", "best_fields", "most_fields")
        for boost in (1, 3)
    ]


def further_forms(best: SearchConfig) -> list[SearchConfig]:
    """Three variations of the best of the first forms: two fuzzy companions, and all words instead of any."""
    return [replace(best, fuzzy=0.3), replace(best, fuzzy=0.6), replace(best, operator="and")]


FORMS_TRIED = 9
"""Lexical queries that tuning compares."""
