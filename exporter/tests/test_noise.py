"""Typing errors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.noise import mistype


@given(st.text(max_size=40), st.integers(0, 2**32))
def test_at_most_one_character_changes(text: str, seed: int) -> None:
    """A mistyped text keeps its number of words and differs by one lost, doubled or swapped character."""
    noisy = mistype(text, np.random.default_rng(seed), share=1.0)
    assert len(noisy.split(" ")) == len(text.split(" "))
    assert abs(len(noisy) - len(text)) <= 1
    assert set(noisy) <= set(text)


def test_numbers_and_short_words_are_left_alone() -> None:
    """A model number or a unit must not turn into another."""
    rng = np.random.default_rng(0)
    assert {mistype("tv 12345 4k", rng, share=1.0) for _ in range(50)} == {"tv 12345 4k"}


def test_share_bounds_how_often() -> None:
    """With share 0 nothing changes."""
    rng = np.random.default_rng(0)
    assert {mistype("notebook", rng, share=0.0) for _ in range(50)} == {"notebook"}
