"""Words of a text in any script."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.text import render_query
from gram_plugin.contract.words import is_part, joined, places, words, written


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("t-shirt 13.3 zoll für l’été", ["t-shirt", "13.3", "zoll", "für", "l’été"]),
        ("bücherregal, weiss (2 böden)", ["bücherregal", "weiss", "2", "böden"]),
        ("红色书架 60cm", ["红", "色", "书", "架", "60cm"]),
        ("赤い靴・nike靴", ["赤", "い", "靴", "nike", "靴"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("หนังสือ 2 เล่ม", ["ห", "นั", "ง", "สื", "อ", "2", "เ", "ล่", "ม"]),
        ("ស្រី", ["ស្រី"]),
        ("파란 의자", ["파란", "의자"]),
        ("كِتاب أحمر", ["كِتاب", "أحمر"]),
        ("⭐ — ()", []),
    ],
    ids=["inner", "german", "chinese", "japanese", "hindi", "thai", "khmer", "korean", "arabic", "none"],
)
def test_words_follow_the_script(text: str, found: list[str]) -> None:
    """Marks stay with their letter; without spaces a character with its marks is a word; the rest splits at spaces."""
    assert words(text) == found


@given(st.text(max_size=60))
def test_every_letter_and_digit_is_in_one_word(text: str) -> None:
    """Words are the text at their places, in order, without overlap, and nothing that could be read is left out."""
    rendered = render_query(text)
    found = places(rendered)
    assert words(rendered) == [rendered[place.start : place.end] for place in found]
    assert all(first.end <= second.start for first, second in pairwise(found))
    inside = {at for place in found for at in range(place.start, place.end)}
    assert all(at in inside for at, sign in enumerate(rendered) if unicodedata.category(sign)[0] in "LN")


@pytest.mark.parametrize(
    ("text", "start", "end", "typed"),
    [
        ("红色书架 60cm", 2, 5, "书架 60cm"),
        ("赤い靴・nike靴", 2, 5, "靴 nike靴"),
        ("nike, air (max)", 0, 3, "nike air max"),
        ("หนังสือ", 0, 3, "หนัง"),
    ],
)
def test_a_span_is_written_as_it_is_typed(text: str, start: int, end: int, typed: str) -> None:
    """What stood together stays together, all that stood between words is one space."""
    assert written(text, places(text)[start:end]) == typed


def test_words_are_joined_by_their_script() -> None:
    """Characters of scripts without spaces stand together, all else apart."""
    assert joined(["书", "架", "oak", "wood", "架"]) == "书架 oak wood 架"
    assert joined([]) == ""
    assert [is_part(word) for word in ("书", "靴", "ท้", "oak", "7", "한국", "हि")] == [True, True, True, *[False] * 4]
