"""Tests of the statistic behind λ."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.errors import CalibrationError
from gram_plugin.search.calibrate import calibrate_index, score_scale

_pages = st.lists(
    st.lists(st.floats(0.5, 100), min_size=1, max_size=6).map(lambda page: sorted(page, reverse=True)), min_size=1
)


def test_scale_is_the_median_spread() -> None:
    """Pages of one hit or of equal scores say nothing, one odd page changes little."""
    assert score_scale([[9.0, 8.0, 7.0], [5.0, 1.0], [900.0, 1.0], [3.0], [4.0, 4.0]]) == 4.0


def test_constant_scores_fall_back_to_their_level() -> None:
    """Where no page has a spread, a code is worth a typical score."""
    assert score_scale([[1.0, 1.0], [3.0], [2.0]]) == 2.0


@given(_pages, st.sampled_from([0.25, 2.0, 8.0]))
def test_scale_is_proportional_to_scores(pages: list[list[float]], factor: float) -> None:
    """BM25 times any factor gives λ times that factor, so the order of hits does not depend on the version."""
    scaled = [[score * factor for score in page] for page in pages]
    assert score_scale(scaled) == pytest.approx(factor * score_scale(pages))


def test_scores_of_zero_are_refused() -> None:
    """Filters have no scale."""
    with pytest.raises(CalibrationError, match="give every hit the score 0"):
        score_scale([[0.0, 0.0]])


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_strength_is_checked_before_anything_is_asked(strength: float) -> None:
    """A strength that is no number above 0 is refused without a client being used."""
    nobody = cast(Any, None)
    with pytest.raises(CalibrationError, match="give a number above 0"):
        calibrate_index(nobody, "p", ["red"], lambda text: {}, strength=strength)
