"""Features of a text: words, word pairs and character n-grams, hashed to a fixed number of buckets.

The linear arm reads them, in training and in serving alike. Character n-grams are what makes a misspelled
word resemble the right one (fastText, Bojanowski et al. 2017).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

BUCKETS = 1 << 17
FEATURES_VERSION = 1
"""Raised when the same text gives other features: an arm trained on those must not be served."""

_WORD_WEIGHT = 1.0
_PART_WEIGHT = 0.3
_PARTS = range(3, 6)
_PARTS_WITHOUT_SPACES = range(1, 4)
"""Scripts that put no spaces between words (Han, Kana, Thai, Khmer, ...) and Hangul: their words are one to three
characters long."""
_WITHOUT_SPACES = (("\u0e00", "\u109f"), ("\u1100", "\u11ff"), ("\u1780", "\u17ff"), ("\u2e80", "\uffff"))
_SUPPLEMENTARY = "\U00020000"


@dataclass(frozen=True)
class Features:
    """Buckets of a text, int 0 to `BUCKETS` - 1, and the weight of each; a bucket may come more than once."""

    buckets: tuple[int, ...]
    weights: tuple[float, ...]


def features_of(text: str) -> Features:
    """The features of a rendered text; none for a text without a letter or digit."""
    found = list(_named(words_of(text)))
    return Features(
        tuple(crc32(name.encode("utf-8", "replace")) % BUCKETS for name, _ in found),
        tuple(weight for _, weight in found),
    )


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and combining marks, by Unicode's categories; marks alone are no word."""
    runs = "".join(character if unicodedata.category(character)[0] in "LNM" else " " for character in text).split()
    return [run for run in runs if any(map(str.isalnum, run))]


def _named(words: list[str]) -> Iterator[tuple[str, float]]:
    for word in words:
        yield f"w{word}", _WORD_WEIGHT
    for first, second in pairwise(words):
        yield f"b{first} {second}", _WORD_WEIGHT
    for word in words:
        if not any(map(str.isdigit, word)):  # parts of a model number resemble other numbers and mean nothing
            for part in _parts(word):
                yield f"c{part}", _PART_WEIGHT


def _parts(word: str) -> Iterator[str]:
    framed = f"<{word}>"
    sizes = _PARTS_WITHOUT_SPACES if any(map(_is_without_spaces, word)) else _PARTS
    for size in sizes:
        yield from (framed[at : at + size] for at in range(len(framed) - size + 1))


def _is_without_spaces(character: str) -> bool:
    return character >= _SUPPLEMENTARY or any(first <= character <= last for first, last in _WITHOUT_SPACES)
