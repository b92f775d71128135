"""The customer's lexical query: as gram.toml describes it, and the usual forms that a search engineer would try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gram_exporter.config import SEARCH_TYPES, SearchConfig

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


def first_forms(
    text_fields: Sequence[str], other_fields: Sequence[str], own: SearchConfig | None = None
) -> list[SearchConfig]:
    """Forms to try first: the owner's own as it is, then six of multi_match type and title boost.

    The six have all else from the owner's: boosts of other fields, operator, fuzzy companion. Without an own form,
    or one that names no fields, they search the given ones.

    Args:
        text_fields: searchable texts, the title first.
        other_fields: searchable attribute fields.
        own: `[search]` as the owner wrote it.
    """
    base = own or SearchConfig()
    base = base if base.fields else replace(base, fields=(*text_fields, *other_fields))
    forms = [
        replace(base, type=type_name, fields=_boosted(base.fields, text_fields[0], boost))
        for type_name in SEARCH_TYPES
        for boost in (1, 3)
    ]
    return list(dict.fromkeys([own, *forms] if own else forms))


def _boosted(fields: Sequence[str], title: str, boost: int) -> tuple[str, ...]:
    return tuple(f"{title}^{boost}" if name.partition("^")[0] == title else name for name in fields)


def further_forms(best: SearchConfig) -> list[SearchConfig]:
    """Three variations of the best of the first forms: two fuzzy companions, and all words instead of any, or any."""
    other = "and" if best.operator == "or" else "or"
    return [replace(best, fuzzy=0.3), replace(best, fuzzy=0.6), replace(best, operator=other)]


FURTHER_FORMS = 3
FORMS_TRIED = 6 + FURTHER_FORMS
"""Lexical queries that tuning compares where the owner has no form of his own."""
