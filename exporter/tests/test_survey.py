"""Field statistics over a sample, and the sample itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.survey import FieldProfile, sample, survey

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def profile_of(name: str, values: list[Any]) -> FieldProfile:
    """The profile of one field with these values, one for each product."""
    return next(profile for profile in survey([{name: value} for value in values]) if profile.name == name)


def test_profile_counts_values_once_for_each_product() -> None:
    """Lists and objects are taken apart, empty values are none, and shares are of values or products."""
    sources = [
        {"specs": {"colour": ["red", "red", "blue"]}},
        {"specs": [{"colour": "red"}, {"colour": "dark green"}]},
        {"specs": {"colour": " "}},
        {"specs": None},
    ]
    assert survey(sources) == [
        FieldProfile(
            name="specs.colour",
            coverage=0.5,
            products=2,
            per_product=2.0,
            distinct=3,
            repetition=0.5,
            top_share=0.5,
            diversity=1 - (0.5**2 + 0.25**2 + 0.25**2),
            words=5 / 4,
            longest_share=0.0,
            numbers=0.0,
            booleans=0.0,
            urls=0.0,
            dates=0.0,
            examples=("red", "blue", "dark green"),
        )
    ]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numbers", [1, 2.5, "1.234,50", "20 x 30", "-"]),
        ("booleans", [True, "no", "Ja", 0, "いいえ"]),
        ("urls", ["https://a.example/b", "//cdn/x", "img/7.JPG"]),
        ("dates", ["2020-01-31", "2020-01-31T10:00:00Z", "31.1.2020"]),
    ],
)
def test_kinds_of_values(kind: str, values: list[Any]) -> None:
    """Numbers, flags, links and dates are told from words."""
    assert getattr(profile_of("f", values), kind) == 1.0
    assert not profile_of("f", values).is_wordy
    assert profile_of("f", ["red shoe", "24 inch", "USB 2.0 x"]).is_wordy


@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=4), max_size=5))
def test_any_documents_can_be_surveyed(sources: list[dict[str, Any]]) -> None:
    """Whatever a catalogue holds, shares stay between 0 and 1."""
    for profile in survey(sources):
        shares = (profile.coverage, profile.repetition, profile.top_share, profile.diversity, profile.numbers)
        assert all(0.0 <= share <= 1.0 for share in shares)


@given(st.integers(0, 300), st.integers(1, 20))
def test_sample_is_bounded_and_ordered(count: int, most: int) -> None:
    """A sample keeps order, has no doubles, and looks at the head of an endless catalogue only."""
    drawn = sample(iter(range(count)), most)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, most)
    assert max(drawn, default=0) < 20 * most
