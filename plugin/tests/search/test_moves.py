"""Where products stand before and after."""

from __future__ import annotations

from typing import Any

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.search.moves import Placed, label_of, moves_of
from gram_plugin.search.query import ClauseSettings

SOFA = ScoredCode(Code.parse("type=sofa"), 0.5)
SETTINGS = ClauseSettings(strength=2.0)


def hit(identifier: str, score: float, **more: Any) -> dict[str, Any]:
    """A hit with a title."""
    source = {"sku": identifier, "title": f"Product {identifier}"}
    return {"_index": "shop", "_id": identifier, "_score": score, "_source": source, **more}


def coded(identifier: str, words: float | None, points: float) -> dict[str, Any]:
    """A hit of the search with codes."""
    named = {} if words is None else {"gram": words}
    named |= {"gram:type=sofa": points} if points else {}
    return hit(identifier, (words or 0) + points, matched_queries=named)


def brief(placed: Placed) -> tuple[str, int | None, int | None, float | None]:
    """Id, ranks, and points of the words."""
    return placed.id, placed.before, placed.after, placed.lexical


def test_products_have_both_ranks() -> None:
    """One that rose, one that fell, one that only a code found, and one that is no longer among those looked at."""
    before = [hit("a", 3.0), hit("b", 2.0), hit("c", 1.0), hit("d", 0.5)]
    after = [coded("b", 2.0, 2.0), coded("a", 3.0, 0.0), coded("e", None, 1.5), coded("c", 1.0, 0.0)]
    found = moves_of(before, after, [SOFA], SETTINGS, shown=3, label_field=None)
    assert list(map(brief, found.before)) == [("a", 1, 2, 3.0), ("b", 2, 1, 2.0), ("c", 3, 4, 1.0)]
    assert list(map(brief, found.after)) == [("b", 2, 1, 2.0), ("a", 1, 2, 3.0), ("e", None, 3, None)]
    assert {placed.label for placed in found.before} == {"Product a", "Product b", "Product c"}


def test_equal_ids_of_two_indices_are_two_products() -> None:
    """An alias may hold the same id twice."""
    before = [hit("a", 3.0), {**hit("a", 2.0), "_index": "other"}]
    found = moves_of(before, list(reversed(before)), [], SETTINGS, shown=2, label_field="sku")
    assert [(placed.index, placed.before, placed.after) for placed in found.before] == [("shop", 1, 2), ("other", 2, 1)]


def test_a_product_of_the_words_alone_is_told_too() -> None:
    """As JSON a product without a place among those with codes has its ranks, and its points by the words."""
    (placed,) = moves_of([hit("a", 3.0)], [], [SOFA], SETTINGS, shown=1, label_field="title").before
    expected = {"_index": "shop", "_id": "a", "lexical": 3.0, "label": "Product a", "before": 1, "after": None}
    assert placed.document() == expected


def test_label_is_the_field_or_the_first_text() -> None:
    """Without a field the first value that is more than one word."""
    source = {"sku": "x1", "n": 3, "name": "Grey sofa", "parts": {"de": ["Sofa", "grau"]}}
    assert [label_of(source, field) for field in (None, "parts.de", "missing")] == ["Grey sofa", "Sofa grau", ""]
    assert label_of({"sku": "x1"}, None) == ""
