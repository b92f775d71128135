"""Explaining: which codes a query has, what each of them is worth, and what each gave to a hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gram_plugin.contract.codes import ScoredCode
from gram_plugin.search.query import ClauseSettings, boost_of, strongest


def shown_codes(codes: Sequence[ScoredCode], settings: ClauseSettings) -> list[dict[str, Any]]:
    """The codes of a clause, heaviest first; `boost` is what a product gains that surely has the code."""
    return [
        {
            "code": scored.code.text,
            "probability": _short(scored.probability),
            "rarity": _short(scored.rarity),
            "boost": boost_of(scored, settings),
        }
        for scored in strongest(codes, settings.max_codes)
    ]


def _short(number: float) -> float:
    return float(f"{number:.6g}")
