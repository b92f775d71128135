"""Retrieval measures and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.measures import (
    ALL,
    EMPTY,
    JUDGED,
    JUDGED_ONLY,
    RELEVANT,
    Bootstrap,
    Interval,
    Missed,
    found_of_missed,
    interval,
    measured_queries,
    per_query,
    quantile,
)

JUDGMENTS = {"red shoe": {"a": 3.0, "b": 1.0, "c": 0.0}, "hat": {"h": 1.0}, "nothing fits": {"a": 0.0}}


def _reference_ndcg(page: list[str], grades: dict[str, float]) -> float:
    gain = sum(grades.get(key, 0.0) / math.log2(at + 2) for at, key in enumerate(page[:10]))
    best = sum(g / math.log2(at + 2) for at, g in enumerate(sorted(grades.values(), reverse=True)[:10]))
    return gain / best


def test_queries_without_a_relevant_product_are_left_out() -> None:
    """They cannot tell one arm from another."""
    assert measured_queries(JUDGMENTS) == ["red shoe", "hat"]


def test_measures_of_a_page_by_hand() -> None:
    """Grades, discounts, recall, shares, empty pages, and the same without the hit that nobody judged."""
    run = {"red shoe": ["x", "c", "a"]}
    found = per_query(run, JUDGMENTS, ["red shoe", "hat"])
    whole, condensed = (_reference_ndcg(page, JUDGMENTS["red shoe"]) for page in (["x", "c", "a"], ["c", "a"]))
    first = {
        "nDCG@10": whole,
        "R@10": 0.5,
        "R@100": 0.5,
        "R@300": 0.5,
        RELEVANT: 1 / 3,
        JUDGED: 2 / 3,
        EMPTY: 0.0,
        JUDGED_ONLY["nDCG@10"]: condensed,
        **{JUDGED_ONLY[name]: 0.5 for name in ("R@10", "R@100", "R@300", RELEVANT)},
    }
    assert tuple(found) == ALL
    assert {name: values.tolist() for name, values in found.items()} == {
        name: [pytest.approx(value), 1.0 if name == EMPTY else 0.0] for name, value in first.items()
    }


def test_recall_reads_to_its_own_depth() -> None:
    """A product at place 101 counts for R@300 alone; unjudged hits before it do not count against judged-only."""
    run = {"hat": [*(f"x{n}" for n in range(100)), "h"]}
    found = per_query(run, JUDGMENTS, ["hat"])
    assert {name: float(found[name][0]) for name in ("R@10", "R@100", "R@300", JUDGED_ONLY["R@10"])} == {
        "R@10": 0.0,
        "R@100": 0.0,
        "R@300": 1.0,
        JUDGED_ONLY["R@10"]: 1.0,
    }


def test_what_an_arm_finds_of_the_missed() -> None:
    """Only relevant products that the baseline lacks at the depth count, found within the same depth."""
    judged = {"q": {"a": 1.0, "b": 2.0, "c": 1.0, "d": 0.0}, "r": {"a": 1.0}}
    missed = found_of_missed({"q": ["a", "b"]}, {"q": ["c", "d", "b"], "r": ["x", "a"]}, judged, ["q", "r"], 1)
    deeper = found_of_missed({"q": ["a", "b"]}, {"q": ["c", "d", "b"], "r": ["x", "a"]}, judged, ["q", "r"], 2)
    assert (missed.missed.tolist(), missed.found.tolist()) == ([2.0, 1.0], [1.0, 0.0])
    assert (deeper.missed.tolist(), deeper.found.tolist()) == ([1.0, 1.0], [1.0, 1.0])


def test_the_bootstrap_of_a_mean_is_that_of_the_slow_way() -> None:
    """Counts times values give what drawing the values again and again gives."""
    values = np.random.default_rng(3).normal(size=40)
    slow, quick = interval(values), Bootstrap(40).mean(values)
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_the_share_of_the_missed_is_pooled() -> None:
    """A query that misses three counts three times as much as one that misses one; where none is missed, none."""
    share = Bootstrap(2).share(Missed(np.array([3.0, 1.0]), np.array([3.0, 0.0])))
    assert share == Interval(0.75, 0.0, 1.0)
    assert Bootstrap(2).share(Missed(np.zeros(2), np.zeros(2))) is None


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
