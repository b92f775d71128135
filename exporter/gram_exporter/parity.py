"""The parity gate: the exported graphs must say what the trained model says.

torch reads the whole prefix at every step, without any cache; onnxruntime goes on from its cache.
Both walk the same beams, so their logits can be compared number by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gram_exporter.record import CalibrationText
from gram_exporter.writing import Float32Array, TorchSteps
from gram_plugin.contract.codebook import attributes_of
from gram_plugin.contract.codes import BEAM_WIDTH
from gram_plugin.decode.beam import Ranking, Steps, search
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.session import Batch
from gram_plugin.decode.trie import IntArray
from gram_plugin.errors import ExportError

SAMPLE_TEXTS = 32


@dataclass(frozen=True)
class Tolerance:
    """What may differ between torch and onnxruntime.

    `logits` bounds the root mean square of the differences over the root mean square of the
    reference's own spread around its mean; the two shares are means over texts, 0 to 1.
    """

    logits: float
    same_best_code: float
    common_codes: float


FP32 = Tolerance(logits=2e-5, same_best_code=0.99, common_codes=0.99)
"""Only the order of additions differs; measured on trained models: 4e-7 to 1e-6, all codes the same."""
INT8 = Tolerance(logits=0.05, same_best_code=0.90, common_codes=0.85)
"""256 levels; measured on trained models: 0.003 to 0.016, 97 to 100 % same best, 98 to 99 % in common."""


@dataclass(frozen=True)
class ParityReport:
    """What was measured, over `texts` sample texts."""

    texts: int
    logits: float
    greatest_difference: float
    same_best_code: float
    common_codes: float


@dataclass(frozen=True)
class TracedStep:
    """One step of the reference: what was asked of it and its logits for the codebook's tokens and `eos`."""

    rows: IntArray | None  # [beams]; None at the first step
    tokens: IntArray | None  # [beams]
    logits: Float32Array  # [beams, columns]


@dataclass(frozen=True)
class Reference:
    """What the trained model says of one text."""

    ids: Sequence[int]
    ranking: Ranking
    trace: Sequence[TracedStep]


class _Tracing:
    """Follows a model and keeps what it was asked and what it answered."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.trace: list[TracedStep] = []

    def first(self) -> Float32Array:
        logits = self._steps.first()
        self.trace.append(TracedStep(None, None, logits))
        return logits

    def next(self, rows: IntArray, tokens: IntArray) -> Float32Array:
        logits = self._steps.next(rows, tokens)
        self.trace.append(TracedStep(rows, tokens, logits))
        return logits


def references(model: Any, generator: OnnxGenerator, texts: Sequence[CalibrationText]) -> list[Reference]:
    """Asks the trained model for an even sample of `texts`; the generator lends tokenizer and trie.

    Raises:
        ExportError: no text has a word.
    """
    framed = [generator.frame(item.text, item.role) for item in _sample(texts)]
    with _one_thread():
        found = [_reference(model, generator, ids) for ids in framed if ids]
    if not found:
        raise ExportError("parity needs at least one text with words", next_step="train on texts with words")
    return found


def check_parity(expected: Sequence[Reference], generator: OnnxGenerator, tolerance: Tolerance) -> ParityReport:
    """Compares a generator with what the trained model said in fp32.

    Raises:
        ExportError: they differ by more than the tolerance.
    """
    report = measure_parity(expected, generator)
    within = (
        report.logits <= tolerance.logits
        and report.same_best_code >= tolerance.same_best_code
        and report.common_codes >= tolerance.common_codes
    )
    if not within:
        raise ExportError(_finding(report, tolerance, generator.manifest.precision), next_step=_advice(generator))
    return report


def measure_parity(expected: Sequence[Reference], generator: OnnxGenerator) -> ParityReport:
    """Measures without judging."""
    found = [_ranked(generator, one.ids) for one in expected]
    difference = np.concatenate([_differences(generator, one) for one in expected])
    spread = np.concatenate([_spread(one) for one in expected])
    pairs = list(zip(expected, found, strict=True))
    return ParityReport(
        texts=len(expected),
        logits=_root_mean_square(difference) / max(_root_mean_square(spread), 1e-12),
        greatest_difference=float(np.abs(difference).max()),
        same_best_code=float(np.mean([one.ranking.code[0] == other.code[0] for one, other in pairs])),
        common_codes=float(np.mean([_share_in_common(one.ranking, other) for one, other in pairs])),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from more threads, and on a busy machine those wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reference(model: Any, generator: OnnxGenerator, ids: Sequence[int]) -> Reference:
    tokens = generator.manifest.tokens
    steps = TorchSteps(model, Batch.of([ids], tokens.pad), tokens, len(attributes_of(generator.codebook)))
    tracing = _Tracing(steps)
    ranking = search(generator.trie, tracing, 1, width=generator.beam_width, limit=BEAM_WIDTH)[0]
    return Reference(ids, ranking, tracing.trace)


def _ranked(generator: OnnxGenerator, ids: Sequence[int]) -> Ranking:
    return search(generator.trie, _steps(generator, ids), 1, width=generator.beam_width, limit=BEAM_WIDTH)[0]


def _differences(generator: OnnxGenerator, expected: Reference) -> Float32Array:
    """Sends a generator down the reference's beams; all differences of logits in one row."""
    steps = _steps(generator, expected.ids)
    parts = [
        (steps.first() if step.rows is None or step.tokens is None else steps.next(step.rows, step.tokens))
        - step.logits
        for step in expected.trace
    ]
    return np.concatenate([part.ravel() for part in parts])


def _spread(expected: Reference) -> Float32Array:
    parts = [step.logits - step.logits.mean(axis=1, keepdims=True) for step in expected.trace]
    return np.concatenate([part.ravel() for part in parts])


def _steps(generator: OnnxGenerator, ids: Sequence[int]) -> Steps:
    return generator.steps(Batch.of([ids], generator.manifest.tokens.pad))


def _sample(texts: Sequence[CalibrationText]) -> Sequence[CalibrationText]:
    return texts[:: max(1, -(-len(texts) // SAMPLE_TEXTS))]


def _share_in_common(expected: Ranking, found: Ranking) -> float:
    return float(np.isin(expected.code, found.code).mean())


def _root_mean_square(values: Float32Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _finding(report: ParityReport, tolerance: Tolerance, precision: str) -> str:
    return (
        f"the {precision} graphs do not say what the trained model says, over {report.texts} texts: "
        f"logits differ by {report.logits:.2g} (at most {tolerance.logits:.2g}), "
        f"same best code {report.same_best_code:.2f} (at least {tolerance.same_best_code:.2f}), "
        f"codes in common {report.common_codes:.2f} (at least {tolerance.common_codes:.2f})"
    )


def _advice(generator: OnnxGenerator) -> str:
    if generator.manifest.precision == "fp32":
        return "report this with the versions of torch, optimum and onnxruntime"
    return "export with --precision fp32, or train longer"
