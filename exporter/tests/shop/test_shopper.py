"""Tests of how shoppers write: their words, plurals and slips."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.shop.dice import Dice, Words
from gram_exporter.shop.misspelling import misspell
from gram_exporter.shop.vocabulary import Trait, Value, load_vocabulary
from gram_exporter.shop.wording import arranged, plain_words, plural, rare_words, with_slip

_WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=15)


def _value(dimension: str, value: str) -> Value:
    return load_vocabulary().values[Trait(dimension, value)]


def test_rare_words_are_those_that_merchants_hardly_write() -> None:
    """Hoover is a rare word for a vacuum cleaner, the word vacuum cleaner is a plain one."""
    value = _value("type", "vacuum")
    assert plain_words(value).texts == ("vacuum cleaner",)
    assert rare_words(value) == Words(("hoover", "vacuum"), (6.0, 4.0))


def test_a_type_that_only_shoppers_name_otherwise_falls_back_to_the_merchants_words() -> None:
    """Whoever speaks plainly of nappies says what merchants say."""
    assert plain_words(_value("type", "diapers")).texts[0] == "nappies"


def test_brands_and_units_have_no_synonyms() -> None:
    """A brand has one name, and a size is a matter of units."""
    assert [rare_words(_value("brand", "Zentharo")), rare_words(_value("laptop_screen", "13.3"))] == [None, None]


def test_a_screen_of_13_inches_is_typed_in_many_spellings() -> None:
    """Shoppers write inches as word and as sign, and centimetres."""
    assert plain_words(_value("laptop_screen", "13.3")).texts == ("13 inch", '13"', "34cm", "13 in", "13.3 inch")


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("sofa", "sofas"), ("battery", "batteries"), ("toy", "toys"), ("jeans", "jeans"), ("dog food", "dog food")],
)
def test_plural(noun: str, expected: str) -> None:
    """Plurals are plain English; what has none stays."""
    assert plural(noun) == expected


@given(_WORDS, st.integers(0, 10_000))
def test_a_misspelled_word_differs_by_little(word: str, seed: int) -> None:
    """The first letter and the length to within one stay; words below four letters stay whole."""
    slipped = misspell(word, Dice(seed))
    assert slipped[0] == word[0]
    assert abs(len(slipped) - len(word)) <= 1
    assert len(word) >= 4 or slipped == word


def test_every_longer_word_can_be_misspelled() -> None:
    """Whatever the dice say, a word of different letters comes out changed."""
    assert all(misspell("notebook", Dice(seed)) != "notebook" for seed in range(200))


def test_a_query_without_a_long_word_cannot_be_misspelled() -> None:
    """Nothing to slip on gives no query rather than a correct one."""
    assert with_slip("tv 55", Dice(1)) is None


@given(st.integers(0, 10_000))
def test_arranging_keeps_every_word(seed: int) -> None:
    """Order, plural and small connecting words aside, each wish and the core is in the query once."""
    values = [_value("type", "sofa"), _value("colour", "grey"), _value("function", "with_storage")]
    words = arranged(values, ["couch", "grey", "with storage"], Dice(seed)).replace("couchs", "couch").split()
    assert sorted(word for word in words if word != "in") == ["couch", "grey", "storage", "with"]
