"""Tests of the clause and of putting it beside a customer's query."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.errors import ConfigError, RequestError
from gram_plugin.search.query import (
    ClauseSettings,
    GramExtension,
    Mode,
    code_clause,
    enrich,
    needs_rescue,
    reason_untouched,
    take_extension,
)

SETTINGS = ClauseSettings(strength=10.0, tie_breaker=0.3, max_codes=10)
LEXICAL = {"multi_match": {"query": "hp laptop", "fields": ["title^3"]}}


def scored(text: str, probability: float, rarity: float = 1.0) -> ScoredCode:
    """A code from its text."""
    return ScoredCode(Code.parse(text), probability, rarity)


def feature(text: str, boost: float) -> dict[str, Any]:
    """What the clause says of one code of generation g1."""
    return {"rank_feature": {"field": f"gram.weights.g1/{text}", "linear": {}, "boost": boost, "_name": f"gram:{text}"}}


NOTEBOOK = [scored("type=notebook", 0.5)]
CLAUSE = feature("type=notebook", 5.0)


def test_one_code_is_one_rank_feature() -> None:
    """Points are strength times query weight; the index multiplies by the product's weight."""
    assert code_clause(NOTEBOOK, "g1", SETTINGS) == CLAUSE


def test_index_without_weights_gets_a_constant_score() -> None:
    """Without `rank_features` the code is a keyword that scores the same in every version of OpenSearch."""
    settings = ClauseSettings(strength=10.0, field="codes_of", weighted=False)
    assert code_clause(NOTEBOOK, "g1", settings) == {
        "constant_score": {
            "filter": {"term": {"codes_of.codes": "g1/type=notebook"}},
            "boost": 5.0,
            "_name": "gram:type=notebook",
        }
    }


def test_codes_of_one_family_do_not_count_twice() -> None:
    """Nested codes stand in a dis_max with a tie-breaker; families add up; everything is one clause."""
    codes = [scored("type=notebook|brand=hp", 0.4), scored("brand=hp", 0.2), scored("type=notebook", 0.9)]
    family = [feature("type=notebook", 9.0), feature("type=notebook|brand=hp", 4.0)]
    assert code_clause(codes, "g1", SETTINGS) == {
        "bool": {
            "should": [{"dis_max": {"queries": family, "tie_breaker": 0.3}}, feature("brand=hp", 2.0)],
            "minimum_should_match": "1",
        }
    }


def test_most_probable_codes_are_kept_once() -> None:
    """The clause is bounded; equal probabilities are ordered by text; a code twice counts with its better weight."""
    texts = {"type=x|brand=a": 0.1, "type=x|brand=b": 0.1, "type=x|brand=c": 0.3, "type=x|brand=d": 0.25}
    codes = [scored(text, probability) for text, probability in texts.items()] + [scored("type=x|brand=c", 0.2)]
    settings = ClauseSettings(strength=10.0, tie_breaker=0.0, max_codes=3)
    queries = [feature("type=x|brand=c", 3.0), feature("type=x|brand=d", 2.5), feature("type=x|brand=a", 1.0)]
    assert code_clause(codes, "g1", settings) == {"dis_max": {"queries": queries, "tie_breaker": 0.0}}


@given(
    strength=st.floats(1e-3, 1e3), probability=st.floats(1e-6, 1.0), rarity=st.floats(0.01, 1.0), weighted=st.booleans()
)
def test_a_boost_is_strength_times_probability_times_rarity(
    strength: float, probability: float, rarity: float, weighted: bool
) -> None:
    """Whether the index maps weights or not, to six digits."""
    settings = ClauseSettings(strength=strength, weighted=weighted)
    clause = code_clause([scored("type=x", probability, rarity)], "g1", settings)
    assert clause is not None
    (part,) = clause.values()
    assert part["boost"] == pytest.approx(strength * probability * rarity, rel=1e-5)


def test_a_boost_is_written_with_six_digits() -> None:
    """Half of a third of ten points; a probability above one counts as one."""
    third = scored("type=x", 0.5, 1 / 3)
    assert code_clause([third], "g1", SETTINGS) == feature("type=x", 1.66667)
    assert code_clause([scored("type=x", 7.0, 0.5)], "g1", SETTINGS) == feature("type=x", 5.0)


def test_the_heaviest_codes_are_kept() -> None:
    """Too many codes: what half of the catalogue carries goes before what is less likely but tells more."""
    codes = [
        scored("type=x", 0.9, 0.1),
        scored("type=x|brand=a", 0.4, 0.5),
        scored("type=x|brand=b", 0.3, 1.0),
        scored("type=x|brand=c", 0.5, 0.3),
    ]
    settings = ClauseSettings(strength=10.0, tie_breaker=0.0, max_codes=3)
    queries = [feature("type=x|brand=b", 3.0), feature("type=x|brand=a", 2.0), feature("type=x|brand=c", 1.5)]
    assert code_clause(codes, "g1", settings) == {"dis_max": {"queries": queries, "tie_breaker": 0.0}}


def test_a_code_twice_counts_with_its_heavier_weight() -> None:
    """Which of the two is likelier does not matter."""
    codes = [scored("type=x", 0.9, 0.1), scored("type=x", 0.3, 0.5)]
    assert code_clause(codes, "g1", SETTINGS) == feature("type=x", 1.5)


@pytest.mark.parametrize("unusable", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_weight_makes_no_clause(unusable: float) -> None:
    """A boost that OpenSearch would refuse never reaches it."""
    assert code_clause([scored("type=a", unusable), scored("type=b", 0.5, unusable)], "g1", SETTINGS) is None


@pytest.mark.parametrize(
    "wrong",
    [{"strength": 0}, {"strength": float("nan")}, {"strength": 1, "tie_breaker": 2}, {"strength": 1, "max_codes": 0}],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    """Numbers that make no sense are refused when the settings are made."""
    with pytest.raises(ConfigError):
        ClauseSettings(**wrong)


def test_rerank_adds_the_clause_as_optional() -> None:
    """The lexical query alone decides what is found; all else of the request is as it was."""
    rest = {"from": 10, "size": 5, "aggs": {"b": {"terms": {"field": "brand"}}}, "ext": {"ubi": {"query_id": "1"}}}
    assert enrich({"query": LEXICAL, **rest}, NOTEBOOK, "g1", SETTINGS, Mode.RERANK) == {
        "query": {"bool": {"must": [LEXICAL], "should": [CLAUSE]}},
        **rest,
    }


def test_rerank_keeps_the_meaning_of_min_score() -> None:
    """A code cannot lift a hit over the limit: it is applied to the lexical score."""
    limited = {"function_score": {"query": LEXICAL, "min_score": 2.5}}
    assert enrich({"query": LEXICAL, "min_score": 2.5}, NOTEBOOK, "g1", SETTINGS, Mode.RERANK) == {
        "query": {"bool": {"must": [limited], "should": [CLAUSE]}}
    }


@pytest.mark.parametrize("mode", [Mode.RECALL, Mode.RESCUE])
def test_recall_takes_words_or_codes(mode: Mode) -> None:
    """A query of nothing but words leaves the clause free; rescue has the same body."""
    assert enrich({"query": LEXICAL, "min_score": 1}, NOTEBOOK, "g1", SETTINGS, mode) == {
        "query": {"bool": {"should": [LEXICAL, CLAUSE], "minimum_should_match": "1"}},
        "min_score": 1,
    }


FILTER = {"term": {"in_stock": True}}
EXCLUDED = {"term": {"brand": "acer"}}
WORDS = {"match": {"title": {"query": "hp laptop"}}}


@pytest.mark.parametrize(
    ("lexical", "filters"),
    [
        ({"bool": {"must": WORDS, "filter": FILTER}}, [FILTER]),
        ({"bool": {"must": [WORDS], "must_not": [EXCLUDED]}}, [{"bool": {"must_not": [EXCLUDED]}}]),
        (
            {"bool": {"must": [WORDS], "filter": [FILTER], "must_not": EXCLUDED}},
            [{"bool": {"filter": [FILTER], "must_not": [EXCLUDED]}}],
        ),
        ({"bool": {"must": [WORDS, FILTER]}}, [FILTER]),
        ({"bool": {"must": [WORDS, FILTER], "filter": [EXCLUDED]}}, [{"bool": {"filter": [EXCLUDED, FILTER]}}]),
        ({"bool": {"must": [WORDS, {"match": {"brand": "acer"}}]}}, [{"match": {"brand": "acer"}}]),
        ({"bool": {"must": [WORDS], "should": [FILTER]}}, []),
        (
            {"bool": {"must": [WORDS], "should": [FILTER, EXCLUDED], "minimum_should_match": 1}},
            [{"bool": {"should": [FILTER, EXCLUDED], "minimum_should_match": 1}}],
        ),
        ({"bool": {"should": [WORDS, FILTER]}}, []),
        (
            {"bool": {"should": [WORDS, FILTER], "minimum_should_match": 2}},
            [{"bool": {"should": [{"match_all": {}}, FILTER], "minimum_should_match": 2}}],
        ),
        (
            {"bool": {"should": [{"bool": {"must": WORDS, "filter": FILTER}}, {"bool": {"must": [EXCLUDED, WORDS]}}]}},
            [{"bool": {"should": [FILTER, EXCLUDED], "minimum_should_match": 1}}],
        ),
        ({"bool": {"should": WORDS, "filter": FILTER}}, [FILTER]),
        ({"function_score": {"query": {"bool": {"must": WORDS, "filter": FILTER}}, "functions": []}}, [FILTER]),
        ({"script_score": {"query": {"bool": {"must": WORDS, "filter": FILTER}}, "script": {}}}, [FILTER]),
        ({"boosting": {"positive": {"bool": {"must": WORDS, "filter": FILTER}}, "negative": EXCLUDED}}, [FILTER]),
        ({"constant_score": {"filter": {"bool": {"must": [WORDS, FILTER]}}}}, [FILTER]),
        ({"dis_max": {"queries": [WORDS, FILTER]}}, []),
        (
            {"dis_max": {"queries": [{"bool": {"must": WORDS, "filter": FILTER}}, EXCLUDED]}},
            [{"bool": {"should": [FILTER, EXCLUDED], "minimum_should_match": 1}}],
        ),
        ({"nested": {"path": "offers", "query": WORDS}}, []),
        (
            {"nested": {"path": "o", "query": {"bool": {"must": WORDS, "filter": FILTER}}, "inner_hits": {}}},
            [{"nested": {"path": "o", "query": FILTER}}],
        ),
        (
            {"bool": {"must": WORDS, "filter": {"term": {"a": {"value": 1, "_name": "x"}}}}},
            [{"term": {"a": {"value": 1}}}],
        ),
        ({"bool": {"must": [WORDS, {"match_all": {}}]}}, []),
        (
            {"query_string": {"query": 'hp laptop -used NOT "as new"', "_name": "x", "default_operator": "and"}},
            [
                {
                    "bool": {
                        "must_not": [
                            {"query_string": {"query": excluded, "default_operator": "and"}}
                            for excluded in ("used", '"as new"')
                        ]
                    }
                }
            ],
        ),
        ({"geo_distance": {"distance": "1km"}}, [{"geo_distance": {"distance": "1km"}}]),
    ],
)
def test_recall_is_bound_by_what_is_demanded_besides_the_words(
    lexical: dict[str, Any], filters: list[dict[str, Any]]
) -> None:
    """Filters, exclusions and every required part that is about something else than the words bind the codes too."""
    bound = {"bool": {"must": [CLAUSE], "filter": filters}} if filters else CLAUSE
    assert enrich({"query": lexical}, NOTEBOOK, "g1", SETTINGS, Mode.RECALL, text="HP  laptop") == {
        "query": {"bool": {"should": [lexical, bound], "minimum_should_match": "1"}}
    }


def test_recall_finds_the_words_by_itself() -> None:
    """Without a text from the client the body's own text tells which parts are words."""
    lexical = {"bool": {"must": [WORDS], "filter": [FILTER]}}
    found = enrich({"query": lexical}, NOTEBOOK, "g1", SETTINGS, Mode.RECALL)
    bound = {"bool": {"must": [CLAUSE], "filter": [FILTER]}}
    assert found == {"query": {"bool": {"should": [lexical, bound], "minimum_should_match": "1"}}}


@pytest.mark.parametrize(
    ("body", "mode", "reason"),
    [
        ({"query": LEXICAL}, Mode.OFF, "off"),
        ({"query": {"hybrid": {"queries": [LEXICAL]}}}, Mode.RECALL, "hybrid"),
        ({"query": []}, Mode.RERANK, "no-query"),
        ({"query": {}}, Mode.RERANK, "no-query"),
        ({"suggest": {}}, Mode.RECALL, "no-query"),
        ({"query": LEXICAL, "size": 0}, Mode.RERANK, "no-score"),
        ({"query": LEXICAL, "sort": [{"price": "asc"}], "aggs": {"b": {"terms": {}}}}, Mode.RERANK, "no-score"),
        ({"query": LEXICAL, "sort": "price"}, Mode.RERANK, "no-score"),
        ({"query": LEXICAL, "sort": "price"}, Mode.RECALL, None),
        ({"query": LEXICAL, "size": 0}, Mode.RECALL, None),
        ({"query": LEXICAL, "sort": ["_score", {"price": "asc"}]}, Mode.RERANK, None),
        ({"query": LEXICAL, "sort": "price", "track_scores": True}, Mode.RERANK, None),
        ({"query": LEXICAL, "size": 0, "aggs": {"t": {"top_hits": {}}}}, Mode.RERANK, None),
        ({"query": LEXICAL, "sort": "price", "collapse": {"inner_hits": {"name": "x"}}}, Mode.RERANK, None),
        ({}, Mode.RERANK, None),
    ],
)
def test_some_requests_stay_as_they_are(body: dict[str, Any], mode: Mode, reason: str | None) -> None:
    """A request that codes could not improve, or would break, is left alone with a reason."""
    assert reason_untouched(body, mode) == reason
    assert (enrich(body, NOTEBOOK, "g1", SETTINGS, mode) == body) == (reason is not None)


@pytest.mark.parametrize("mode", Mode)
def test_without_codes_nothing_is_added(mode: Mode) -> None:
    """When the model has nothing to say the request is the customer's own."""
    assert enrich({"query": LEXICAL, "min_score": 1}, [], "g1", SETTINGS, mode) == {"query": LEXICAL, "min_score": 1}


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_leaves = st.sampled_from([LEXICAL, WORDS, FILTER, EXCLUDED, {"match_all": {}}]) | st.dictionaries(
    st.sampled_from(["match", "query_string", "bool", "dis_max", "nested", "knn"]), _values, max_size=2
)
_queries = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"function_score": st.fixed_dictionaries({"query": inner})}),
        st.fixed_dictionaries({"nested": st.fixed_dictionaries({"path": st.text(), "query": inner})}),
        st.fixed_dictionaries({"dis_max": st.fixed_dictionaries({"queries": st.lists(inner, max_size=3)})}),
        st.fixed_dictionaries(
            {
                "bool": st.fixed_dictionaries(
                    {},
                    optional={
                        "must": st.lists(inner, max_size=2) | inner,
                        "should": st.lists(inner, max_size=2) | inner,
                        "filter": inner,
                        "must_not": st.lists(inner, max_size=2),
                        "minimum_should_match": st.sampled_from([0, 1, 2, "1", "75%", "2<-1", None, []]),
                    },
                )
            }
        ),
    ),
    max_leaves=8,
)
_bodies = st.fixed_dictionaries(
    {},
    optional={
        "query": _queries | _values,
        "size": st.integers(0, 3),
        "sort": _values,
        "aggs": _values,
        "min_score": st.floats(0, 9),
        "ext": _values,
        "other": _values,
    },
)


@given(_bodies, st.sampled_from(Mode))
def test_input_is_untouched_and_other_keys_are_equal(body: dict[str, Any], mode: Mode) -> None:
    """Whatever the body, it is not changed, and of its keys only the query (and a moved `min_score`) differ."""
    before = copy.deepcopy(body)
    enriched = enrich(body, NOTEBOOK, "g1", SETTINGS, mode)
    assert body == before
    own = {"query", "min_score"} if mode is Mode.RERANK else {"query"}
    assert {key: value for key, value in enriched.items() if key not in own} == {
        key: value for key, value in body.items() if key not in own
    }
    if enriched.get("query") != body.get("query"):
        assert "gram:type=notebook" in json.dumps(enriched)


def test_deep_query_is_enriched_without_following_it_down() -> None:
    """A query nested beyond any sense neither fails nor is understood."""
    deep: dict[str, Any] = LEXICAL
    for _ in range(400):
        deep = {"bool": {"must": [deep]}}
    assert enrich({"query": deep}, NOTEBOOK, "g1", SETTINGS, Mode.RECALL)["query"]["bool"]["should"][0] is deep


def response(total: Any, hits: int, **more: Any) -> dict[str, Any]:
    """A search answer with so many hits on its page."""
    return {"hits": {**({} if total is None else {"total": total}), "hits": [{}] * hits}, **more}


@pytest.mark.parametrize(
    ("answer", "needed"),
    [
        (response({"value": 2, "relation": "eq"}, 2), True),
        (response({"value": 3, "relation": "eq"}, 0), False),
        (response({"value": 10000, "relation": "gte"}, 10), False),
        (response(0, 0), True),
        (response(None, 0), True),
        (response(None, 1), False),
        (response(0, 0, timed_out=True), False),
        ({"error": {}}, False),
        ({"hits": []}, False),
    ],
)
def test_rescue_is_needed_when_fewer_than_three_are_found(answer: dict[str, Any], needed: bool) -> None:
    """The total decides, the same on every page; without a total only an empty page counts."""
    assert needs_rescue(answer, 3) is needed


def test_extension_is_taken_out() -> None:
    """OpenSearch does not know `ext.gram`; other extensions stay, and an empty `ext` goes too."""
    given_keys = {"query": "hp", "mode": "recall", "budget_ms": 20, "explain": True}
    assert take_extension({"size": 1, "ext": {"gram": given_keys, "ubi": {}}}) == (
        {"size": 1, "ext": {"ubi": {}}},
        GramExtension("hp", Mode.RECALL, 20, True),
    )
    assert take_extension({"size": 1, "ext": {"gram": {}}}) == ({"size": 1}, GramExtension())


@pytest.mark.parametrize("body", [{}, {"ext": {"ubi": {}}}, {"ext": []}, {"ext": None}])
def test_body_without_extension_stays(body: dict[str, Any]) -> None:
    """Whatever else is in `ext` is not ours to judge."""
    assert take_extension(body) == (body, None)


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        ([], "ext.gram must be an object, found []"),
        (None, "ext.gram must be an object, found null"),
        ({"q": 1, "mod": 2}, "ext.gram has unknown keys: mod, q"),
        ({"query": 1}, "ext.gram.query is 1"),
        ({"mode": "fast"}, 'ext.gram.mode is "fast"'),
        ({"mode": {}}, "ext.gram.mode is {}"),
        ({"budget_ms": 0}, "ext.gram.budget_ms is 0"),
        ({"budget_ms": True}, "ext.gram.budget_ms is true"),
        ({"budget_ms": 1e9}, "ext.gram.budget_ms is 1000000000.0"),
        ({"budget_ms": float("nan")}, "ext.gram.budget_ms is NaN"),
        ({"explain": "yes"}, 'ext.gram.explain is "yes"'),
    ],
)
def test_wrong_extension_is_refused(extension: Any, message: str) -> None:
    """A misspelt key or a value of the wrong kind is the client's mistake, said in words."""
    with pytest.raises(RequestError) as refused:
        take_extension({"ext": {"gram": extension}})
    assert refused.value.message == message
    assert refused.value.next_step
