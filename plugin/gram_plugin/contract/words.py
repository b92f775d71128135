"""Words of a text in any script: where they begin and end, and how they are written beside each other.

A word keeps its combining marks (Hindi's vowels, Arabic's points). Scripts that put no spaces between words have no
word that a rule could find: there every character with its marks is a word of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

_WITHOUT_SPACES = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han, Kana
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Myanmar, Khmer
)
_STACKERS = "\u1039\u17d2"
"""Marks of Myanmar and Khmer that put the next consonant below this one: no word ends with them."""
_JOINERS = "\u200c\u200d"
_VARIANTS = "\U000e0100-\U000e01ef"
"""Selectors of a character's variant: the only combining marks beyond `_LAST_PLANE_READ`."""
_LAST_PLANE_READ = 0x20000

_PART = re.compile(f"[{_WITHOUT_SPACES}]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a word stands: `text[start:end]`."""

    start: int
    end: int


def words(text: str) -> list[str]:
    """The words of a normalised text, from left to right."""
    return _pattern().findall(text)


def places(text: str) -> list[Place]:
    """Where the words of a normalised text stand, from left to right."""
    return [Place(*found.span()) for found in _pattern().finditer(text)]


def is_part(word: str) -> bool:
    """Whether a word is a character of a script that puts no spaces between words."""
    return _PART.match(word) is not None


def written(text: str, span: Sequence[Place]) -> str:
    """Neighbouring words of a text as people type them: a space where anything was between them, else nothing."""
    gaps = ["" if first.end == second.start else " " for first, second in pairwise(span)]
    return "".join(gap + text[place.start : place.end] for gap, place in zip(["", *gaps], span, strict=False))


def joined(found: Sequence[str]) -> str:
    """Words as one text, without a space between two characters of scripts that put none."""
    parts = [is_part(word) for word in found]
    gaps = ["" if first and second else " " for first, second in pairwise(parts)]
    return "".join(gap + word for gap, word in zip(["", *gaps], found, strict=False))


@cache
def _pattern() -> re.Pattern[str]:
    marks = f"[{_marks()}{_JOINERS}]"
    part = rf"(?=[^\W_])[{_WITHOUT_SPACES}]{marks}*"
    letter = rf"[a-z0-9]++|[^\W_{_WITHOUT_SPACES}]"  # the first of these changes nothing but the time it takes
    letters = rf"(?:{letter})(?:{letter}|{marks})*"
    return re.compile(rf"{part}(?:(?<=[{_STACKERS}]){part})*|{letters}(?:[.\-'’]{letters})*")


def _marks() -> str:
    """All combining marks as ranges of a character class."""
    every = [at for at in range(_LAST_PLANE_READ) if unicodedata.category(chr(at)) in ("Mn", "Mc")]
    starts = [at for before, at in zip([-2, *every], every, strict=False) if at != before + 1]
    ends = [at for at, after in zip(every, [*every[1:], -2], strict=True) if after != at + 1]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True)) + _VARIANTS
