"""Seeded draws that fall the same on every machine, Python version and run.

Only `random.Random(int).random()` is used, the one sequence that Python promises to keep.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Words:
    """Ways to say one thing, with relative frequencies > 0."""

    texts: tuple[str, ...]
    weights: tuple[float, ...]

    def share(self, text: str) -> float:
        """The fraction of writers who use this text, 0 when nobody does."""
        return sum(weight for word, weight in zip(self.texts, self.weights, strict=True) if word == text) / sum(
            self.weights
        )


class Dice:
    """A stream of draws for one purpose, named by its keys: other purposes never shift it."""

    def __init__(self, *keys: str | int) -> None:
        digest = hashlib.blake2b("\x1f".join(map(str, keys)).encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "big")).random

    def fraction(self) -> float:
        """Uniform in [0, 1)."""
        return self._random()

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def index(self, size: int) -> int:
        """Uniform in 0..size-1."""
        return int(self._random() * size)

    def pick(self, items: Sequence[T]) -> T:
        """One item, each as likely."""
        return items[int(self._random() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One item, in proportion to its weight."""
        sums = list(accumulate(weights))
        return items[min(bisect(sums, self._random() * sums[-1]), len(items) - 1)]

    def word(self, words: Words) -> str:
        """One way to say it, in proportion to how often it is said."""
        return self.weighted(words.texts, words.weights)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.index(last + 1)
            result[last], result[other] = result[other], result[last]
        return result

    def sample(self, items: Sequence[T], size: int) -> list[T]:
        """At most `size` different items in random order."""
        return self.shuffled(items)[:size]
