"""A training of a tiny untrained T5, and what is exported from it, once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gram_exporter.package import export_bundle
from gram_exporter.untrained import Shape, write_untrained
from gram_plugin.contract.bundle import Bundle

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
