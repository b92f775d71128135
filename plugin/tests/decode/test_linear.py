"""The linear arm against plain loops, and what becomes of a file that is none."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.contract.features import BUCKETS, FEATURES_VERSION, features_of
from gram_plugin.decode.linear import QUERY_LENGTH, LinearArm
from gram_plugin.errors import BundleError

WIDTH, CODES = 4, 7


@pytest.fixture(scope="module")
def arm() -> LinearArm:
    """An arm of random numbers that knows every feature."""
    rng = np.random.default_rng(0)
    shapes = (BUCKETS, WIDTH), (CODES, WIDTH), (CODES,)
    return LinearArm(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


@pytest.fixture(scope="module")
def saved(arm: LinearArm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arrays of the arm's file."""
    path = tmp_path_factory.mktemp("arm") / "linear.npz"
    arm.save(path)
    with np.load(path) as stored:
        return dict(stored)


def slow_log_probabilities(arm: LinearArm, text: str) -> list[float]:
    """Every code's log softmax, one multiplication at a time."""
    found = features_of(text)
    query = [0.0] * WIDTH
    for bucket, weight in zip(found.buckets, found.weights, strict=True):
        for column in range(WIDTH):
            query[column] += weight * float(arm.features[bucket, column])
    length = math.sqrt(sum(number * number for number in query))
    logits = []
    for code in range(CODES):
        product = sum(QUERY_LENGTH / length * query[column] * float(arm.codes[code, column]) for column in range(WIDTH))
        logits.append(product + float(arm.bias[code]))
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def written(folder: Path, **arrays: Any) -> Path:
    """A file of these arrays."""
    path = folder / "linear.npz"
    np.savez(path, **arrays)
    return path


@settings(deadline=None)
@given(text=st.text(min_size=1, max_size=40).filter(lambda text: bool(features_of(text).buckets)))
def test_log_probabilities_equal_the_slow_reference_and_spread_one(arm: LinearArm, text: str) -> None:
    """Of any text with features every code has its log softmax; the probabilities sum to one, in single precision."""
    found = arm.log_probabilities(text)
    assert found is not None
    np.testing.assert_allclose(found, slow_log_probabilities(arm, text), atol=1e-4)
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("text", ["", " ", "—!?"])
def test_a_text_without_features_has_no_log_probabilities(arm: LinearArm, text: str) -> None:
    """Nothing said, nothing known."""
    assert arm.log_probabilities(text) is None


def test_a_text_of_unknown_features_has_no_log_probabilities(arm: LinearArm) -> None:
    """Rows of zeros are features that training never saw; one that it saw is enough for an answer."""
    known = np.zeros((BUCKETS, 1), dtype=np.float32)
    known[list(features_of("sofa").buckets)] = 1.0
    taught = dataclasses.replace(arm, features=arm.features * known)
    alone, beside = taught.log_probabilities("sofa"), taught.log_probabilities("sofa x500")
    assert taught.log_probabilities("x500") is None
    assert alone is not None and beside is not None
    np.testing.assert_allclose(beside, alone, atol=1e-5)


def test_logits_beyond_what_exp_can_write_are_no_trouble(arm: LinearArm) -> None:
    """The highest logit is taken off first."""
    steep = dataclasses.replace(arm, bias=np.array([5e4, *[-5e4] * (CODES - 1)], dtype=np.float32))
    found = steep.log_probabilities("sofa")
    assert found is not None and np.isfinite(found).all()
    assert np.exp(found).tolist() == [1.0, *[0.0] * (CODES - 1)]


def test_a_saved_arm_is_read_back_in_half_precision(arm: LinearArm, tmp_path: Path) -> None:
    """Matrices are rounded to float16, biases are kept; all is float32 again."""
    arm.save(tmp_path / "linear.npz")
    found = LinearArm.load(tmp_path / "linear.npz", CODES)
    np.testing.assert_array_equal(found.features, arm.features.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found.codes, arm.codes.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found.bias, arm.bias)
    assert {part.dtype for part in (found.features, found.codes, found.bias)} == {np.dtype(np.float32)}


def test_an_arm_of_another_version_is_refused(saved: dict[str, Any], tmp_path: Path) -> None:
    """Its features would mean something else here."""
    path = written(tmp_path, **{**saved, "version": np.int64(FEATURES_VERSION + 1)})
    with pytest.raises(BundleError, match="reads features of version 2, this program makes version 1 — make the"):
        LinearArm.load(path, CODES)


@pytest.mark.parametrize("codes", [CODES - 1, CODES + 1, 1])
def test_an_arm_of_another_codebook_is_refused(saved: dict[str, Any], tmp_path: Path, codes: int) -> None:
    """One vector and one bias for each code, no more and no fewer."""
    with pytest.raises(
        BundleError, match=rf"does not fit the codebook of {codes} codes: its shapes are \(\(131072, 4\)"
    ):
        LinearArm.load(written(tmp_path, **saved), codes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("features", (BUCKETS - 1, WIDTH)),
        ("features", (BUCKETS, WIDTH - 1)),
        ("features", (BUCKETS,)),
        ("features", ()),
        ("codes", (CODES, WIDTH, 1)),
        ("bias", (CODES, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    saved: dict[str, Any], tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    """Before the first text, not with it."""
    with pytest.raises(BundleError, match="does not fit the codebook of 7 codes"):
        LinearArm.load(written(tmp_path, **{**saved, name: np.zeros(shape, dtype=np.float16)}), CODES)


@pytest.mark.parametrize("name", ["features", "codes", "bias"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(
    saved: dict[str, Any], tmp_path: Path, name: str, number: float
) -> None:
    """One of them would make every probability nan."""
    spoilt = saved[name].copy()
    spoilt.flat[-1] = number
    with pytest.raises(BundleError, match="does not fit the codebook"):
        LinearArm.load(written(tmp_path, **{**saved, name: spoilt}), CODES)


@pytest.mark.parametrize("name", ["features", "codes", "bias", "version"])
def test_a_pickle_in_an_arm_is_refused(saved: dict[str, Any], tmp_path: Path, name: str) -> None:
    """It is not read at all: a pickle can run programs."""
    pickled = np.array([{"a": 1}], dtype=object)
    with pytest.raises(BundleError, match=r"is no linear arm: ValueError.*allow_pickle"):
        LinearArm.load(written(tmp_path, **{**saved, name: pickled}), CODES)


@pytest.mark.parametrize("name", ["features", "codes", "bias", "version"])
def test_an_arm_without_one_of_its_parts_is_refused(saved: dict[str, Any], tmp_path: Path, name: str) -> None:
    """The message names what is missing."""
    rest = {part: array for part, array in saved.items() if part != name}
    with pytest.raises(BundleError, match=f"is no linear arm: KeyError.*{name}"):
        LinearArm.load(written(tmp_path, **rest), CODES)


def test_a_missing_arm_is_refused(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(BundleError, match=r"linear\.npz is no linear arm: FileNotFoundError"):
        LinearArm.load(tmp_path / "linear.npz", CODES)


def _bytes_of(save: Any, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


SMALL = {
    "features": np.zeros((3, 2), np.float16),
    "codes": np.zeros((2, 2), np.float16),
    "bias": np.zeros(2, np.float32),
}
FILE = _bytes_of(np.savez, **SMALL, version=np.int64(FEATURES_VERSION))
COMPRESSED = _bytes_of(np.savez_compressed, **SMALL, version=np.int64(FEATURES_VERSION))


@pytest.mark.parametrize("content", [b"", b"no arm", b"PK\x03\x04", FILE[:200], FILE[200:], FILE[:-1]])
def test_a_file_that_is_cut_or_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, text, or half a file."""
    (tmp_path / "linear.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"linear\.npz is no linear arm"):
        LinearArm.load(tmp_path / "linear.npz", CODES)


@settings(max_examples=300, deadline=None)
@given(whole=st.sampled_from([FILE, COMPRESSED]), at=st.integers(0, 5000), put=st.binary(min_size=1, max_size=3))
def test_a_corrupted_file_is_never_anything_but_a_bundle_error(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, at: int, put: bytes
) -> None:
    """Wherever bytes are changed: the small file, of the wrong shapes already, is refused and not crashed on."""
    path = tmp_path_factory.getbasetemp() / "spoilt.npz"
    at %= len(whole)
    path.write_bytes(whole[:at] + put + whole[at + len(put) :])
    with pytest.raises(BundleError):
        LinearArm.load(path, 2)
