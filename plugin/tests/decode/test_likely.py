"""Sums of what several things say of codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.decode.likely import Likely


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1)), max_size=30))
def test_probabilities_of_equal_codes_are_added(parts: list[tuple[int, float]]) -> None:
    """Each code once, ascending, of any order and repetition, also of none."""
    found = Likely.summed(np.array([code for code, _ in parts], np.int32), np.array([part for _, part in parts], float))
    expected = {code: math.fsum(part for own, part in parts if own == code) for code, _ in sorted(parts)}
    assert dict(zip(found.code.tolist(), found.probability.tolist(), strict=True)) == pytest.approx(expected)
    assert found.code.tolist() == sorted(expected)
    assert (found.code.dtype, found.probability.dtype) == (np.int64, np.float64)
