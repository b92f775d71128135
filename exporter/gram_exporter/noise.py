"""Typing errors for the query side of training: what fingers do, in any script."""

from __future__ import annotations

import numpy as np

MISTYPED_SHARE = 0.35
MIN_CHARS = 4


def mistype(text: str, rng: np.random.Generator, share: float = MISTYPED_SHARE) -> str:
    """With probability `share`, one word of at least four characters loses, doubles or swaps a character."""
    if rng.random() >= share:
        return text
    tokens = text.split(" ")
    long = [at for at, token in enumerate(tokens) if len(token) >= MIN_CHARS and not token.isdecimal()]
    if long:
        at = long[int(rng.integers(len(long)))]
        tokens[at] = _mistyped_word(tokens[at], int(rng.integers(len(tokens[at]) - 1)), int(rng.integers(3)))
    return " ".join(tokens)


def _mistyped_word(word: str, at: int, kind: int) -> str:
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[: at + 1] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
