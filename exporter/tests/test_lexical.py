"""The customer's lexical query."""

from __future__ import annotations

from gram_exporter.config import SearchConfig
from gram_exporter.lexical import FORMS_TRIED, first_forms, further_forms, lexical_query


def test_query_is_what_the_section_says() -> None:
    """Type, operator and fields stand in one multi_match."""
    search = SearchConfig(type="best_fields", operator="and", fields=("title^3", "body"))
    assert lexical_query(search)("red shoe") == {
        "multi_match": {"query": "red shoe", "type": "best_fields", "operator": "and", "fields": ["title^3", "body"]}
    }


def test_no_fields_leave_the_choice_to_the_index() -> None:
    """index.query.default_field decides then."""
    assert lexical_query(SearchConfig())("x") == {
        "multi_match": {"query": "x", "type": "cross_fields", "operator": "or"}
    }


def test_fuzzy_stands_beside_the_exact_match() -> None:
    """The forgiving match is a weaker second clause of the same words."""
    found = lexical_query(SearchConfig(fuzzy=0.3, fields=("t",)))("x")
    assert [
        [clause["multi_match"].get(key) for key in ("fuzziness", "boost")] for clause in found["bool"]["should"]
    ] == [
        [None, None],
        ["AUTO", 0.3],
    ]


def test_the_forms_to_try_differ() -> None:
    """Six forms over the same fields, then three variations of one of them: nine different queries."""
    first = first_forms(("title", "body"), ("brand",))
    tried = {*first, *further_forms(first[0])}
    assert len(tried) == len(first) + 3 == FORMS_TRIED
    assert {form.fields for form in tried} == {("title^1", "body", "brand"), ("title^3", "body", "brand")}
