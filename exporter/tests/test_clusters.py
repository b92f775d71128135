"""Clusters of codes that lie near each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gram_exporter.clusters import clusters_of


def blobs(codes: int, blobs: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in so many narrow heaps far from each other, and whose heap each is."""
    rng = np.random.default_rng(seed)
    own = rng.integers(blobs, size=codes)
    centres = 10 * rng.normal(size=(blobs, 8))
    return (centres[own] + 0.01 * rng.normal(size=(codes, 8))).astype(np.float32), own


@settings(max_examples=30)
@given(codes=st.integers(1, 400), scored=st.integers(1, 50), seed=st.integers(0, 99))
@example(codes=3, scored=1, seed=0)
def test_every_code_has_a_cluster_and_no_cluster_is_empty_or_large(codes: int, scored: int, seed: int) -> None:
    """Numbers without gaps; one for up to twice the codes that are looked at, else none of over four times the mean."""
    rng = np.random.default_rng(seed)
    vectors, bias = rng.normal(size=(codes, 4)).astype(np.float32), rng.normal(size=codes).astype(np.float32)
    found = clusters_of(vectors, bias, scored=scored, seed=seed)
    counts = np.bincount(found)
    assert found.shape == (codes,) and counts.min() > 0
    if codes <= 2 * scored:
        assert counts.tolist() == [codes]
    else:
        assert len(counts) > 1
        assert counts.max() <= max(1, 4 * codes // round(8 * codes**0.5))


def test_heaps_stay_apart() -> None:
    """No cluster has codes of two heaps, where there are many more clusters than heaps."""
    vectors, own = blobs(4000, 30)
    found = clusters_of(vectors, np.zeros(4000, np.float32), scored=100)
    mixed = [cluster for cluster in range(found.max() + 1) if len(set(own[found == cluster].tolist())) > 1]
    assert len(mixed) <= 0.02 * found.max()


def test_codes_of_one_vector_are_told_apart_by_their_bias() -> None:
    """It is part of the logit: what is likely for every query lies together."""
    bias = np.repeat(np.array([0.0, 40.0], np.float32), 500)
    found = clusters_of(np.zeros((1000, 4), np.float32), bias, scored=10)
    assert not set(found[:500].tolist()) & set(found[500:].tolist())


def test_codes_that_are_all_alike_are_cut_in_order_of_the_codebook() -> None:
    """As an arm that learned nothing leaves them: clusters of at most four times the mean size."""
    found = clusters_of(np.zeros((1000, 4), np.float32), np.zeros(1000, np.float32), scored=10)
    assert (np.diff(found) >= 0).all()
    assert np.bincount(found).max() == 4 * 1000 // round(8 * 1000**0.5)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_clusters(seed: int) -> None:
    """To the last number; another seed differs."""
    vectors, _ = blobs(2000, 20)
    bias = np.zeros(2000, np.float32)
    first = clusters_of(vectors, bias, scored=100, seed=seed)
    np.testing.assert_array_equal(first, clusters_of(vectors, bias, scored=100, seed=seed))
    assert (first != clusters_of(vectors, bias, scored=100, seed=seed + 9)).any()


def test_the_vectors_stay_as_they_were() -> None:
    """They are the arm's own."""
    vectors, _ = blobs(500, 5)
    before = vectors.copy()
    clusters_of(vectors, np.zeros(500, np.float32), scored=10)
    np.testing.assert_array_equal(vectors, before)
