"""The clause: how codes of a query become one boosted part of the customer's own search body.

Everything here is dict to dict. `enrich` puts the clause beside the lexical query:

    rerank   bool{must: lexical, should: clause}                          same hits, better order
    recall   bool{should: [lexical, clause], minimum_should_match: 1}     finds what the words miss

Where the words name one thing, optional parts beside it keep its bearers above what codes lift, see `exact`.
In `recall` whatever the lexical query demands besides its words also binds the clause, see `demands`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, ScoredCode
from gram_plugin.errors import ConfigError, RequestError
from gram_plugin.search.exact import exact_clauses, most_points
from gram_plugin.search.rescoring import READS_SCORE, can_rescore, rescored
from gram_plugin.search.words import Body, demands, find_query_text

__all__ = [
    "ClauseSettings",
    "GramExtension",
    "Mode",
    "boost_of",
    "code_clause",
    "enrich",
    "extension_of",
    "find_query_text",
    "needs_rescue",
    "reason_untouched",
    "strongest",
    "take_extension",
]

NAME_PREFIX = "gram:"
"""Every code's part of the clause is a named query `gram:<code>`; but for a rescore an answer tells which matched."""

ONE = "1"
"""A text: where ml-commons hands the clause to OpenSearch, it makes 1.0 of the number 1, which OpenSearch refuses."""

MAX_BUDGET_MS = 60_000.0
_EXTENSION_KEYS = ("query", "mode", "budget_ms", "explain")


class Mode(StrEnum):
    """What codes may do to a search."""

    RERANK = "rerank"
    RECALL = "recall"
    RESCUE = "rescue"
    OFF = "off"


@dataclass(frozen=True)
class ClauseSettings:
    """How strong the clause is and where it looks.

    Attributes:
        strength: λ in points of the index's lexical score, > 0: what a product gains by one code when both
            probabilities are 1. It is `IndexCalibration.points` of the index.
        tie_breaker: share, 0 to 1, that the weaker codes of a family add to its strongest.
        max_codes: most codes in the clause; the heaviest are kept.
        field: object field that holds `codes` and `weights`.
        weighted: whether the index maps `weights`; otherwise products' own probabilities count as 1.
        keep_exact: whether products that hold an identifier, a quoted phrase or the whole query stay above others.
        titles: fields that hold a product's title as one keyword; products with a title that is the query stay above
            others too.
        window: in `rerank`, hits of a shard that codes may move, where `can_rescore` the search; 0 moves all.
    """

    strength: float
    tie_breaker: float = 0.3
    max_codes: int = MAX_CODES
    field: str = "gram"
    weighted: bool = True
    keep_exact: bool = True
    window: int = 0
    titles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise ConfigError(f"strength must be finite and > 0, found {self.strength}")
        if not 0 <= self.tie_breaker <= 1:
            raise ConfigError(f"tie_breaker must be between 0 and 1, found {self.tie_breaker}")
        if self.max_codes < 1:
            raise ConfigError(f"max_codes must be at least 1, found {self.max_codes}")
        if self.window < 0:
            raise ConfigError(f"window must be at least 0, found {self.window}")


@dataclass(frozen=True)
class GramExtension:
    """What a client asked of us in `ext.gram`; None means as configured."""

    query: str | None = None
    mode: Mode | None = None
    budget_ms: float | None = None
    explain: bool = False


def code_clause(codes: Sequence[ScoredCode], generation: str, settings: ClauseSettings) -> Body | None:
    """The one clause for codes of a query, or None when there is nothing to add.

    The codes of one family (same leading attribute) stand in a `dis_max`, so nested codes do not
    count twice; families add up in a `bool`. A product thus gains at most λ points by each family's best code,
    and `tie_breaker` times the rest. At most `max_codes` leaf clauses.
    """
    families: dict[Attribute, list[Body]] = {}
    for scored in strongest(codes, settings.max_codes):
        families.setdefault(scored.code.family, []).append(_code_query(scored, generation, settings))
    parts = [_family_query(queries, settings.tie_breaker) for queries in families.values()]
    if len(parts) <= 1:
        return parts[0] if parts else None
    return {"bool": {"should": parts, "minimum_should_match": ONE}}


def enrich(
    body: Mapping[str, Any],
    codes: Sequence[ScoredCode],
    generation: str,
    settings: ClauseSettings,
    mode: Mode,
    *,
    text: str | None = None,
) -> Body:
    """A new search body with the clause added; `body` itself is never changed.

    All keys but `query` (in `rerank` also `min_score`, or `rescore` alone) are the input's own. `Mode.RESCUE` gives
    the `recall` body: whether it is needed is for the caller to decide after the lexical answer, see `needs_rescue`.

    Args:
        body: a search body as sent by the client, without `ext.gram`.
        codes: what the query's text was decoded to.
        generation: model generation of `codes`.
        settings: strength and fields.
        mode: what the codes may do.
        text: the query's text if the client gave it apart from the body; what the body says if None.
    """
    enriched = dict(body)
    clause = code_clause(codes, generation, settings)
    if clause is None or reason_untouched(body, mode) is not None:
        return enriched
    lexical = body.get("query", {"match_all": {}})
    kept = exact_clauses(lexical, text, most_points(clause), settings.titles) if settings.keep_exact else []
    if mode is Mode.RERANK and settings.window and can_rescore(body):
        return rescored(enriched, [clause, *kept], settings.window)
    if mode is Mode.RERANK:
        enriched["query"] = _reranked(_with_min_score(lexical, enriched.pop("min_score", None)), [clause, *kept])
    else:
        bound = _bound(clause, demands(lexical, text or find_query_text(body)))
        found = {"bool": {"should": [lexical, bound], "minimum_should_match": ONE}}
        enriched["query"] = _reranked(found, kept) if kept else found
    return enriched


def reason_untouched(body: Mapping[str, Any], mode: Mode) -> str | None:
    """Why `enrich` returns this body as it is, as one word for headers and counters; None if it does not.

    `no-query`: nothing is searched for, or only suggestions. `hybrid`: that query must stand alone at the top.
    `no-score`: `rerank` could change nothing, because the request sorts by something else than `_score` or
    asks for no hits, and nothing else in it reads scores. In `recall` such a request is enriched all the same:
    its hits, totals and facets must be those of the page sorted by relevance.
    """
    if mode is Mode.OFF:
        return "off"
    query = body.get("query", {"match_all": {}})
    if not isinstance(query, Mapping) or len(query) != 1 or ("query" not in body and "suggest" in body):
        return "no-query"
    if "hybrid" in query:
        return "hybrid"
    return "no-score" if mode is Mode.RERANK and not _score_matters(body) else None


def needs_rescue(response: Mapping[str, Any], fewer_than: int) -> bool:
    """Whether a lexical answer found fewer hits than wanted.

    Looks at the total, a property of the query and not of the page, so that all pages of a search are
    decided alike. Without a total (`track_total_hits: false`) only an empty page counts. An answer that timed out is
    never rescued: the second search would only add to the load.
    """
    hits = response.get("hits")
    if not isinstance(hits, Mapping) or response.get("timed_out") is True:
        return False
    total = hits.get("total")
    found = total.get("value") if isinstance(total, Mapping) else total
    if isinstance(found, int) and found >= 0:
        return found < fewer_than
    return fewer_than > 0 and hits.get("hits") == []


def take_extension(body: Mapping[str, Any]) -> tuple[Body, GramExtension | None]:
    """The body without `ext.gram`, which OpenSearch would refuse, and what it said.

    Raises:
        RequestError: `ext.gram` has an unknown key or a value of the wrong kind.
    """
    extensions = body.get("ext")
    if not isinstance(extensions, Mapping) or "gram" not in extensions:
        return dict(body), None
    extension = extension_of(extensions["gram"])
    others = {key: value for key, value in extensions.items() if key != "gram"}
    rest = {key: others if key == "ext" else value for key, value in body.items() if key != "ext" or others}
    return rest, extension


def strongest(codes: Iterable[ScoredCode], limit: int) -> list[ScoredCode]:
    """The codes that a clause holds: distinct, with a usable weight, heaviest first, equal ones by text."""
    usable = (code for code in codes if math.isfinite(code.probability * code.rarity) and _weight(code) > 0)
    best: dict[Code, ScoredCode] = {}
    for scored in sorted(usable, key=lambda scored: (-_weight(scored), scored.code.text)):
        best.setdefault(scored.code, scored)
    return list(best.values())[:limit]


def _weight(scored: ScoredCode) -> float:
    """P(code | query) · rarity: what half of the catalogue carries tells little, however sure it is."""
    return min(scored.probability, 1.0) * scored.rarity


def boost_of(scored: ScoredCode, settings: ClauseSettings) -> float:
    """λ · P(code|query) · rarity(code): the points that a product gains which surely has the code."""
    return float(f"{settings.strength * _weight(scored):.6g}")


def _code_query(scored: ScoredCode, generation: str, settings: ClauseSettings) -> Body:
    """λ · P(code|query) · rarity(code) · P(code|product), or without the last factor where weights are not mapped."""
    stored = scored.code.stored(generation)
    scoring: Body = {
        "boost": boost_of(scored, settings),
        "_name": f"{NAME_PREFIX}{scored.code.text}",
    }
    if settings.weighted:
        return {"rank_feature": {"field": f"{settings.field}.weights.{stored}", "linear": {}, **scoring}}
    # A bare term scores 1 in 3.x and an IDF in 2.x; constant_score is the same in both.
    return {"constant_score": {"filter": {"term": {f"{settings.field}.codes": stored}}, **scoring}}


def _family_query(queries: list[Body], tie_breaker: float) -> Body:
    return queries[0] if len(queries) == 1 else {"dis_max": {"queries": queries, "tie_breaker": tie_breaker}}


def _reranked(found: Any, optional: list[Body]) -> Body:
    return {"bool": {"must": [found], "should": optional}}


def _with_min_score(lexical: Any, min_score: Any) -> Any:
    """Moves the request's `min_score` to the lexical query, so that codes cannot lift a hit over it."""
    return lexical if min_score is None else {"function_score": {"query": lexical, "min_score": min_score}}


def _bound(clause: Body, filters: list[Body]) -> Body:
    return {"bool": {"must": [clause], "filter": filters}} if filters else clause


def _score_matters(body: Mapping[str, Any]) -> bool:
    sort = body.get("sort")
    unsorted = sort is None or sort == [] or body.get("track_scores") is True
    if (unsorted or "_score" in json.dumps(sort)) and body.get("size") != 0:
        return True
    rest = json.dumps([body.get(key) for key in ("aggs", "aggregations", "collapse", "script_fields")])
    return any(word in rest for word in READS_SCORE)


def extension_of(value: Any, place: str = "ext.gram") -> GramExtension:
    """What an object with the keys of `ext.gram` says.

    Raises:
        RequestError: an unknown key or a value of the wrong kind; the message names `place`.
    """
    if not isinstance(value, Mapping):
        raise RequestError(f"{place} must be an object, found {_shown(value)}", next_step=_keys_help())
    unknown = sorted(set(value) - set(_EXTENSION_KEYS))
    if unknown:
        raise RequestError(f"{place} has unknown keys: {', '.join(unknown)}", next_step=_keys_help())

    def checked(key: str, wanted: str, fits: Callable[[Any], bool]) -> Any:
        found = value.get(key)
        if found is not None and not fits(found):
            raise RequestError(f"{place}.{key} is {_shown(found)}", next_step=f"give {wanted}, or leave it out")
        return found

    mode = checked("mode", f"one of {', '.join(Mode)}", lambda found: isinstance(found, str) and found in set(Mode))
    return GramExtension(
        query=checked("query", "a string", lambda found: isinstance(found, str)),
        mode=None if mode is None else Mode(mode),
        budget_ms=checked("budget_ms", f"a number above 0 and at most {MAX_BUDGET_MS:g}", _is_budget),
        explain=checked("explain", "true or false", lambda found: isinstance(found, bool)) or False,
    )


def _is_budget(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and 0 < found <= MAX_BUDGET_MS


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


def _keys_help() -> str:
    return f"its keys are {', '.join(_EXTENSION_KEYS)}"
