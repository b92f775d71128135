"""The exact arm of training, and the arm that serves against it."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_exporter.trainedarm import TrainedArm
from gram_plugin.contract.features import BUCKETS, FEATURES_VERSION, features_of
from gram_plugin.decode.nearest import NearestQueries
from gram_plugin.errors import BundleError, ExportError

WIDTH, CODES = 8, 3000
NONE = np.empty(0, np.int64)
TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: bool(features_of(text).buckets))


@cache
def make(codes: int = CODES, *, share: float | None = None) -> TrainedArm:
    """An arm that knows every feature; its codes are made of few parts, as combinations of attributes are."""
    rng = np.random.default_rng(0)
    parts = 1.5 * rng.normal(size=(60, WIDTH)) / math.sqrt(WIDTH)
    vectors = parts[rng.integers(60, size=(codes, 2))].sum(axis=1) + 0.1 * rng.normal(size=(codes, WIDTH))
    features, bias = rng.normal(size=(BUCKETS, WIDTH)), 0.3 * rng.normal(size=codes)
    arm = TrainedArm(features.astype(np.float32), vectors.astype(np.float32), bias.astype(np.float32))
    if share is None:
        return arm
    directions = np.stack([arm.direction(f"query {at}") for at in range(5)])
    wanted = (np.arange(10) % codes).astype(np.int32)
    offsets, weights = np.arange(0, 11, 2), np.full(10, 0.5, np.float32)
    return dataclasses.replace(arm, nearest=NearestQueries(directions, offsets, wanted, weights, share))


@pytest.fixture(scope="module")
def arm() -> TrainedArm:
    """An arm without neighbours."""
    return make()


@given(text=TEXTS)
def test_probabilities_are_the_softmax_of_all_codes(text: str) -> None:
    """One multiplication at a time, on a few codes."""
    arm = make(5)
    found, direction = arm.probabilities(text), arm.direction(text)
    assert found is not None and direction is not None
    logits = [8 * sum(map(float, direction * row)) + float(one) for row, one in zip(arm.codes, arm.bias, strict=True)]
    total = sum(map(math.exp, logits))
    np.testing.assert_allclose(found, [math.exp(logit) / total for logit in logits], rtol=1e-4)


@pytest.mark.parametrize("text", ["", "—!?"])
def test_a_text_without_features_has_no_probabilities(arm: TrainedArm, text: str) -> None:
    """Nothing said, nothing known."""
    assert arm.probabilities(text) is None


def test_neighbours_take_their_share_of_the_probability() -> None:
    """What was asked before gets half of what it wanted, and all sums to less than one by the doubt."""
    remembering = make(share=0.5)
    alone = dataclasses.replace(remembering, nearest=None).probabilities("query 3")
    found = remembering.probabilities("query 3")
    assert alone is not None and found is not None and remembering.nearest is not None
    direction = remembering.direction("query 3")
    assert direction is not None
    near = remembering.nearest.likely(direction)
    assert found.sum() == pytest.approx(0.5 + 0.5 * near.probability.sum())
    np.testing.assert_allclose(found[near.code], 0.5 * alone[near.code] + 0.5 * near.probability)


@settings(max_examples=60)
@given(text=TEXTS, share=st.sampled_from([None, 0.4]))
def test_what_serves_equals_the_exact_arm_where_it_looks_at_all_codes(text: str, share: float | None) -> None:
    """But for the rounding of vectors: a logit is off by half a unit at every column at most, neighbours or not."""
    trained = make(300, share=share)
    served = trained.for_serving(300)
    found, expected = served.likely(text, 300, NONE), trained.probabilities(text)
    assert found is not None and expected is not None and found.code.tolist() == list(range(300))
    off = 8 * math.sqrt(WIDTH) * 0.501 * float(served.codes.scale.max()) + 0.02  # features are in half precision
    assert np.abs(np.log(found.probability / expected)).max() <= 2 * off


def test_what_serves_finds_nearly_all_of_the_best_codes_and_keeps_their_probabilities(arm: TrainedArm) -> None:
    """Of 3,000 codes it looks at 400: of the best 24 more than nine in ten, and the others' part is estimated."""
    served = arm.for_serving(400)
    recalls, errors = [], []
    for at in range(60):
        exact, found = arm.probabilities(f"query {at}"), served.likely(f"query {at}", 24, NONE)
        assert exact is not None and found is not None
        best = np.argsort(-exact)[:24]
        recalls.append(np.isin(best, found.code).mean())
        errors.append(np.abs(np.log(found.probability / exact[found.code])).mean())
    assert len(served.codes.mass) > 100
    assert np.mean(recalls) > 0.9
    assert np.mean(errors) < 0.1


def test_codes_that_others_name_keep_their_probability_too(arm: TrainedArm) -> None:
    """The least likely ones, which nobody looks at."""
    exact = arm.probabilities("sofa")
    assert exact is not None
    worst = np.sort(np.argsort(exact)[:10])
    found = arm.for_serving(400).likely("sofa", 1, worst)
    assert found is not None and set(worst.tolist()) < set(found.code.tolist())
    told = found.probability[np.searchsorted(found.code, worst)]
    np.testing.assert_allclose(told, exact[worst], rtol=0.4)


def test_a_saved_arm_is_read_back_in_half_precision(tmp_path: Path) -> None:
    """Matrices are rounded to float16, biases are kept; all is float32 again, and neighbours are remembered."""
    arm = make(7, share=0.3)
    arm.save(tmp_path / "linear.npz")
    found = TrainedArm.load(tmp_path / "linear.npz", 7)
    np.testing.assert_array_equal(found.features, arm.features.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found.codes, arm.codes.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found.bias, arm.bias)
    assert {part.dtype for part in (found.features, found.codes, found.bias)} == {np.dtype(np.float32)}
    assert found.nearest is not None and found.nearest.share == 0.3


def saved(path: Path, arm: TrainedArm, **spoilt: Any) -> Path:
    """The arm's file with some of its arrays replaced."""
    arm.save(path)
    with np.load(path) as stored:
        arrays = {**stored, **spoilt}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("spoilt", "finding"),
    [
        ({"features": np.zeros((BUCKETS, WIDTH - 1))}, "does not fit the codebook of 7 codes: its shapes are"),
        ({"codes": np.full((7, WIDTH), np.nan)}, "does not fit the codebook of 7 codes: its shapes are"),
        ({"bias": np.zeros(8)}, "does not fit the codebook of 7 codes: its shapes are"),
        ({"bias": np.array([{}], dtype=object)}, r"is no linear arm: ValueError.*allow_pickle"),
        ({"nearest_share": np.float64(2.0)}, "its nearest queries do not fit its 7 codes"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, spoilt: dict[str, Any], finding: str) -> None:
    """With the command that makes another."""
    path = saved(tmp_path / "linear.npz", make(7, share=0.3), **spoilt)
    with pytest.raises(ExportError, match=f"{finding}.* — run `gram train` again"):
        TrainedArm.load(path, 7)


def test_features_of_another_version_are_refused(tmp_path: Path) -> None:
    """They would mean something else here."""
    path = saved(tmp_path / "linear.npz", make(7), version=np.int64(FEATURES_VERSION + 1))
    with pytest.raises(BundleError, match="reads features of version 2, this program makes version 1"):
        TrainedArm.load(path, 7)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(ExportError, match=r"linear\.npz is no linear arm: FileNotFoundError"):
        TrainedArm.load(tmp_path / "linear.npz", 7)
