"""Features of a text: which words and parts it has, and that they never change under a version."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.features import BUCKETS, FEATURES_VERSION, Features, features_of, words_of
from gram_plugin.contract.text import render_query

WORD, PART = 1.0, 0.3


LATIN = st.characters(categories=("Ll",), max_codepoint=0x24F)


def named(names: dict[str, float]) -> Features:
    """The features of these names: the remainder of a name's CRC-32 is its bucket."""
    return Features(tuple(crc32(name.encode()) % BUCKETS for name in names), tuple(names.values()))


def parts_of(text: str) -> Counter[int]:
    """The buckets of a text's character n-grams, with how often each comes."""
    found = features_of(text)
    return Counter(bucket for bucket, weight in zip(found.buckets, found.weights, strict=True) if weight == PART)


def test_a_text_has_its_words_its_pairs_and_the_parts_of_its_words() -> None:
    """Words and neighbouring words weigh 1, runs of three to five characters of a framed word 0.3."""
    words = dict.fromkeys(["wred", "wsofa", "bred sofa"], WORD)
    red = ["c<re", "cred", "ced>", "c<red", "cred>", "c<red>"]
    sofa = ["c<so", "csof", "cofa", "cfa>", "c<sof", "csofa", "cofa>", "c<sofa", "csofa>"]
    assert features_of("red sofa") == named({**words, **dict.fromkeys([*red, *sofa], PART)})


def test_scripts_without_spaces_have_shorter_parts() -> None:
    """A run of Han is one word to us; its one to three characters stand for the words in it."""
    parts = ["c<", "c书", "c架", "c>", "c<书", "c书架", "c架>", "c<书架", "c书架>"]
    assert features_of("书架") == named({"w书架": WORD, **dict.fromkeys(parts, PART)})


def test_version_one_gives_these_buckets() -> None:
    """An arm is trained on these numbers: whoever changes one of them raises the version."""
    found = {text: features_of(text).buckets for text in ("tv", "usb 3", "书架", "für")}
    assert (FEATURES_VERSION, BUCKETS, found) == (
        1,
        131072,
        {
            "tv": (53052, 127998, 99494, 114382),
            "usb 3": (51139, 105688, 79301, 13872, 67339, 17782, 81251, 26793, 72697),
            "书架": (22988, 22044, 60577, 39630, 14128, 54985, 123153, 91403, 57088, 19765),
            "für": (113312, 94497, 101346, 47811, 63666, 7929, 35966),
        },
    )


@given(st.text(max_size=60))
def test_any_text_has_buckets_in_range_and_the_same_each_time(text: str) -> None:
    """Lone surrogates, marks and controls included: an int from 0 to `BUCKETS` - 1 with a weight for every feature."""
    found = features_of(text)
    assert len(found.buckets) == len(found.weights)
    assert all(0 <= bucket < BUCKETS for bucket in found.buckets)
    assert set(found.weights) <= {WORD, PART}
    assert bool(found.buckets) == bool(words_of(text))
    assert features_of(text) == found


@given(st.text(st.characters(categories=("P", "S", "Z", "C")), max_size=30))
def test_a_text_without_letters_and_digits_has_no_features(text: str) -> None:
    """Nothing, blanks, punctuation, symbols and controls say nothing."""
    assert features_of(text) == Features((), ())


@pytest.mark.parametrize("text", ["x500", "42", "iphone12pro", "٣", "३२gb", "3d打印"])
def test_a_word_with_a_digit_has_no_parts(text: str) -> None:
    """A model number resembles other model numbers and means none of them: it is known whole or not at all."""
    assert features_of(text) == named({f"w{text}": WORD})


def test_a_model_number_leaves_its_neighbours_their_parts() -> None:
    """Only the word with the digit goes without."""
    assert parts_of("drill x500 red") == parts_of("drill red") == parts_of("drill") + parts_of("red")


@given(
    word=st.text(LATIN, min_size=12, max_size=30),
    at=st.integers(0, 28),
    kind=st.sampled_from(["lost", "doubled", "swapped"]),
)
def test_a_misspelt_word_shares_most_parts_with_the_right_one(word: str, at: int, kind: str) -> None:
    """Of a word of twelve letters or more, one that is lost, doubled or swapped leaves over half of the parts."""
    at %= len(word) - 1
    typed = {
        "lost": word[:at] + word[at + 1 :],
        "doubled": word[: at + 1] + word[at:],
        "swapped": word[:at] + word[at + 1] + word[at] + word[at + 2 :],
    }[kind]
    right = parts_of(word)
    assert 2 * (right & parts_of(typed)).total() > right.total()


@pytest.mark.parametrize(
    ("right", "typed", "other"),
    [
        ("headphones", "headphnes", "microphone stand"),
        ("waterproof", "watterproof", "windbreaker"),
        ("登山鞋男士", "登山鞋男土", "咖啡机"),
        ("กระเป๋าเดินทาง", "กระเป๋าเดนทาง", "รองเท้าวิ่ง"),
        ("किताबों", "कीताबों", "जूते"),
    ],
)
def test_a_misspelt_word_is_nearer_to_the_right_one_than_another_word(right: str, typed: str, other: str) -> None:
    """In any script."""
    parts, wrong = parts_of(right), parts_of(typed)
    assert (parts & wrong).total() > (parts_of(other) & wrong).total()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("红色书架", ["红色书架"]),
        ("赤いソファー 二人用", ["赤いソファー", "二人用"]),
        ("หนังสือ ใหม่", ["หนังสือ", "ใหม่"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("파란 의자", ["파란", "의자"]),
        ("weißes bücherregal, neu", ["weisses", "bücherregal", "neu"]),
        ('t-shirt 13.3"', ["t", "shirt", "13", "3"]),
    ],
    ids=["chinese", "japanese", "thai", "hindi", "korean", "german", "inner"],
)
def test_words_keep_their_marks_in_any_script(text: str, found: list[str]) -> None:
    """Vowels and tones that stand on a letter belong to it, and every word has a feature of its own."""
    rendered = render_query(text)
    buckets = features_of(rendered).buckets
    assert words_of(rendered) == found
    assert buckets[: len(found)] == tuple(crc32(f"w{word}".encode()) % BUCKETS for word in found)


def test_a_lone_surrogate_parts_words() -> None:
    """What UTF-8 cannot write is no letter."""
    assert features_of("red\ud800sofa") == features_of("red sofa")
