"""The greatest of many numbers against sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.decode.greatest import greatest


@given(
    size=st.integers(0, 3000),
    count=st.integers(1, 40),
    values=st.sampled_from([2, 50, 10**6]),
    seed=st.integers(0, 999),
)
def test_they_are_those_of_a_stable_sort(size: int, count: int, values: int, seed: int) -> None:
    """Of few and of many numbers, with many equal ones and with none: the same positions in the same order."""
    numbers = np.random.default_rng(seed).integers(0, values, size).astype(np.float32)
    assert greatest(numbers, count).tolist() == np.argsort(-numbers, kind="stable")[:count].tolist()


@pytest.mark.parametrize("size", [30, 5000])
def test_what_is_minus_infinite_comes_last(size: int) -> None:
    """Numbers that were ruled out are taken only when there are no others."""
    numbers = np.full(size, -np.inf)
    numbers[[7, 3]] = [1.0, 2.0]
    assert greatest(numbers, 3).tolist() == [3, 7, 0]
