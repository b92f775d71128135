"""Nearest queries against plain loops, in the linear arm and in its file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.features import BUCKETS
from gram_plugin.decode.likely import Likely
from gram_plugin.decode.linear import LinearArm, direction_of
from gram_plugin.decode.nearest import DOUBT, NEIGHBOURS, SHARPNESS, NearestQueries
from gram_plugin.decode.shortlist import ClusteredCodes
from gram_plugin.errors import BundleError

WIDTH, CODES = 3, 6


def memory(queries: int, *, seed: int = 0, share: float = 0.4) -> NearestQueries:
    """So many queries in random directions that want one to three codes each."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(queries, WIDTH)).astype(np.float32)
    wanted = [rng.permutation(CODES)[: rng.integers(1, 4)] for _ in range(queries)]
    return NearestQueries(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        np.cumsum([0, *map(len, wanted)]).astype(np.int64),
        np.concatenate(wanted).astype(np.int32),
        np.concatenate([np.full(len(own), 1 / len(own)) for own in wanted]).astype(np.float32),
        share,
    )


def slow_probabilities(known: NearestQueries, direction: np.ndarray) -> list[float]:
    """The thirty nearest, one after the other."""
    cosines = [sum(float(a) * float(b) for a, b in zip(row, direction, strict=True)) for row in known.vectors]
    counted = sorted(((max(0.0, cosine) ** SHARPNESS, at) for at, cosine in enumerate(cosines)), reverse=True)
    nearest = counted[:NEIGHBOURS]
    total = DOUBT + sum(closeness for closeness, _ in nearest)
    found = [0.0] * CODES
    for closeness, at in nearest:
        for place in range(known.offsets[at], known.offsets[at + 1]):
            found[known.codes[place]] += closeness / total * float(known.weights[place])
    return found


def told(found: Likely) -> list[float]:
    """The probability of every code."""
    every = np.zeros(CODES)
    every[found.code] = found.probability
    return every.tolist()


@given(queries=st.integers(1, 80), seed=st.integers(0, 999))
def test_probabilities_equal_the_slow_reference(queries: int, seed: int) -> None:
    """Of few queries and of more than are looked at; codes that no neighbour wanted are not told."""
    known = memory(queries, seed=seed)
    direction = memory(1, seed=seed + 1).vectors[0]
    found, expected = known.likely(direction), slow_probabilities(known, direction)
    np.testing.assert_allclose(told(found), expected, atol=1e-5)
    assert 0 <= found.probability.sum() < 1
    assert {code for code, part in enumerate(expected) if part > 1e-6} <= set(found.code.tolist())
    assert len(found.code) <= CODES and (np.diff(found.code) > 0).all()


def test_a_query_that_was_asked_gets_what_it_wanted() -> None:
    """Most of it; the doubt is the rest. One that is like nothing gets nothing."""
    known = dataclasses.replace(
        memory(1),
        offsets=np.array([0, 2]),
        codes=np.array([4, 1], np.int32),
        weights=np.array([0.75, 0.25], np.float32),
    )
    found = known.likely(known.vectors[0])
    assert found.code.tolist() == [1, 4]
    np.testing.assert_allclose(found.probability, np.array([0.25, 0.75]) / (1 + DOUBT), atol=1e-6)
    assert known.likely(-known.vectors[0]).code.tolist() == []


@pytest.fixture(scope="module")
def arm() -> LinearArm:
    """An arm that remembers."""
    rng = np.random.default_rng(1)
    shapes = (BUCKETS, WIDTH), (CODES, WIDTH), (CODES,)
    features, codes, bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    clustered = ClusteredCodes.of(codes, bias, np.array([0, 1, 2, 0, 1, 2]))
    return LinearArm(features.astype(np.float16), clustered, CODES, memory(5))


@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("scored_codes", [1, CODES])
def test_an_arm_mixes_its_nearest_queries_in(arm: LinearArm, share: float, scored_codes: int) -> None:
    """It is share · P_nearest + (1 - share) · P, of what neighbours wanted too where nobody looked at it."""
    assert arm.nearest is not None
    arm = dataclasses.replace(arm, nearest=dataclasses.replace(arm.nearest, share=share), scored_codes=scored_codes)
    direction = direction_of(arm.features, "red sofa")
    assert arm.nearest is not None and direction is not None
    assert math.isclose(float(np.linalg.norm(direction)), 1.0, abs_tol=1e-5)
    near = arm.nearest.likely(direction)
    found = arm.likely("red sofa", 1, np.empty(0, np.int64))
    assert found is not None
    alone = dataclasses.replace(arm, nearest=None).likely("red sofa", 1, found.code)
    assert alone is not None and alone.code.tolist() == found.code.tolist()
    assert set(near.code.tolist()) <= set(found.code.tolist())
    expected = share * np.array(told(near)) + (1 - share) * np.array(told(alone))
    np.testing.assert_allclose(told(found), expected, atol=1e-12)


def test_a_saved_arm_remembers_its_queries_in_half_precision(arm: LinearArm, tmp_path: Path) -> None:
    """Vectors and weights are rounded, all else is kept."""
    arm.save(tmp_path / "linear.npz")
    found = LinearArm.load(tmp_path / "linear.npz", CODES).nearest
    known = arm.nearest
    assert found is not None and known is not None
    for name in ("vectors", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(known, name).astype(np.float16).astype(np.float32))
    for name in ("offsets", "codes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(known, name))
    assert found.share == known.share


SPOILT: dict[str, Any] = {
    "vectors of another width": {"nearest_vectors": np.zeros((5, WIDTH + 1))},
    "vectors that are none": {"nearest_vectors": np.zeros(5)},
    "an infinite vector": {"nearest_vectors": np.full((5, WIDTH), np.inf)},
    "a query too many": {"nearest_vectors": np.zeros((6, WIDTH))},
    "offsets that fall": {"nearest_offsets": np.array([0, 3, 2, 3, 4, 5])},
    "offsets beyond the end": {"nearest_offsets": np.array([0, 1, 2, 3, 4, 500])},
    "no offset": {"nearest_offsets": np.zeros(0)},
    "a code beyond the codebook": {"nearest_codes": np.full(5, CODES), "nearest_offsets": np.arange(6)},
    "a code below zero": {"nearest_codes": np.full(5, -1), "nearest_offsets": np.arange(6)},
    "a weight below zero": {"nearest_weights": np.full(5, -1.0)},
    "a share above one": {"nearest_share": np.float64(1.5)},
    "no share": {"nearest_share": np.float64(0.0)},
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT.keys())
def test_nearest_queries_that_do_not_fit_are_refused(arm: LinearArm, spoilt: dict[str, Any], tmp_path: Path) -> None:
    """When the bundle is opened, not with a query."""
    path = tmp_path / "linear.npz"
    one_each = dataclasses.replace(
        memory(5), offsets=np.arange(6), codes=np.arange(5, dtype=np.int32), weights=np.ones(5, np.float32)
    )
    dataclasses.replace(arm, nearest=one_each).save(path)
    LinearArm.load(path, CODES)
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, **spoilt})
    with pytest.raises(BundleError, match=r"linear\.npz does not fit .* 6 codes: its nearest queries have other codes"):
        LinearArm.load(path, CODES)


@pytest.mark.parametrize("name", ["nearest_vectors", "nearest_offsets", "nearest_codes", "nearest_weights"])
def test_an_arm_that_forgot_a_part_of_its_queries_is_refused(arm: LinearArm, name: str, tmp_path: Path) -> None:
    """The message names the part."""
    path = tmp_path / "linear.npz"
    arm.save(path)
    with np.load(path) as stored:
        rest = {part: array for part, array in stored.items() if part != name}
    np.savez(path, **rest)
    with pytest.raises(BundleError, match=f"is no linear arm: KeyError.*{name}"):
        LinearArm.load(path, CODES)
