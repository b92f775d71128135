"""The words in a customer's query: where a search body holds its text, and what it demands besides.

OpenSearch has many ways to say the same; what is not listed here is not understood, and then left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gram_plugin.contract.text import MAX_QUERY_CHARS
from gram_plugin.search.querystring import SYNTAX_QUERIES, negations

Body = dict[str, Any]

MAX_DEPTH = 50
"""Deeper queries are not understood; OpenSearch's own limit is 30 levels of bool."""

MAX_TEXT_CHARS = 4 * MAX_QUERY_CHARS
"""What lies behind is not looked at: no model reads so far, and the work on one text stays bounded."""

MAX_EXCLUDED = 16
"""A query string that excludes more parts binds as it is: each part costs as many clauses as it has fields."""

FIELD_QUERIES = frozenset({"match", "match_phrase", "match_phrase_prefix", "match_bool_prefix"})
_TEXT_QUERIES = frozenset({"multi_match", "combined_fields"})
_WRAPPERS: Mapping[str, str] = {
    "function_score": "query",
    "script_score": "query",
    "boosting": "positive",
    "constant_score": "filter",
    "nested": "query",
}
"""Compound queries with one scoring part, and the key that holds it."""

# Clients write these texts, so every pattern is linear: what fails at one place is not scanned again from the next.
_FIELD_PREFIX = re.compile(r"[\w.*]:(?=\S)")
_RANGE_WORD = re.compile(r"\bTO\b")
_OPERATORS = re.compile(r'\b(?:AND|OR|NOT)\b|&&|\|\||(?<![^\s(])[+-]|[~^][0-9.]*|["()|*?\\]')
_MATCH_ALL: Body = {"match_all": {}}

_FUNCTIONS = frozenset(
    {"weight", "script_score", "field_value_factor", "random_score", "gauss", "linear", "exp", "filter"}
)
"""What a function of `function_score` may hold; of these only scripts can read the score of the words."""
_SCORE = re.compile(r"\b_score\b")
_KNOWN_LANGUAGES = ("painless", "expression", "knn")
"""Languages of scripts that have no other name for the score than `_score`."""


@dataclass(frozen=True)
class WordQuery:
    """A full-text part of a query.

    Attributes:
        text: what it looks for, without operators and what they negate.
        kind: its name in the query language.
        inner: what stands under that name.
        nested: paths of the nested objects that it is about, outermost first.
    """

    text: str
    kind: str
    inner: Mapping[str, Any]
    nested: tuple[str, ...] = ()

    @property
    def broad(self) -> bool:
        """Whether it may search several fields."""
        return self.kind not in FIELD_QUERIES

    @property
    def wanted(self) -> str:
        """The text with its quotes, without what operators negate."""
        raw = (_raw_text(self.kind, self.inner) or "")[:MAX_TEXT_CHARS]
        return negations(self.kind, raw).kept if self.kind in SYNTAX_QUERIES else raw


def find_query_text(body: Mapping[str, Any]) -> str | None:
    """The text that a shopper typed, as far as the body tells it; None when that is not clear.

    Reads `match`, `match_phrase`, `match_phrase_prefix`, `match_bool_prefix`, `multi_match`, `combined_fields`,
    `query_string` and `simple_query_string`, alone or inside `bool` (its `must`, or else its `should`; never `filter`
    or `must_not`), `dis_max`, `function_score`, `script_score`, `boosting`, `constant_score` and `nested`. Two
    different texts at one level are not clear, unless one is searched in several fields and the other in one: a `match`
    on the brand beside a `multi_match` is a filter by another name.
    """
    distinct = {_compared(found.text): found.text for found in reversed(word_queries(body.get("query")))}
    return next(iter(distinct.values())) if len(distinct) == 1 else None


def word_queries(query: Any) -> list[WordQuery]:
    """The full-text parts of a query that `find_query_text` reads, in order; those of several fields win."""
    found = _word_queries(query, MAX_DEPTH, ())
    return [part for part in found if part.broad] or found


def is_graded(query: Any) -> bool:
    """Whether words surely give the hits of a query different scores, so that its first hits are its best ones.

    Words inside `constant_score`, `nested`, `script_score` and their like do not count, nor those whose score a
    function replaces or a boost of 0 takes away, nor optional ones where a hit may do without.
    """
    return _is_graded(query, MAX_DEPTH)


def _is_graded(query: Any, depth: int) -> bool:
    if not (depth and isinstance(query, Mapping) and len(query) == 1):
        return False
    name, inner = next(iter(query.items()))
    if not isinstance(inner, Mapping) or _takes_score_away(inner):
        return False
    if name in FIELD_QUERIES | _TEXT_QUERIES | SYNTAX_QUERIES:
        return True

    def graded(part: str) -> list[bool]:
        found = inner.get(part, [])
        return [_is_graded(one, depth - 1) for one in (found if isinstance(found, list) else [found])]

    if name == "bool":
        optional = [] if "must" in inner or "filter" in inner else graded("should")
        return any(graded("must")) or (bool(optional) and all(optional))
    if name == "dis_max":
        return bool(graded("queries")) and all(graded("queries"))
    if name == "function_score" and inner.get("boost_mode", "multiply") not in ("multiply", "sum"):
        return False
    part = {"boosting": "positive", "function_score": "query"}.get(name)
    return part is not None and any(graded(part))


def _takes_score_away(inner: Mapping[str, Any]) -> bool:
    """Whether a query says that its score counts nothing, by itself or for the one field that it names."""
    said = (inner, *(value for value in inner.values() if isinstance(value, Mapping)))
    return any(found.get(key) == 0 for found in said for key in ("boost", "weight") if found.get(key) is not False)


def demands(query: Any, text: str | None) -> list[Body]:
    """What a lexical query demands of a hit besides the words of `text`, as filters that bind other ways to match.

    The idea: replace every part that only looks for words of `text` by `match_all` and keep the rest. So `filter`,
    `must_not`, what a shopper excluded with `-word`, and any `must` that is about something else stay, in every
    wrapper; an optional `should` demands nothing. A `min_score` keeps its wrapper, and all of it where its score may
    come from the words. Where the words are searched in several fields, a `must` on one field is about something else,
    as in `find_query_text`: a shop may bear the name of what is searched for. So is a `must` on one field for some of
    the words, where another part is for all of them. Empty when the query is nothing but words. A query that
    holds none of the words binds as a whole.
    """
    words = frozenset(_words(text or ""))
    broad = any(found.broad and words.issuperset(_words(found.text)) for found in word_queries(query))
    held = any(words.issubset(_words(found.text)) for found in _word_queries(query, MAX_DEPTH, ()))
    relaxed = _relaxed(query, _Asked(words, broad, held), MAX_DEPTH)
    return [] if relaxed is None else [relaxed]


@dataclass(frozen=True)
class _Asked:
    """What is asked for, as far as it decides which parts are nothing but words.

    Attributes:
        words: the words of the query.
        broad: whether it searches several fields for some of them.
        held: whether one part searches for all of them.
        required: whether a `must` is being looked at.
    """

    words: frozenset[str]
    broad: bool
    held: bool
    required: bool = False


def _word_queries(query: Any, depth: int, nested: tuple[str, ...]) -> list[WordQuery]:
    if depth == 0 or not isinstance(query, Mapping) or len(query) != 1:
        return []
    ((kind, inner),) = query.items()
    if not isinstance(inner, Mapping):
        return []
    if kind == "bool":
        return _all_word_queries(inner.get("must"), depth, nested) or _all_word_queries(
            inner.get("should"), depth, nested
        )
    if kind == "dis_max":
        return _all_word_queries(inner.get("queries"), depth, nested)
    if kind in _WRAPPERS:
        inside = (*nested, str(inner.get("path"))) if kind == "nested" else nested
        return _word_queries(inner.get(_WRAPPERS[kind]), depth - 1, inside)
    text = _leaf_text(kind, inner)
    return [WordQuery(text, kind, inner, nested)] if text else []


def _all_word_queries(queries: Any, depth: int, nested: tuple[str, ...]) -> list[WordQuery]:
    return [part for query in _as_list(queries) for part in _word_queries(query, depth - 1, nested)]


def _leaf_text(kind: str, inner: Any) -> str | None:
    """The stripped text of a full-text leaf; None for every other query and for a text of no words."""
    text = _raw_text(kind, inner)
    return _without_syntax(kind, text[:MAX_TEXT_CHARS]) if text and kind in SYNTAX_QUERIES else text


def _raw_text(kind: str, inner: Any) -> str | None:
    if not isinstance(inner, Mapping):
        return None
    if kind in FIELD_QUERIES and len(inner) == 1:
        (value,) = inner.values()
        return _plain(value.get("query") if isinstance(value, Mapping) else value)
    return _plain(inner.get("query")) if kind in _TEXT_QUERIES | SYNTAX_QUERIES else None


def _plain(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def _without_syntax(kind: str, text: str) -> str | None:
    """The words of a query_string: operators and what they negate removed; None if it names fields or ranges."""
    if _FIELD_PREFIX.search(text) or _has_range(text) or text.rfind("/") - text.find("/") > 1:
        return None
    return " ".join(_OPERATORS.sub(" ", negations(kind, text).kept).split()) or None


def _has_range(text: str) -> bool:
    """Whether TO stands somewhere between an opening and a closing bracket."""
    opened = min((at for at in map(text.find, "[{") if at >= 0), default=len(text))
    closed = max(map(text.rfind, "]}"))
    return opened < closed and _RANGE_WORD.search(text, opened, closed) is not None


def _compared(text: str) -> str:
    return " ".join(text[:MAX_TEXT_CHARS].casefold().split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text[:MAX_TEXT_CHARS].casefold())


def _relaxed(query: Any, asked: _Asked, depth: int) -> Body | None:
    """The query with the asked words replaced by match_all; None stands for match_all."""
    if depth == 0 or not isinstance(query, Mapping) or len(query) != 1:
        return _whole(query)
    ((kind, inner),) = query.items()
    if kind == "match_all":
        return None
    if _is_words(kind, inner, asked):
        return _exclusion(kind, inner)
    if kind == "bool" and isinstance(inner, Mapping):
        return _relaxed_bool(inner, asked, depth)
    if kind == "dis_max" and isinstance(inner, Mapping):
        return _any_of(_each_relaxed(inner.get("queries"), asked, depth), 1)
    if kind in _WRAPPERS and isinstance(inner, Mapping):
        return _relaxed_wrapper(kind, inner, asked, depth)
    return _whole(query)


def _is_words(kind: str, inner: Any, asked: _Asked) -> bool:
    """Whether a part looks for nothing but the words; of a text too long to be read that is not known."""
    text = _leaf_text(kind, inner)
    if not text or len(_raw_text(kind, inner) or "") > MAX_TEXT_CHARS:
        return False
    found = asked.words.intersection(_words(text))
    if kind in FIELD_QUERIES and asked.required and (asked.broad or (asked.held and found < asked.words)):
        return False
    return found.issuperset(_words(text))


def _exclusion(kind: str, inner: Mapping[str, Any]) -> Body | None:
    """What a leaf of words excludes, such as `-used` in a query string; None if nothing, all of it if that is unclear.

    Each part stands alone, without `minimum_should_match`: that counts the words of the whole text.
    """
    if kind not in SYNTAX_QUERIES:
        return None
    found = negations(kind, _raw_text(kind, inner) or "")
    whole = _whole(inner)
    if not found.clear or len(found.excluded) > MAX_EXCLUDED:
        return {kind: whole}
    options = {key: value for key, value in whole.items() if key != "minimum_should_match"}
    parts = [{kind: {**options, "query": part}} for part in found.excluded]
    return {"bool": {"must_not": parts}} if parts else None


def _relaxed_wrapper(kind: str, inner: Mapping[str, Any], asked: _Asked, depth: int) -> Body | None:
    part = _relaxed(inner.get(_WRAPPERS[kind], _MATCH_ALL), asked, depth - 1)
    if kind in ("function_score", "script_score") and inner.get("min_score") is not None:
        whole = _whole(inner)
        return {kind: whole if _scores_words(kind, inner) else {**whole, "query": part or _MATCH_ALL}}
    if kind != "nested" or part is None:
        return part
    return {"nested": {**{key: inner[key] for key in ("path", "ignore_unmapped") if key in inner}, "query": part}}


def _scores_words(kind: str, inner: Mapping[str, Any]) -> bool:
    """Whether the score that `min_score` asks for may come from the words; then it means nothing without them."""
    if kind == "script_score":
        return _reads_score(inner.get("script"))
    functions = _as_list(inner.get("functions")) or [{key: inner[key] for key in _FUNCTIONS & inner.keys()}]
    replaced = str(inner.get("boost_mode")).lower() == "replace"
    return not replaced or any(map(_function_reads_score, functions))


def _function_reads_score(function: Any) -> bool:
    if not isinstance(function, Mapping) or not function or not function.keys() <= _FUNCTIONS:
        return True
    scored = function.get("script_score")
    return "script_score" in function and _reads_score(scored.get("script") if isinstance(scored, Mapping) else None)


def _reads_score(script: Any) -> bool:
    """Whether a script may read the score of its query; of a stored one that is not known."""
    described = {"source": script} if isinstance(script, str) else script
    if not isinstance(described, Mapping) or not isinstance(described.get("source"), str):
        return True
    return described.get("lang", "painless") not in _KNOWN_LANGUAGES or _SCORE.search(described["source"]) is not None


def _relaxed_bool(inner: Mapping[str, Any], asked: _Asked, depth: int) -> Body | None:
    """All of `filter` and `must_not` as they are, `must` relaxed, and `should` where one of it is needed."""
    filters = [_bare(query) for query in _as_list(inner.get("filter"))]
    must = _each_relaxed(inner.get("must"), replace(asked, required=True), depth)
    filters += [query for query in must if query is not None]
    needed = inner.get("minimum_should_match", 0)
    if needed in (0, "0", "0%") and not (_as_list(inner.get("must")) or _as_list(inner.get("filter"))):
        needed = 1  # Lucene wants at least one of a bool that has nothing else
    if _as_list(inner.get("should")) and needed not in (0, "0", "0%"):
        some = _any_of(_each_relaxed(inner["should"], asked, depth), needed)
        filters += [] if some is None else [some]
    excluded = [_bare(query) for query in _as_list(inner.get("must_not"))]
    if not excluded:
        return _all_of(filters)
    return {"bool": {**({"filter": filters} if filters else {}), "must_not": excluded}}


def _each_relaxed(queries: Any, asked: _Asked, depth: int) -> list[Body | None]:
    return [_relaxed(query, asked, depth - 1) for query in _as_list(queries)]


def _all_of(filters: Sequence[Body]) -> Body | None:
    if len(filters) <= 1:
        return filters[0] if filters else None
    return {"bool": {"filter": list(filters)}}


def _any_of(queries: Sequence[Body | None], needed: Any) -> Body | None:
    """At least `needed` of the queries; None if match_all alone satisfies that."""
    free = sum(query is None for query in queries)
    if free == len(queries) or (free and needed in (1, "1")):
        return None
    return {"bool": {"should": [query or _MATCH_ALL for query in queries], "minimum_should_match": needed}}


def _whole(query: Any) -> Body:
    demanded: Body = _bare(query)
    return demanded


def _bare(query: Any, depth: int = 2 * MAX_DEPTH) -> Any:
    """A copy without `_name` and `inner_hits`: the original keeps them, and OpenSearch refuses some of them twice."""
    if depth == 0:
        return query
    if isinstance(query, Mapping):
        return {key: _bare(value, depth - 1) for key, value in query.items() if key not in ("_name", "inner_hits")}
    return [_bare(item, depth - 1) for item in query] if isinstance(query, list) else query


def _as_list(queries: Any) -> list[Any]:
    if queries is None:
        return []
    return queries if isinstance(queries, list) else [queries]
