"""What is told of codes and hits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.search.explaining import Gain, HitPoints, points_of, shown_codes, with_named_words, without_points
from gram_plugin.search.query import ClauseSettings, Mode, enrich

SETTINGS = ClauseSettings(strength=2.0, tie_breaker=0.5)
SOFA, RED_SOFA, ACME = (
    ScoredCode(Code.parse("type=sofa"), 0.8, 0.5),
    ScoredCode(Code.parse("type=sofa|colour=red"), 0.4),
    ScoredCode(Code.parse("brand=acme"), 1.0),
)
CODES = (SOFA, RED_SOFA, ACME)


def hit(matched: Any, score: float | None = 7.0) -> dict[str, Any]:
    """A hit as OpenSearch gives it."""
    return {"_index": "shop", "_id": "1", "_score": score, "matched_queries": matched}


def test_codes_are_shown_with_what_they_are_worth() -> None:
    """Probability, rarity, and the points for a product that surely has the code; heaviest first, as many as count."""
    limited = ClauseSettings(strength=2.0, max_codes=2)
    assert shown_codes([*CODES, SOFA], limited) == [
        {"code": "brand=acme", "probability": 1.0, "rarity": 1.0, "boost": 2.0},
        {"code": "type=sofa", "probability": 0.8, "rarity": 0.5, "boost": 0.8},
    ]


def test_points_add_up_as_in_the_clause() -> None:
    """Of a family the best code counts in full and the other by the tie-breaker; families add up."""
    codes = {"gram:type=sofa": 0.4, "gram:type=sofa|colour=red": 0.2, "gram:brand=acme": 1.0}
    gains = (Gain("brand=acme", 1.0, 0.5), Gain("type=sofa", 0.4, 0.5), Gain("type=sofa|colour=red", 0.2, 0.25))
    order = ("type=sofa", "type=sofa|colour=red", "brand=acme")
    expected = HitPoints("shop", "1", 7.0, 3.0, pytest.approx(1.0 + 0.4 + 0.5 * 0.2), 0.0, gains, order)
    assert points_of(hit({"gram": 3.0, "mine": 1.0, **codes}), CODES, SETTINGS) == expected


def test_exact_matches_have_points_of_their_own() -> None:
    """What keeps a model number on top is neither of the words nor of codes, whatever the number is written like."""
    matched = {"gram": 3.0, "gram:exact": 2.5, "gram:exact:a=1": 1.5, "gram:equal": 0.5}
    assert points_of(hit(matched), CODES, SETTINGS) == HitPoints("shop", "1", 7.0, 3.0, 0.0, 4.5, (), ())


@pytest.mark.parametrize(
    ("matched", "lexical", "gained", "codes"),
    [
        ({"gram:type=sofa": 0.4}, None, 0.4, ("type=sofa",)),
        (["gram", "gram:type=sofa"], None, None, ("type=sofa",)),
        ([], None, 0.0, ()),
        (None, None, 0.0, ()),
    ],
)
def test_what_opensearch_does_not_tell_is_not_made_up(
    matched: Any, lexical: Any, gained: Any, codes: tuple[str, ...]
) -> None:
    """Found by a code alone: no points of the words. Names without points (before 2.12): which codes, no sums."""
    found = points_of(hit(matched), CODES, SETTINGS)
    assert (found.lexical, found.gained, found.matched) == (lexical, gained, codes)
    assert [entry["code"] for entry in found.document()["codes"]] == list(codes)


def test_without_weights_no_product_weight_is_told() -> None:
    """An index of keywords alone says nothing of P(code | product)."""
    settings = ClauseSettings(strength=2.0, weighted=False)
    assert points_of(hit({"gram:brand=acme": 2.0}), CODES, settings).codes == (Gain("brand=acme", 2.0, None),)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
@pytest.mark.parametrize(
    "query",
    [
        {"match": {"title": "red couch"}},
        {"bool": {"must": [{"match": {"title": "red couch"}}], "filter": [{"term": {"brand": "b"}}]}},
        {
            "bool": {
                "should": [
                    {"multi_match": {"query": "red couch", "fields": ["title", "brand"]}},
                    {"match": {"brand": "couch"}},
                ]
            }
        },
    ],
)
def test_the_name_of_the_words_changes_nothing_else(query: Any, mode: Mode) -> None:
    """The clause and what binds it are those of the search without the name."""
    body = {"query": query, "size": 3, "min_score": 0.2}
    plain = enrich(body, CODES, "g1", SETTINGS, mode)
    named = with_named_words(enrich(body, CODES, "g1", SETTINGS, mode), query)
    assert named != plain
    assert _with_bare_words(named, query) == plain


def _with_bare_words(value: Any, query: Any) -> Any:
    if value == {"bool": {"must": [query], "_name": "gram"}}:
        return query
    if isinstance(value, dict):
        return {key: _with_bare_words(item, query) for key, item in value.items()}
    return [_with_bare_words(item, query) for item in value] if isinstance(value, list) else value


POINTED = ("gram", "gram:a=1", "mine")


def test_the_answer_looks_as_if_it_were_not_explained() -> None:
    """Names without points, in hits, inner and top hits; ours for the words is gone, a document's own keys stay."""
    pointed = {"_id": "1", "matched_queries": dict.fromkeys(POINTED, 1.0), "_source": {"matched_queries": {"gram": 1}}}
    words_alone = {"_id": "2", "matched_queries": {"gram": 1.0}}
    answer = {
        "hits": {"hits": [{**pointed, "inner_hits": {"g": {"hits": {"hits": [pointed]}}}}, words_alone]},
        "aggregations": {"top": {"hits": {"hits": [pointed]}}},
    }
    named = {"_id": "1", "matched_queries": ["gram:a=1", "mine"], "_source": {"matched_queries": {"gram": 1}}}
    assert without_points(answer, keep_points=False) == {
        "hits": {"hits": [{**named, "inner_hits": {"g": {"hits": {"hits": [named]}}}}, {"_id": "2"}]},
        "aggregations": {"top": {"hits": {"hits": [named]}}},
    }
    kept = without_points({"hits": {"hits": [pointed]}}, keep_points=True)
    assert kept["hits"]["hits"][0]["matched_queries"] == {"gram:a=1": 1.0, "mine": 1.0}


NAMES = st.lists(st.text(max_size=5), unique=True, min_size=1, max_size=4)


@given(st.lists(NAMES.filter(lambda names: "gram" not in names)))
def test_names_of_the_client_stay(named: list[list[str]]) -> None:
    """Whatever a client calls his queries, they are told as they were; ours for the words is not."""
    hits = [{"_id": "1", "matched_queries": names} for names in named]
    ours = [{"_id": "1", "matched_queries": ["gram", *names]} for names in named]
    assert without_points({"hits": {"hits": ours}}, keep_points=False) == {"hits": {"hits": hits}}
