"""Tests of finding the text of a query in a search body."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.search.words import MAX_TEXT_CHARS, demands, find_query_text

MATCH = {"match": {"title": "red shoe"}}


@pytest.mark.parametrize(
    "query",
    [
        MATCH,
        {"match": {"title": {"query": " red shoe ", "fuzziness": "AUTO"}}},
        {"match_phrase": {"title": "red shoe"}},
        {"match_phrase_prefix": {"title": {"query": "red shoe"}}},
        {"match_bool_prefix": {"title": "red shoe"}},
        {"multi_match": {"query": "red shoe", "fields": ["title^3"]}},
        {"combined_fields": {"query": "red shoe", "fields": ["title"]}},
        {"simple_query_string": {"query": "+red +shoe -blue"}},
        {"query_string": {"query": "red AND shoe* NOT blue"}},
        {"query_string": {"query": '"red shoe"~2^3 !blue'}},
        {"query_string": {"query": "(red OR shoe~1) -(blue green)"}},
        {"query_string": {"query": "red shoe -(blue (green OR grey) pink)"}},
        {"bool": {"must": MATCH}},
        {"bool": {"must": [MATCH, {"term": {"brand": "x"}}], "filter": {"match": {"brand": "other"}}}},
        {"bool": {"must": [MATCH], "should": [{"match": {"brand": "favourite"}}]}},
        {"bool": {"should": [MATCH, {"match_phrase": {"title": "Red  Shoe"}}], "must": []}},
        {"bool": {"must": [{"term": {"a": 1}}], "should": [MATCH]}},
        {"function_score": {"query": {"bool": {"must": [MATCH]}}, "functions": []}},
        {"script_score": {"query": MATCH, "script": {}}},
        {"boosting": {"positive": MATCH, "negative": {"match": {"title": "used"}}}},
        {"constant_score": {"filter": MATCH}},
        {"dis_max": {"queries": [MATCH, {"term": {"sku": "red shoe"}}]}},
        {"nested": {"path": "offers", "query": MATCH}},
        {"bool": {"must": [{"match": {"brand": "nike"}}, {"multi_match": {"query": "red shoe"}}]}},
    ],
)
def test_text_is_found(query: dict[str, Any]) -> None:
    """The text that a shopper typed is found in every supported query and wrapper."""
    found = find_query_text({"query": query})
    assert found is not None
    assert found.casefold().split() == ["red", "shoe"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": None},
        {"query": "red shoe"},
        {"query": []},
        {"query": {"match_all": {}}},
        {"query": {"match": {"title": ""}}},
        {"query": {"match": {"title": " \t"}}},
        {"query": {"match": {"title": True}}},
        {"query": {"match": {"title": ["red"]}}},
        {"query": {"match": {}}},
        {"query": {"match": "red shoe"}},
        {"query": {"match": {"a": "x", "b": "y"}}},
        {"query": {"term": {"sku": "X1"}}},
        {"query": {"bool": {"filter": [MATCH]}}},
        {"query": {"bool": {"must_not": [MATCH]}}},
        {"query": {"bool": {"must": [MATCH, {"match": {"brand": "nike"}}]}}},
        {"query": {"bool": []}},
        {"query": {"query_string": {"query": "brand:nike AND red"}}},
        {"query": {"query_string": {"query": "price:[1 TO 5]"}}},
        {"query": {"query_string": {"query": "year:{2001 TO 2005]"}}},
        {"query": {"query_string": {"query": "[red TO shoe]"}}},
        {"query": {"query_string": {"query": "a.b\\*c.*:red"}}},
        {"query": {"query_string": {"query": "/re.+/"}}},
        {"query": {"query_string": {"query": "*"}}},
        {"query": {"query_string": {"query": "-red"}}},
        {"query": {"more_like_this": {"like": "red"}}},
        {"query": {"match": {"title": "a"}, "term": {"b": "c"}}},
    ],
)
def test_what_is_not_understood_gives_none(body: dict[str, Any]) -> None:
    """No text, a text that is not the shopper's, or several that differ: nothing is guessed."""
    assert find_query_text(body) is None


@pytest.mark.parametrize(
    "text", ["x", "y" * 10_000, "🛋️ sofa", "مقعد", "כורסה", "靴", "\ud800", "t-shirt", "50%", "1/2 inch", "AT&T"]
)
def test_any_text_passes_as_it_is(text: str) -> None:
    """One character or ten thousand, any script, even a lone surrogate: a plain match is taken literally."""
    assert find_query_text({"query": {"match": {"title": text}}}) == text


BAD_FOR_PATTERNS = [
    *(
        "[ TO ",
        "{TO",
        "TO ]",
        "a.",
        ".",
        "*",
        "a:",
        "-(",
        " -(",
        '-("',
        ' -"',
        "NOT ",
        "NOT\t (",
        "-(a) (",
        "((",
        "/",
        "/ ",
        "~1",
    ),
    *(" ", "\\", "+ - ", "x", "!(", '\\"', '-"\\', "NOT(", "-a ", "^", "|-"),
]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["query_string", "simple_query_string", "multi_match"])
@pytest.mark.parametrize("piece", BAD_FOR_PATTERNS)
def test_work_on_a_text_is_bounded(kind: str, piece: str) -> None:
    """A text of a megabyte, or a hundred of the longest that are read, take a moment whatever they repeat."""
    for length, count in ((1_000_000, 1), (MAX_TEXT_CHARS, 100)):
        text = piece * (length // len(piece))
        query = {"bool": {"must": [{kind: {"query": text}}] * count}}
        find_query_text({"query": query})
        demands(query, text)


BROAD = {"multi_match": {"query": "acme 5 port hub", "fields": ["title", "shop"]}}
SHOP = {"match": {"shop": "acme"}}
SHOP_ID = {"match": {"shop_id": 5}}
BOTH = {"bool": {"filter": [SHOP, SHOP_ID]}}


@pytest.mark.parametrize(
    ("query", "bound"),
    [
        ({"bool": {"must": [BROAD, SHOP, SHOP_ID]}}, [BOTH]),
        ({"bool": {"must": [BROAD, {"bool": {"must": [SHOP, SHOP_ID]}}]}}, [BOTH]),
        ({"bool": {"must": [{"function_score": {"query": BROAD}}, {"constant_score": {"filter": SHOP}}]}}, [SHOP]),
        ({"bool": {"must": [{"bool": {"should": [BROAD, SHOP]}}]}}, []),
        ({"bool": {"must": BROAD, "should": [SHOP]}}, []),
        ({"bool": {"should": [BROAD, SHOP], "minimum_should_match": 1}}, []),
        ({"dis_max": {"queries": [BROAD, SHOP]}}, []),
        ({"bool": {"must": [{"match": {"title": "acme hub"}}, {"match": {"text": "acme hub"}}]}}, []),
        (
            {"bool": {"must": [{"multi_match": {"query": "sale", "fields": ["tag"]}}, SHOP]}},
            [{"multi_match": {"query": "sale", "fields": ["tag"]}}],
        ),
    ],
)
def test_a_must_on_one_field_binds_beside_a_search_in_several(query: dict[str, Any], bound: list[Any]) -> None:
    """A shop or a number that the shopper's words name too is still a restriction; other ways to match are none."""
    assert demands(query, "acme 5 port hub") == bound


ALL = {"match": {"title": "HP notebook"}}
HP = {"match_phrase": {"brand": "hp"}}


@pytest.mark.parametrize(
    ("query", "bound"),
    [
        ({"bool": {"must": [ALL, HP]}}, [HP]),
        ({"bool": {"must": [{"bool": {"should": [ALL]}}, {"bool": {"must": HP}}]}}, [HP]),
        ({"bool": {"must": [ALL, {"match": {"text": "notebook hp"}}]}}, []),
        ({"bool": {"must": [{"match": {"title": "notebook"}}, HP]}}, []),
        ({"bool": {"must": ALL, "should": [HP]}}, []),
        ({"bool": {"must": {"dis_max": {"queries": [ALL, HP]}}}}, []),
    ],
)
def test_a_must_for_some_of_the_words_binds_beside_a_part_for_all(query: dict[str, Any], bound: list[Any]) -> None:
    """A brand that the shopper's words name too is a restriction; words that are searched apart are none."""
    assert demands(query, "hp notebook") == bound


@pytest.mark.parametrize("kind", ["query_string", "simple_query_string"])
@pytest.mark.parametrize("text", ["sofa -used -broken", "sofa (-used) -broken", "(sofa -used -broken)"])
def test_each_excluded_part_binds_by_itself(kind: str, text: str) -> None:
    """A product with any one of them is kept out, however many of the words must match."""
    query = {kind: {"query": text, "minimum_should_match": "100%", "fields": ["title"]}}
    excluded = [{kind: {"query": part, "fields": ["title"]}} for part in ("used", "broken")]
    assert demands(query, "sofa") == [{"bool": {"must_not": excluded}}]


@pytest.mark.parametrize("text", ["sofa -(used broken", "sofa --used", 'sofa -"as new', "sofa" + " -x" * 17])
def test_an_unclear_or_long_exclusion_binds_as_it_is(text: str) -> None:
    """Where it is not understood what a sign excludes, or too much is, nothing of the query string is dropped."""
    query = {"simple_query_string": {"query": text}}
    assert demands(query, "sofa used broken as new") == [query]


STOCKED = {"filter": {"term": {"in_stock": True}}, "weight": 10}
REPLACING = {"functions": [STOCKED], "boost_mode": "replace", "min_score": 5}
SOFA = {"multi_match": {"query": "sofa", "fields": ["title"]}}
NEW = {"term": {"new": True}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("function_score", REPLACING),
        ("function_score", {"weight": 3, "boost_mode": "replace", "min_score": 0}),
        ("function_score", {**REPLACING, "functions": [{"script_score": {"script": "doc['rank'].value"}}]}),
        ("script_score", {"script": {"source": "doc['rank'].value"}, "min_score": 2}),
        ("script_score", {"script": {"source": "knn_score", "lang": "knn", "params": {}}, "min_score": 2}),
    ],
)
def test_a_min_score_that_does_not_come_from_the_words_binds(kind: str, options: dict[str, Any]) -> None:
    """The wrapper stays, its words give way to whatever else its query demands."""
    assert demands({kind: {"query": SOFA, **options}}, "sofa") == [{kind: {"query": {"match_all": {}}, **options}}]
    both = {"bool": {"must": SOFA, "filter": NEW}}
    assert demands({kind: {"query": both, **options}}, "sofa") == [{kind: {"query": NEW, **options}}]
    free = {key: value for key, value in options.items() if key != "min_score"}
    assert demands({kind: {"query": SOFA, **free}}, "sofa") == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("function_score", {"min_score": 5}),
        ("function_score", {"functions": [], "boost_mode": "replace", "min_score": 5}),
        ("function_score", {**REPLACING, "boost_mode": "sum"}),
        ("function_score", {"functions": [STOCKED], "min_score": 5}),
        ("function_score", {**REPLACING, "functions": [{"script_score": {"script": "_score * 2"}}]}),
        ("function_score", {**REPLACING, "functions": [STOCKED, {"of_a_plugin": {}}]}),
        ("script_score", {"script": {"source": "_score + 1"}, "min_score": 2}),
        ("script_score", {"script": {"id": "stored"}, "min_score": 2}),
        ("script_score", {"script": {"source": "x", "lang": "of_a_plugin"}, "min_score": 2}),
    ],
)
def test_a_min_score_that_may_come_from_the_words_binds_as_a_whole(kind: str, options: dict[str, Any]) -> None:
    """Without its words the wrapper would have another score, so nothing of it is dropped."""
    query = {kind: {"query": SOFA, **options}}
    assert demands(query, "sofa") == [query]


@pytest.mark.parametrize("kind", ["match_phrase", "multi_match", "query_string"])
def test_a_text_too_long_to_be_read_binds_as_it_is(kind: str) -> None:
    """What stands behind the part that is read may be a demand, so nothing of it is dropped."""
    text = "red " * MAX_TEXT_CHARS
    query = {kind: {"title": text} if kind == "match_phrase" else {"query": text}}
    assert demands(query, text) == [query]


def test_number_is_a_text() -> None:
    """Clients send model numbers as JSON numbers."""
    assert find_query_text({"query": {"match": {"title": 3310}}}) == "3310"


def test_too_deep_is_not_understood() -> None:
    """The search for text ends at a fixed depth."""
    query: dict[str, Any] = MATCH
    for _ in range(60):
        query = {"bool": {"must": [query]}}
    assert find_query_text({"query": query}) is None


_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bool", "must", "should", "match", "query", "dis_max", "queries"]), inner)
    ),
    max_leaves=10,
)


@given(_values)
def test_no_body_makes_it_fail(query: Any) -> None:
    """Malformed queries give None or a text, never an error."""
    found = find_query_text({"query": query})
    assert found is None or found.strip()
