"""Moves: where products stand by their words alone and where with codes, side by side, with what moved each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_plugin.contract.codes import ScoredCode
from gram_plugin.contract.text import field_values
from gram_plugin.search.explaining import HitPoints, points_of, short, shown_codes
from gram_plugin.search.query import ClauseSettings

Hit = Mapping[str, Any]


@dataclass(frozen=True)
class Placed:
    """A product on one of the two pages.

    Attributes:
        index: its index.
        id: its id.
        label: what a person knows it by.
        before: rank by the words alone, from 1; None where it is not among the hits that were looked at.
        after: rank with codes, likewise.
        points: where its score with codes comes from; None where it is not among those hits.
        lexical: its score by the words alone, as far as that was seen.
    """

    index: str
    id: str
    label: str
    before: int | None
    after: int | None
    points: HitPoints | None
    lexical: float | None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        points = self.points.document() if self.points else {"_index": self.index, "_id": self.id}
        return {**points, "lexical": self.lexical, "label": self.label, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Moves:
    """The first products by the words alone and with codes, each in its order."""

    before: tuple[Placed, ...]
    after: tuple[Placed, ...]


@dataclass(frozen=True)
class Explanation:
    """Why a query's page looks as it does with codes."""

    index: str
    query: str
    mode: str
    generation: str
    settings: ClauseSettings
    codes: tuple[ScoredCode, ...]
    depth: int
    moves: Moves

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "index": self.index,
            "query": self.query,
            "mode": self.mode,
            "generation": self.generation,
            "strength": short(self.settings.strength),
            "codes": shown_codes(self.codes, self.settings),
            "depth": self.depth,
            "lexical": [placed.document() for placed in self.moves.before],
            "hits": [placed.document() for placed in self.moves.after],
        }


def moves_of(
    lexical: Sequence[Hit],
    enriched: Sequence[Hit],
    codes: Sequence[ScoredCode],
    settings: ClauseSettings,
    *,
    shown: int,
    label_field: str | None,
) -> Moves:
    """The first `shown` products of both answers, each with its rank in both.

    Args:
        lexical: hits of the words alone, best first, more than are shown.
        enriched: hits with codes, best first, with names of queries.
        codes: codes of the query.
        settings: how strong they are.
        shown: how many products of each.
        label_field: field of the document that people know a product by; its first text if None.
    """
    before = {_key(hit): rank for rank, hit in enumerate(lexical, start=1)}
    after = {_key(hit): rank for rank, hit in enumerate(enriched, start=1)}
    scores = {_key(hit): hit.get("_score") for hit in lexical}
    points = {_key(hit): points_of(hit, codes, settings) for hit in enriched}

    def placed(hit: Hit) -> Placed:
        key = _key(hit)
        found = points.get(key)
        words = found.lexical if found and found.lexical is not None else scores.get(key)
        label = label_of(hit.get("_source") or {}, label_field)
        return Placed(*key, label, before.get(key), after.get(key), found, words)

    return Moves(tuple(map(placed, lexical[:shown])), tuple(map(placed, enriched[:shown])))


def label_of(source: Mapping[str, Any], field: str | None) -> str:
    """What a person knows a product by: the text of a field, else the first text of the document."""
    if field is not None:
        return " ".join(field_values(source, field))
    return next((value for value in source.values() if isinstance(value, str) and " " in value), "")


def _key(hit: Hit) -> tuple[str, str]:
    return str(hit.get("_index", "")), str(hit["_id"])
