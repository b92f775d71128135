"""The customer's lexical query."""

from __future__ import annotations

import dataclasses

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


def test_the_owners_own_form_is_tried_first_and_only_its_type_and_title_vary() -> None:
    """Boosts of other fields, operator and fuzzy companion stay what the owner made them."""
    own = SearchConfig(
        index="shop", type="best_fields", fields=("title^5", "body^0.5", "brand^2"), operator="and", fuzzy=0.4
    )
    first, *others = first_forms(("title", "body"), ("brand",), own)
    assert first == own
    assert others == [
        dataclasses.replace(own, type=type_name, fields=(f"title^{boost}", "body^0.5", "brand^2"))
        for type_name in ("cross_fields", "best_fields", "most_fields")
        for boost in (1, 3)
    ]


def test_an_own_form_is_tried_once() -> None:
    """Where it is one of the six it is not asked twice; one without fields is tried as such, beside the six."""
    own = SearchConfig(type="best_fields", fields=("title^3", "brand"))
    assert len(first_forms(("title",), ("brand",), own)) == 6
    assert first_forms(("title",), ("brand",), SearchConfig()) == [
        SearchConfig(),
        *first_forms(("title",), ("brand",)),
    ]


def test_all_words_are_tried_instead_of_any_and_the_other_way_round() -> None:
    """No variation is the form that it varies."""
    for operator in ("or", "and"):
        own = SearchConfig(fields=("title",), operator=operator)
        assert own not in further_forms(own)
