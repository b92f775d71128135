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
from gram_plugin.decode.linear import LinearArm
from gram_plugin.decode.shortlist import QUERY_LENGTH, ClusteredCodes
from gram_plugin.errors import BundleError

WIDTH, CODES = 4, 7
NONE = np.empty(0, np.int64)
EVERY = np.arange(CODES)


def arm_of(features: np.ndarray, vectors: np.ndarray, bias: np.ndarray, scored_codes: int) -> LinearArm:
    """An arm whose codes are in clusters of two."""
    clustered = ClusteredCodes.of(vectors.astype(np.float32), bias.astype(np.float32), np.arange(len(vectors)) // 2)
    return LinearArm(features.astype(np.float16), clustered, scored_codes)


@pytest.fixture(scope="module")
def arm() -> LinearArm:
    """An arm of random numbers that knows every feature and looks at all codes."""
    rng = np.random.default_rng(0)
    shapes = (BUCKETS, WIDTH), (CODES, WIDTH), (CODES,)
    return arm_of(*(rng.normal(size=shape) for shape in shapes), CODES)


@pytest.fixture(scope="module")
def saved(arm: LinearArm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arrays of the arm's file."""
    path = tmp_path_factory.mktemp("arm") / "linear.npz"
    arm.save(path)
    with np.load(path) as stored:
        return dict(stored)


def slow_probabilities(arm: LinearArm, text: str) -> list[float]:
    """Every code's softmax, one multiplication at a time."""
    found = features_of(text)
    query = [0.0] * WIDTH
    for bucket, weight in zip(found.buckets, found.weights, strict=True):
        for column in range(WIDTH):
            query[column] += weight * float(arm.features[bucket, column])
    length = math.sqrt(sum(number * number for number in query))
    logits = [math.nan] * CODES
    for row, code in enumerate(arm.codes.order.tolist()):
        vector = [int(number) * float(arm.codes.scale[row]) for number in arm.codes.vectors[row]]
        product = sum(QUERY_LENGTH / length * query[column] * vector[column] for column in range(WIDTH))
        logits[code] = product + float(arm.codes.bias[row])
    total = sum(map(math.exp, logits))
    return [math.exp(logit) / total for logit in logits]


def written(folder: Path, **arrays: Any) -> Path:
    """A file of these arrays."""
    path = folder / "linear.npz"
    np.savez(path, **arrays)
    return path


TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: bool(features_of(text).buckets))


@given(text=TEXTS)
def test_probabilities_equal_the_slow_reference_and_sum_to_one(arm: LinearArm, text: str) -> None:
    """Of any text with features, where every code is looked at and told; in single precision."""
    found = arm.likely(text, CODES, NONE)
    assert found is not None
    assert found.code.tolist() == list(range(CODES))
    np.testing.assert_allclose(found.probability, slow_probabilities(arm, text), rtol=1e-3)
    assert found.probability.sum() == pytest.approx(1.0, abs=1e-5)


@given(text=TEXTS, limit=st.integers(1, CODES), also=st.lists(st.integers(0, CODES - 1), max_size=4))
def test_the_likeliest_codes_are_told_and_those_asked_for(
    arm: LinearArm, text: str, limit: int, also: list[int]
) -> None:
    """Each once, with the same probability as among all."""
    every = arm.likely(text, CODES, NONE)
    found = arm.likely(text, limit, np.array(also, np.int64))
    assert every is not None and found is not None
    best = np.argsort(-every.probability, kind="stable")[:limit].tolist()
    assert found.code.tolist() == sorted({*best, *also})
    np.testing.assert_allclose(found.probability, every.probability[found.code], rtol=1e-5)


@given(text=TEXTS)
def test_codes_that_a_query_did_not_look_at_are_told_exactly_but_for_the_estimated_sum(
    arm: LinearArm, text: str
) -> None:
    """All probabilities are off by one factor, and together they are never more than one."""
    hasty = dataclasses.replace(arm, scored_codes=1)
    exact, found = arm.likely(text, 1, EVERY), hasty.likely(text, 1, EVERY)
    assert exact is not None and found is not None
    ratio = found.probability / exact.probability
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert found.probability.sum() <= 1 + 1e-9


@pytest.mark.parametrize("text", ["", " ", "—!?"])
def test_a_text_without_features_has_no_probabilities(arm: LinearArm, text: str) -> None:
    """Nothing said, nothing known."""
    assert arm.likely(text, CODES, NONE) is None


def test_a_text_of_unknown_features_has_no_probabilities(arm: LinearArm) -> None:
    """Rows of zeros are features that training never saw; one that it saw is enough for an answer."""
    known = np.zeros((BUCKETS, 1), dtype=np.float16)
    known[list(features_of("sofa").buckets)] = 1.0
    taught = dataclasses.replace(arm, features=arm.features * known)
    alone, beside = taught.likely("sofa", CODES, NONE), taught.likely("sofa x500", CODES, NONE)
    assert taught.likely("x500", CODES, NONE) is None
    assert alone is not None and beside is not None
    np.testing.assert_allclose(beside.probability, alone.probability, rtol=1e-4)


@pytest.mark.parametrize("scored_codes", [1, CODES])
def test_logits_beyond_what_exp_can_write_are_no_trouble(scored_codes: int) -> None:
    """The highest logit is taken off first, of those that are looked at and of estimates."""
    bias = np.array([5e4, *[-5e4] * (CODES - 1)])
    steep = arm_of(np.ones((BUCKETS, WIDTH)), np.zeros((CODES, WIDTH)), bias, scored_codes)
    found = steep.likely("sofa", 1, EVERY)
    assert found is not None and found.probability.tolist() == [1.0, *[0.0] * (CODES - 1)]


def test_a_saved_arm_is_read_back_as_it_was(arm: LinearArm, tmp_path: Path) -> None:
    """Nothing is rounded again, and nothing is widened."""
    arm.save(tmp_path / "linear.npz")
    found = LinearArm.load(tmp_path / "linear.npz", CODES)
    assert (found.scored_codes, found.nearest) == (CODES, None)
    np.testing.assert_array_equal(found.features, arm.features)
    assert found.features.dtype == np.float16
    for name, array in arm.codes.arrays().items():
        np.testing.assert_array_equal(found.codes.arrays()[name], array)
        assert found.codes.arrays()[name].dtype == array.dtype


def test_an_arm_of_another_version_is_refused(saved: dict[str, Any], tmp_path: Path) -> None:
    """Its features would mean something else here."""
    path = written(tmp_path, **{**saved, "version": np.int64(FEATURES_VERSION + 1)})
    with pytest.raises(BundleError, match="reads features of version 2, this program makes version 1 — make the"):
        LinearArm.load(path, CODES)


@pytest.mark.parametrize("codes", [CODES - 1, CODES + 1, 1])
def test_an_arm_of_another_codebook_is_refused(saved: dict[str, Any], tmp_path: Path, codes: int) -> None:
    """One vector and one bias for each code, no more and no fewer."""
    with pytest.raises(
        BundleError, match=rf"does not fit the codebook of {codes} codes: the shape of vectors is \(7, 4\) — make the"
    ):
        LinearArm.load(written(tmp_path, **saved), codes)


@pytest.mark.parametrize(
    ("name", "spoilt", "finding"),
    [
        ("features", np.zeros((BUCKETS - 1, WIDTH)), r"the shape of features is \(131071, 4\)"),
        ("features", np.zeros((BUCKETS, WIDTH - 1)), r"that of vectors \(7, 4\)"),
        ("features", np.float16(1), r"the shape of features is \(\)"),
        ("features", np.full((BUCKETS, WIDTH), np.nan), "features holds a number that is not finite"),
        ("features", np.full((BUCKETS, WIDTH), np.inf), "features holds a number that is not finite"),
        ("vectors", np.zeros((CODES, WIDTH, 1), np.int8), "the shape of features"),
        ("bias", np.zeros((CODES, 1), np.float16), r"the shape of bias is \(7, 1\)"),
        ("scale", np.zeros(CODES, np.float16), "scale holds a number that is not above 0"),
        ("scored_codes", np.int64(0), "scored_codes is 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    saved: dict[str, Any], tmp_path: Path, name: str, spoilt: Any, finding: str
) -> None:
    """Before the first text, not with it; the message names the part."""
    with pytest.raises(BundleError, match=f"does not fit the codebook of 7 codes: .*{finding}"):
        LinearArm.load(written(tmp_path, **{**saved, name: spoilt}), CODES)


def test_parts_of_another_type_are_refused(saved: dict[str, Any], tmp_path: Path) -> None:
    """To widen millions of vectors unasked would cost what they were made small for."""
    spoilt = {**saved, "vectors": saved["vectors"].astype(np.float32)}
    with pytest.raises(BundleError, match=r"is no linear arm: ValueError.*vectors is of type float32, not int8"):
        LinearArm.load(written(tmp_path, **spoilt), CODES)


PARTS = (
    *("features", "scored_codes", "version", "vectors", "scale", "bias"),
    *("code_order", "cluster_offsets", "centroids", "centroid_bias", "cluster_mass"),
)


def test_the_file_holds_what_the_page_says(saved: dict[str, Any]) -> None:
    """Every array by its name, and no other."""
    assert sorted(saved) == sorted(PARTS)
    page = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text(encoding="utf-8")
    assert [name for name in PARTS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", PARTS)
def test_a_pickle_in_an_arm_is_refused(saved: dict[str, Any], tmp_path: Path, name: str) -> None:
    """It is not read at all: a pickle can run programs."""
    pickled = np.array([{"a": 1}], dtype=object)
    with pytest.raises(BundleError, match=r"is no linear arm: ValueError.*allow_pickle"):
        LinearArm.load(written(tmp_path, **{**saved, name: pickled}), CODES)


@pytest.mark.parametrize("name", PARTS)
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
    "scored_codes": np.int64(2),
    **ClusteredCodes.of(np.ones((2, 2), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int64)).arrays(),
}
FILE = _bytes_of(np.savez, **SMALL, version=np.int64(FEATURES_VERSION))
COMPRESSED = _bytes_of(np.savez_compressed, **SMALL, version=np.int64(FEATURES_VERSION))


@pytest.mark.parametrize("content", [b"", b"no arm", b"PK\x03\x04", FILE[:200], FILE[200:], FILE[:-1]])
def test_a_file_that_is_cut_or_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, text, or half a file."""
    (tmp_path / "linear.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"linear\.npz is no linear arm"):
        LinearArm.load(tmp_path / "linear.npz", CODES)


@settings(max_examples=300)
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
