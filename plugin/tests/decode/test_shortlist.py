"""Clustered codes against plain loops: exact where all is looked at, near where it is not."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.decode.shortlist import QUERY_LENGTH, ClusteredCodes


def query_of(rng: np.random.Generator, width: int) -> np.ndarray:
    """A random direction of the length of queries."""
    vector = rng.normal(size=width)
    return (QUERY_LENGTH * vector / np.linalg.norm(vector)).astype(np.float32)


def clustered(
    codes: int, clusters: int, *, width: int = 8, spread: float = 0.1, seed: int = 0
) -> tuple[ClusteredCodes, np.ndarray, np.ndarray]:
    """Codes around so many centres, every cluster with one at least, and what was clustered: vectors and biases."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(np.concatenate([np.arange(clusters), rng.integers(clusters, size=codes - clusters)]))
    vectors = (rng.normal(size=(clusters, width))[own] + spread * rng.normal(size=(codes, width))).astype(np.float32)
    bias = rng.normal(size=codes).astype(np.float32)
    return ClusteredCodes.of(vectors, bias, own), vectors, bias


def slow_logits(kept: ClusteredCodes, query: np.ndarray) -> list[float]:
    """Every code's logit in order of the codebook, of the rounded numbers, one multiplication at a time."""
    found = [math.nan] * len(kept.order)
    for row, code in enumerate(kept.order.tolist()):
        vector = (int(number) * float(kept.scale[row]) for number in kept.vectors[row])
        found[code] = sum(a * float(b) for a, b in zip(vector, query, strict=True)) + float(kept.bias[row])
    return found


@given(codes=st.integers(1, 60), clusters=st.integers(1, 12), limit=st.integers(1, 70), seed=st.integers(0, 999))
def test_where_every_cluster_is_looked_at_all_is_exact(codes: int, clusters: int, limit: int, seed: int) -> None:
    """The logits, their order, and log Σ exp over them, whatever the clusters are."""
    kept, _, _ = clustered(codes, min(codes, clusters), seed=seed)
    query = query_of(np.random.default_rng(seed + 1), 8)
    found, expected = kept.shortlist(query, codes), slow_logits(kept, query)
    assert sorted(kept.order[found.rows].tolist()) == list(range(codes))
    np.testing.assert_allclose(found.scores, np.array(expected)[kept.order[found.rows]], atol=1e-4)
    assert found.log_total == pytest.approx(math.log(math.fsum(map(math.exp, expected))), abs=1e-4)
    best = [expected[code] for code in kept.best(found, limit).tolist()]
    np.testing.assert_allclose(best, sorted(expected, reverse=True)[:limit], atol=1e-4)


@given(codes=st.integers(2, 60), clusters=st.integers(1, 30), least=st.integers(1, 60), seed=st.integers(0, 999))
def test_the_best_clusters_are_looked_at_until_there_are_enough(
    codes: int, clusters: int, least: int, seed: int
) -> None:
    """Whole clusters, best centroid first, and not one more than needed."""
    kept, _, _ = clustered(codes, min(codes, clusters), seed=seed)
    query = query_of(np.random.default_rng(seed + 1), 8)
    scores = kept.centroids.astype(float) @ query + kept.centroid_bias
    expected: list[int] = []
    for cluster in sorted(range(len(scores)), key=lambda at: -scores[at]):
        if len(expected) >= least:
            break
        expected += range(int(kept.offsets[cluster]), int(kept.offsets[cluster + 1]))
    assert kept.shortlist(query, least).rows.tolist() == expected


@given(codes=st.lists(st.integers(0, 39), max_size=20))
def test_any_code_has_its_logit_though_nobody_looked_at_it(codes: list[int]) -> None:
    """In the order asked, with repetition, also of none."""
    kept, _, _ = clustered(40, 6)
    query = query_of(np.random.default_rng(9), 8)
    expected = np.array(slow_logits(kept, query))[codes]
    np.testing.assert_allclose(kept.logits(np.array(codes, np.int64), query), expected, atol=1e-4)


def test_a_small_cluster_in_front_does_not_end_the_search() -> None:
    """Where the clusters that are best hold one code each, more of them are looked at."""
    vectors = np.zeros((1000, 2), np.float32)
    cluster = np.concatenate([np.arange(100), np.full(900, 100)])
    vectors[:100, 0] = np.linspace(2, 1, 100)
    kept = ClusteredCodes.of(vectors, np.zeros(1000, np.float32), cluster)
    found = kept.shortlist(np.array([QUERY_LENGTH, 0], np.float32), 90)
    assert kept.order[found.rows].tolist() == list(range(90))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_a_number_is_kept_within_half_a_unit(scale: float) -> None:
    """A unit is the greatest number of its code by 127, and a little more, as half precision rounds it."""
    _, vectors, bias = clustered(200, 5)
    kept = ClusteredCodes.of(vectors * np.float32(scale), bias, np.zeros(200, np.int64))
    unit = kept.scale.astype(np.float64)[:, np.newaxis]
    assert (np.abs(kept.vectors * unit - vectors * scale) <= 0.501 * unit).all()
    assert (unit[:, 0] <= np.maximum(1.001 * np.abs(vectors * scale).max(axis=1) / 127, 2.0**-14)).all()


def test_vectors_of_zero_stay_zero() -> None:
    """As training leaves an arm that learned nothing."""
    kept = ClusteredCodes.of(np.zeros((3, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int64))
    assert kept.flaw(3) is None
    assert kept.shortlist(query_of(np.random.default_rng(0), 4), 3).scores.tolist() == [0.0, 0.0, 0.0]


def test_the_share_of_other_clusters_is_estimated() -> None:
    """Log Σ exp over all is met within a tenth on average, and nearer than without the variance within clusters."""
    kept, _, _ = clustered(20_000, 200, width=16, spread=0.1)
    plain = dataclasses.replace(kept, mass=kept.centroid_bias + np.log(np.diff(kept.offsets)).astype(np.float32))
    errors, plain_errors = [], []
    for seed in range(40):
        query = query_of(np.random.default_rng(seed), 16)
        exact = kept.shortlist(query, 20_000).log_total
        errors.append(abs(kept.shortlist(query, 1).log_total - exact))
        plain_errors.append(abs(plain.shortlist(query, 1).log_total - exact))
    assert np.mean(errors) < 0.1 < np.mean(plain_errors)


def test_most_of_the_best_codes_are_found_by_looking_at_a_tenth() -> None:
    """Of codes that lie in clusters, as trained ones do."""
    kept, _, _ = clustered(20_000, 200, width=16, spread=0.1)
    recalls = []
    for seed in range(40):
        query = query_of(np.random.default_rng(seed), 16)
        found, every = kept.shortlist(query, 2_000), kept.shortlist(query, 20_000)
        assert len(found.rows) < 2_300
        recalls.append(np.isin(kept.best(every, 24), kept.best(found, 24)).mean())
    assert np.mean(recalls) > 0.98


def test_what_is_kept_is_read_back_as_it_is() -> None:
    """The same types, and the same objects: nothing is widened."""
    kept, _, _ = clustered(30, 4)
    arrays = kept.arrays()
    found = ClusteredCodes.read(arrays)
    for name, array in arrays.items():
        assert found.arrays()[name] is array
    np.testing.assert_array_equal(found.rows, kept.rows)
    assert sum(part.nbytes for part in (kept.vectors, kept.scale, kept.bias, kept.order, kept.rows)) == 30 * (8 + 12)


@pytest.mark.parametrize(
    ("name", "spoil", "finding"),
    [
        ("vectors", lambda own: own.astype(np.float16), "vectors is of type float16, not int8"),
        ("cluster_offsets", lambda own: own.astype(np.int32), "cluster_offsets is of type int32, not int64"),
        ("code_order", lambda own: np.zeros_like(own), "code_order does not hold every code once"),
        ("code_order", lambda own: own - 1, "code_order does not hold every code once"),
        ("code_order", lambda own: own[:, np.newaxis], "code_order does not hold every code once"),
    ],
)
def test_arrays_of_another_kind_are_refused(name: str, spoil: Any, finding: str) -> None:
    """Before anything is made of them."""
    arrays = clustered(30, 4)[0].arrays()
    with pytest.raises(ValueError, match=finding):
        ClusteredCodes.read({**arrays, name: spoil(arrays[name])})


@pytest.mark.parametrize(
    ("name", "spoil", "finding"),
    [
        ("vectors", lambda own: own[:, :, np.newaxis], r"the shape of vectors is \(30, 8, 1\)"),
        ("vectors", lambda own: own[1:], r"the shape of vectors is \(29, 8\)"),
        ("scale", lambda own: own[1:], r"the shape of scale is \(29,\)"),
        ("bias", lambda own: own[:, np.newaxis], r"the shape of bias is \(30, 1\)"),
        ("centroids", lambda own: own[:, 1:], r"the shape of centroids is \(4, 7\)"),
        ("centroid_bias", lambda own: own[1:], r"the shape of centroid_bias is \(3,\)"),
        ("cluster_offsets", lambda own: own[1:], r"the shape of centroids is \(4, 8\)"),
        ("cluster_offsets", lambda own: own[::-1].copy(), "cluster_offsets do not rise from 0 to 30"),
        ("cluster_offsets", lambda own: np.array([0, 5, 5, 9, 30]), "cluster_offsets do not rise from 0 to 30"),
        ("cluster_offsets", lambda own: own + 1, "cluster_offsets do not rise from 0 to 30"),
        ("scale", lambda own: -own, "scale holds a number that is not above 0"),
        ("scale", lambda own: own + np.float16(np.inf), "scale holds a number that is not finite"),
        ("bias", lambda own: own * np.float16(np.nan), "bias holds a number that is not finite"),
        ("centroids", lambda own: own * np.float32(np.nan), "centroids holds a number that is not finite"),
        ("centroid_bias", lambda own: own - np.float32(np.inf), "centroid_bias holds a number that is not finite"),
        ("cluster_mass", lambda own: own + np.float32(np.inf), "cluster_mass holds a number that is not finite"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(name: str, spoil: Any, finding: str) -> None:
    """With what is wrong about them."""
    arrays = clustered(30, 4)[0].arrays()
    flaw = ClusteredCodes.read({**arrays, name: spoil(arrays[name])}).flaw(30)
    assert flaw is not None
    assert re.search(finding, flaw)


@pytest.mark.parametrize("codes", [29, 31])
def test_another_codebook_is_told(codes: int) -> None:
    """One row for each code, no more and no fewer."""
    kept, _, _ = clustered(30, 4)
    assert kept.flaw(30) is None
    assert kept.flaw(codes) == "the shape of vectors is (30, 8)"
