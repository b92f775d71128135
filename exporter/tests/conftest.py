"""A training of a tiny untrained T5, and what is exported from it, once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from misleading import ASKED, CONFIG, PRODUCTS, quiet

from gram_exporter.judge import Judge
from gram_exporter.package import export_bundle
from gram_exporter.prepare import Prepared, prepare
from gram_exporter.trainedarm import TrainedArm
from gram_exporter.untrained import Shape, write_untrained
from gram_plugin.contract.bundle import Bundle
from gram_plugin.contract.features import BUCKETS, features_of

TINY = Shape(
    d_model=16, d_ff=24, heads=2, encoder_layers=1, decoder_layers=1, text_tokens=300, types=4, brands=5, codes=30
)


@pytest.fixture(scope="session")
def tiny_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a training leaves; tests must not change it."""
    folder = tmp_path_factory.mktemp("tiny") / "training"
    write_untrained(folder, TINY)
    return folder


@pytest.fixture(scope="session")
def exact_bundle(tiny_training: Path) -> Bundle:
    """The fp32 bundle of the tiny training."""
    return export_bundle(tiny_training, tiny_training.with_name("fp32"), precision="fp32")


@pytest.fixture(scope="session")
def small_bundle(tiny_training: Path) -> Bundle:
    """The int8 bundle of the tiny training."""
    return export_bundle(tiny_training, tiny_training.with_name("int8"))


@pytest.fixture(scope="session")
def arm_by_heart() -> Callable[[Sequence[str], int], TrainedArm]:
    """Makes an arm, for texts and a number of codes, that is all but sure that the n-th text means the n-th code."""

    def make(texts: Sequence[str], codes: int) -> TrainedArm:
        features = np.random.default_rng(0).normal(size=(BUCKETS, 32)).astype(np.float32)
        vectors = np.zeros((codes, 32), np.float32)
        for row, text in enumerate(texts):
            found = features_of(text)
            query = np.array(found.weights, np.float32) @ features[list(found.buckets)]  # (32,)
            vectors[row] = 5.0 * query / np.linalg.norm(query)
        return TrainedArm(features, vectors, np.zeros(codes, np.float32))

    return make


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """What training reads of the misleading catalogue; half of 180 queries are held out, enough to judge by."""
    return prepare(PRODUCTS, ASKED, CONFIG)


@pytest.fixture(scope="session")
def judge(prepared: Prepared) -> Judge:
    """Its held-out pages."""
    found = Judge.of(prepared, quiet)
    assert found is not None
    return found
