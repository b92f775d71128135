"""The gate lets equal models through and stops others; torch and onnxruntime write the same codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gram_exporter.graphs import load_model
from gram_exporter.parity import FP32, INT8, check_parity, references
from gram_exporter.record import CALIBRATION_TEXTS, MODEL, CalibrationText, read_calibration_texts
from gram_exporter.untrained import Shape, random_model
from gram_plugin.contract.bundle import Bundle
from gram_plugin.contract.codebook import attributes_of
from gram_plugin.contract.codes import Role
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import ExportError


@pytest.fixture(scope="module")
def model(tiny_training: Path) -> Any:
    """The model that was exported."""
    return load_model(tiny_training / MODEL)


@pytest.fixture(scope="module")
def texts(tiny_training: Path) -> list[CalibrationText]:
    """Texts of both roles."""
    return list(read_calibration_texts(tiny_training / CALIBRATION_TEXTS))


def slow_log_probabilities(model: Any, generator: OnnxGenerator, text: str) -> dict[str, float]:
    """Every code of the codebook, one whole pass of torch for each."""
    tokens, codebook = generator.manifest.tokens, generator.codebook
    id_of = {attribute: tokens.first_attribute + i for i, attribute in enumerate(attributes_of(codebook))}
    paths = {entry.code.text: [*map(id_of.__getitem__, entry.code.attributes), tokens.eos] for entry in codebook}
    ids = torch.tensor([generator.frame(text, Role.QUERY)])
    found = {}
    for code, path in paths.items():
        total = 0.0
        with torch.no_grad():
            start = torch.tensor([[tokens.decoder_start, *path[:-1]]])
            logits = model(input_ids=ids, decoder_input_ids=start).logits[0]  # [steps, vocabulary]
        for at, token in enumerate(path):
            prefix = path[:at]
            allowed = sorted({other[at] for other in paths.values() if len(other) > at and other[:at] == prefix})
            total += float(torch.log_softmax(logits[at, allowed], dim=0)[allowed.index(token)])
        found[code] = total
    return found


def test_the_decoder_that_serves_agrees_with_torch_code_by_code(model: Any, exact_bundle: Bundle) -> None:
    """All codes, the same log-probabilities within 1e-4, though torch uses no cache, no beam and no trie."""
    generator = OnnxGenerator.of(exact_bundle)
    ranking = generator.rank(["type 1 colour 3"], Role.QUERY, limit=len(generator.codebook))[0]
    found = {
        generator.codebook[index].code.text: score
        for index, score in zip(ranking.code, ranking.log_probability, strict=True)
    }
    assert found == pytest.approx(slow_log_probabilities(model, generator, "type 1 colour 3"), abs=1e-4)


def test_exact_graphs_pass_within_a_tenth_of_the_tolerance(
    model: Any, exact_bundle: Bundle, texts: list[CalibrationText]
) -> None:
    """Only the order of additions differs."""
    generator = OnnxGenerator.of(exact_bundle)
    report = check_parity(references(model, generator, texts), generator, FP32)
    assert report.logits < FP32.logits / 10
    assert (report.same_best_code, report.common_codes) == (1.0, 1.0)
    assert 20 <= report.texts <= 32


def test_int8_graphs_pass_and_differ(model: Any, small_bundle: Bundle, texts: list[CalibrationText]) -> None:
    """They really are other numbers, and near enough."""
    generator = OnnxGenerator.of(small_bundle)
    report = check_parity(references(model, generator, texts), generator, INT8)
    assert FP32.logits < report.logits < INT8.logits


@pytest.mark.parametrize(
    ("precision", "advice"),
    [("int8", "export with --precision fp32, or train longer"), ("fp32", "report this with the versions")],
)
def test_graphs_of_another_model_are_stopped(
    exact_bundle: Bundle, texts: list[CalibrationText], precision: str, advice: str
) -> None:
    """The message has what was measured and what was allowed, the next step a way out."""
    bundle = replace(exact_bundle, manifest=replace(exact_bundle.manifest, precision=precision))
    generator = OnnxGenerator.of(bundle)
    other = random_model(_shape_of(bundle), _vocabulary(bundle), seed=5)
    with pytest.raises(
        ExportError, match=rf"{precision} graphs do not say .* logits differ by \d.* \(at most"
    ) as caught:
        check_parity(references(other, generator, texts), generator, INT8)
    assert caught.value.next_step.startswith(advice)


def test_texts_without_a_word_cannot_prove_parity(model: Any, exact_bundle: Bundle) -> None:
    """An empty sample is no sample."""
    with pytest.raises(ExportError, match="at least one text with words"):
        references(model, OnnxGenerator.of(exact_bundle), [CalibrationText(Role.QUERY, " ", ())])


def _shape_of(bundle: Bundle) -> Shape:
    width = bundle.manifest.graphs["encoder"].outputs[0].axes[-1]
    assert isinstance(width, int)
    return Shape(d_model=width, d_ff=24, heads=2, encoder_layers=1, decoder_layers=1)


def _vocabulary(bundle: Bundle) -> int:
    return bundle.manifest.tokens.first_attribute + len(attributes_of(bundle.codebook))


def test_a_reference_keeps_every_step_of_its_search(
    model: Any, exact_bundle: Bundle, texts: list[CalibrationText]
) -> None:
    """The first step has one row, later ones a row for each beam, all with every attribute and the end token."""
    generator = OnnxGenerator.of(exact_bundle)
    trace = references(model, generator, texts[:1])[0].trace
    columns = len(attributes_of(generator.codebook)) + 1
    assert trace[0].logits.shape == (1, columns)
    for step in trace[1:]:
        assert step.rows is not None
        assert step.logits.shape == (step.rows.size, columns)
        assert np.isfinite(step.logits).all()
