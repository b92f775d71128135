"""Retrieval measures and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.measures import EMPTY, JUDGED, Interval, interval, measured_queries, per_query, quantile

JUDGMENTS = {"red shoe": {"a": 3.0, "b": 1.0, "c": 0.0}, "hat": {"h": 1.0}, "nothing fits": {"a": 0.0}}


def _reference_ndcg(page: list[str], grades: dict[str, float]) -> float:
    gain = sum(grades.get(key, 0.0) / math.log2(at + 2) for at, key in enumerate(page[:10]))
    best = sum(g / math.log2(at + 2) for at, g in enumerate(sorted(grades.values(), reverse=True)[:10]))
    return gain / best


def test_queries_without_a_relevant_product_are_left_out() -> None:
    """They cannot tell one arm from another."""
    assert measured_queries(JUDGMENTS) == ["red shoe", "hat"]


def test_measures_of_a_page_by_hand() -> None:
    """Grades, discounts, recall, empty pages and the judged share are as defined."""
    run = {"red shoe": ["c", "a", "x"]}
    found = per_query(run, JUDGMENTS, ["red shoe", "hat"])
    expected = _reference_ndcg(["c", "a", "x"], JUDGMENTS["red shoe"])
    assert {name: list(values) for name, values in found.items()} == {
        "nDCG@10": [pytest.approx(expected), 0.0],
        "R@10": [0.5, 0.0],
        "R@100": [0.5, 0.0],
        EMPTY: [0.0, 1.0],
        JUDGED: [pytest.approx(2 / 3), 0.0],
    }


@given(
    st.permutations([f"p{n}" for n in range(12)]),
    st.dictionaries(
        st.sampled_from([f"p{n}" for n in range(12)]), st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, 3.0]), min_size=1
    ),
)
def test_ndcg_equals_the_slow_formula(page: list[str], grades: dict[str, float]) -> None:
    """For any page and any grades with a relevant product."""
    if not any(grades.values()):
        return
    found = per_query({"q": page}, {"q": grades}, ["q"])["nDCG@10"][0]
    assert found == pytest.approx(_reference_ndcg(page, grades))


def test_interval_of_equal_values_is_a_point() -> None:
    """Without spread there is nothing to be uncertain about."""
    assert interval(np.full(20, 0.25)) == Interval(0.25, 0.25, 0.25)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    """Over 200 samples of 60 normal values, 95 % intervals hold the mean in 89 to 99 of 100."""
    rng = np.random.default_rng(5)
    drawn = [interval(rng.normal(1.0, 2.0, 60), resamples=400) for _ in range(200)]
    assert 0.89 <= np.mean([found.low <= 1.0 <= found.high for found in drawn]) <= 0.99


def test_interval_of_a_quantile() -> None:
    """The statistic is that of the sample, inside its own interval."""
    values = np.arange(101.0)
    found = interval(values, statistic=quantile(0.5))
    assert found.value == 50.0 and found.low < 50.0 < found.high


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_excludes_zero(low: float, high: float, expected: bool) -> None:
    """Only an interval on one side of zero does."""
    assert Interval((low + high) / 2, low, high).excludes_zero is expected
