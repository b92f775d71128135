"""Tests of what a query string excludes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.search.querystring import SYNTAX_QUERIES, Negations, negations

FULL, SIMPLE = "query_string", "simple_query_string"
BOTH = (FULL, SIMPLE)


@pytest.mark.parametrize(
    ("text", "kinds", "words", "excluded"),
    [
        ("sofa -used", BOTH, "sofa", ["used"]),
        ("sofa (-used)", BOTH, "sofa ( )", ["used"]),
        ("(sofa -used)", BOTH, "(sofa )", ["used"]),
        ("((sofa) -used))", BOTH, "((sofa) ))", ["used"]),
        ("sofa AND NOT(used)", BOTH, "sofa AND", ["(used)"]),
        ("sofa NOT used", BOTH, "sofa", ["used"]),
        ('sofa NOT"as new"', BOTH, "sofa", ['"as new"']),
        ("sofa !used", BOTH, "sofa", ["used"]),
        ('"red sofa"-used', BOTH, '"red sofa"', ["used"]),
        ("(red sofa)-used", BOTH, "(red sofa)", ["used"]),
        ('sofa -"as (new"~2 -used~1', BOTH, "sofa", ['"as (new"~2', "used~1"]),
        ("sofa -(used (broken (or worn)))", BOTH, "sofa", ["(used (broken (or worn)))"]),
        ('"sofa -used" bed', BOTH, '"sofa -used" bed', []),
        (r'"sofa \" -used" bed', BOTH, r'"sofa \" -used" bed', []),
        (r"sofa \-used t-shirt", BOTH, r"sofa \-used t-shirt", []),
        ("sofa -", BOTH, "sofa -", []),
        ("sofa - used", [SIMPLE], "sofa - used", []),
        ("sofa - used", [FULL], "sofa", ["used"]),
        ("wow! sofa", [SIMPLE], "wow! sofa", []),
        ("sofa!used", [FULL], "sofa", ["used"]),
        ("sofa|-used", [SIMPLE], "sofa|", ["used"]),
        ("sofa^2-used", [FULL], "sofa^2", ["used"]),
        ("", BOTH, "", []),
    ],
)
def test_what_is_excluded(text: str, kinds: list[str], words: str, excluded: list[str]) -> None:
    """Words, phrases and groups behind a sign, wherever the language lets a sign stand, and nothing else."""
    for kind in kinds:
        found = negations(kind, text)
        assert (" ".join(found.kept.split()), found.excluded, found.clear) == (words, tuple(excluded), True)


@pytest.mark.parametrize("text", ["sofa -(used", "sofa --used", 'sofa -"as new', "sofa NOT -used", "(sofa -) used"])
@pytest.mark.parametrize("kind", BOTH)
def test_a_sign_before_something_else_is_unclear(kind: str, text: str) -> None:
    """Nothing is guessed where a sign stands before what is no word, phrase or group."""
    assert not negations(kind, text).clear


def test_a_field_or_range_of_a_query_string_is_unclear() -> None:
    """Only the simple language takes these for words."""
    for text in ("sofa -title: used", "sofa -[1 TO 2]", "sofa -/use./"):
        assert not negations(FULL, text).clear
    assert negations(SIMPLE, "sofa -1/2") == Negations("sofa  ", ("1/2",), True)


@given(st.sampled_from(sorted(SYNTAX_QUERIES)), st.text(alphabet=string.printable + "\u3000ä靴", max_size=60))
def test_any_text_is_taken_apart(kind: str, text: str) -> None:
    """Excluded parts are parts of the text, and without a sign there are none."""
    found = negations(kind, text)
    assert all(part and part in text for part in found.excluded)
    if not any(sign in text for sign in ("-", "!", "NOT")):
        assert found == Negations(text, (), True)
