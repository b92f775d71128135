"""Explaining: which codes a query has, what each of them is worth, and what each gave to a hit.

Every part of the clause is a named query, and OpenSearch tells the score of each named query of a hit
(`include_named_queries_score`). So that the words have a score of their own too, the lexical query gets a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_plugin.contract.codes import Attribute, ScoredCode
from gram_plugin.search.exact import EQUAL
from gram_plugin.search.exact import NAME as EXACT
from gram_plugin.search.query import NAME_PREFIX, ClauseSettings, boost_of, strongest
from gram_plugin.search.words import Body

LEXICAL = "gram"
"""Name of the lexical query in a search that is explained; no code has it."""

POINTS_PARAMETER = "include_named_queries_score"
"""Parameter of `_search` (2.12 and newer, checked on 2.19.4 and 3.8.0) that turns names of queries into points."""

_MAX_DEPTH = 12
"""The lexical query stands at most so deep in what `enrich` puts around it."""
_NOT_OURS = frozenset({"_source", "fields", "highlight", "sort", "_explanation"})


@dataclass(frozen=True)
class Gain:
    """What one code gave to a hit: its points, and P(code | product) where the index has weights."""

    code: str
    points: float
    weight: float | None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"code": self.code, "points": short(self.points), "weight": self.weight and short(self.weight)}


@dataclass(frozen=True)
class HitPoints:
    """Where the score of one hit comes from; None stands for what OpenSearch does not tell.

    Attributes:
        index: its index.
        id: its id.
        score: the score that it was ranked by; None when the request sorts by something else.
        lexical: points of the words; None too where the words do not match.
        gained: points of all codes together: of each family the best, and a share of the others.
        exact: points for holding an identifier, a phrase or the whole query, if any.
        codes: what each code gives by itself, most first.
        matched: codes of the query that the product carries, known even where points are not.
    """

    index: str
    id: str
    score: float | None
    lexical: float | None
    gained: float | None
    exact: float
    codes: tuple[Gain, ...]
    matched: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        points = {"score": self.score, "lexical": self.lexical, "gained": self.gained, "exact": self.exact}
        shown = {name: value if value is None else short(value) for name, value in points.items()}
        codes = [gain.document() for gain in self.codes] or [{"code": code} for code in self.matched]
        return {"_index": self.index, "_id": self.id, **shown, "codes": codes}


def shown_codes(codes: Sequence[ScoredCode], settings: ClauseSettings) -> list[dict[str, Any]]:
    """The codes of a clause, heaviest first; `boost` is what a product gains that surely has the code."""
    return [
        {
            "code": scored.code.text,
            "probability": short(scored.probability),
            "rarity": short(scored.rarity),
            "boost": boost_of(scored, settings),
        }
        for scored in strongest(codes, settings.max_codes)
    ]


def with_named_words(enriched: Mapping[str, Any], lexical: Any) -> Body:
    """An enriched body whose lexical query has a name; hits and scores stay the same.

    Args:
        enriched: what `enrich` made.
        lexical: the very query that it was made of, as it stands in there.
    """
    return {key: _named(value, lexical, _MAX_DEPTH) if key == "query" else value for key, value in enriched.items()}


def _named(part: Any, lexical: Any, depth: int) -> Any:
    if part is lexical:
        return {"bool": {"must": [part], "_name": LEXICAL}}
    if depth and isinstance(part, dict):
        return {key: _named(value, lexical, depth - 1) for key, value in part.items()}
    if depth and isinstance(part, list):
        return [_named(item, lexical, depth - 1) for item in part]
    return part


def points_of(hit: Mapping[str, Any], codes: Sequence[ScoredCode], settings: ClauseSettings) -> HitPoints:
    """Where the score of a hit comes from, as its `matched_queries` tell: names alone, or names with points."""
    named = hit.get("matched_queries") or {}
    points: Mapping[str, float] = named if isinstance(named, Mapping) else {}
    weighed = {scored.code.text: scored for scored in strongest(codes, settings.max_codes)}
    matched = [name.removeprefix(NAME_PREFIX) for name in named if isinstance(name, str)]
    gains = [_gain(weighed[code], points, settings) for code in matched if code in weighed and points]
    return HitPoints(
        index=str(hit.get("_index", "")),
        id=str(hit.get("_id", "")),
        score=hit.get("_score"),
        lexical=points.get(LEXICAL),
        gained=_together(gains, weighed, settings.tie_breaker) if points or not matched else None,
        exact=sum(value for name, value in points.items() if is_exact(name)),
        codes=tuple(sorted(gains, key=lambda gain: (-gain.points, gain.code))),
        matched=tuple(code for code in matched if code in weighed),
    )


def is_exact(name: str) -> bool:
    """Whether a named query is the part that keeps bearers of the exact words on top."""
    return name in (EXACT, EQUAL) or name.startswith(f"{EXACT}:")


def without_points(answer: Mapping[str, Any], *, keep_points: bool) -> dict[str, Any]:
    """The answer as it would be unexplained: names without points, unless the client wanted them; no name of ours."""
    plain: dict[str, Any] = {key: _plain(value, keep_points=keep_points) for key, value in answer.items()}
    return plain


def _plain(value: Any, *, keep_points: bool) -> Any:
    if isinstance(value, list):
        return [_plain(item, keep_points=keep_points) for item in value]
    if not isinstance(value, dict):
        return value
    if "_id" in value and "matched_queries" in value:
        value = dict(_renamed(value, keep_points=keep_points))
    return {key: item if key in _NOT_OURS else _plain(item, keep_points=keep_points) for key, item in value.items()}


def _renamed(hit: Mapping[str, Any], *, keep_points: bool) -> Iterator[tuple[str, Any]]:
    for key, value in hit.items():
        if key != "matched_queries":
            yield key, value
            continue
        if isinstance(value, dict) and keep_points:
            named: Any = {name: points for name, points in value.items() if name != LEXICAL}
        else:
            named = [name for name in value if name != LEXICAL]
        if named:
            yield key, named


def _gain(scored: ScoredCode, points: Mapping[str, float], settings: ClauseSettings) -> Gain:
    given = float(points[NAME_PREFIX + scored.code.text])
    return Gain(scored.code.text, given, given / boost_of(scored, settings) if settings.weighted else None)


def _together(gains: Sequence[Gain], weighed: Mapping[str, ScoredCode], tie_breaker: float) -> float:
    """As the clause adds them up: `dis_max` within a family, a sum over families."""
    families: dict[Attribute, list[float]] = {}
    for gain in gains:
        families.setdefault(weighed[gain.code].code.family, []).append(gain.points)
    return sum(max(points) + tie_breaker * (sum(points) - max(points)) for points in families.values())


def short(number: float) -> float:
    """As many digits as a score of 32 bits has."""
    return float(f"{number:.7g}")
