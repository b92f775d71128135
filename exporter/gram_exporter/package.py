"""Export: from the folder that training left to a bundle that serving can open."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gram_exporter import parity
from gram_exporter.calibration import Calibrated, calibrate, identity_curve, linear_share
from gram_exporter.clusters import SCORED_CODES
from gram_exporter.graphs import export_graphs, load_model, quantise_graphs
from gram_exporter.record import (
    CALIBRATION_TEXTS,
    MODEL,
    CalibrationText,
    TrainingRecord,
    read_calibration_texts,
    read_record,
)
from gram_exporter.trainedarm import TrainedArm
from gram_exporter.writing import code_tokens
from gram_plugin.contract.bundle import (
    CALIBRATION,
    CODEBOOK,
    LINEAR,
    TAGGER,
    TOKENIZER,
    Bundle,
    Graph,
    Manifest,
    write_bundle,
    write_calibration,
)
from gram_plugin.contract.codebook import attributes_of, read_codebook
from gram_plugin.contract.codes import Role
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.linear import LinearArm
from gram_plugin.errors import ExportError

PRECISIONS = ("int8", "fp32")

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""


def export_bundle(
    training: Path,
    target: Path,
    *,
    precision: str = "int8",
    tolerance: parity.Tolerance = parity.INT8,
    share: float | None = None,
    scored_codes: int = SCORED_CODES,
    progress: Progress = lambda _stage, _share: None,
) -> Bundle:
    """Makes the bundle `target` whole, or leaves what was there; `tolerance` is that of int8.

    `share` fixes the linear arm's part in P(code | query), 0 to 1; None takes what fits held-out queries best. A query
    looks at `scored_codes` codes of the arm, at least; at all of up to twice as many.

    Raises:
        ExportError: there is no finished training, the model cannot be exported, or the graphs fail the parity gate.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"precision {precision!r} is unknown", next_step=f"use one of {', '.join(PRECISIONS)}")
    if share is not None and not 0 <= share <= 1:
        raise ExportError(f"the linear arm's part is {share}", next_step="give one between 0 and 1, or none")
    if scored_codes < 1:
        raise ExportError(f"a query cannot look at {scored_codes} codes", next_step="give a number above 0, or none")
    record = read_record(training)
    texts = _calibration_texts(training)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as room:
        exporting = _Exporting(training, record, texts, Path(room), tolerance, progress)
        draft = exporting.checked(precision)
        return exporting.finished(draft, target, share, scored_codes)


class _Exporting:
    """One export, step by step, in a folder of its own beside the target."""

    def __init__(
        self,
        training: Path,
        record: TrainingRecord,
        texts: Sequence[CalibrationText],
        room: Path,
        tolerance: parity.Tolerance,
        progress: Progress,
    ) -> None:
        self._training = training
        self._record = record
        self._texts = texts
        self._room = room
        self._tolerance = tolerance
        self._progress = progress
        self._parity: dict[str, Any] = {}

    def checked(self, precision: str) -> OnnxGenerator:
        """Graphs that passed the parity gate, in a bundle that is not calibrated yet."""
        self._progress("exporting graphs", 0.0)
        attributes = len(attributes_of(read_codebook(self._training / CODEBOOK)))
        columns = code_tokens(self._record.tokens, attributes)
        exact = self._draft("fp32", export_graphs(self._training / MODEL, self._room / "fp32", columns))
        self._progress("comparing with the trained model", 0.3)
        expected = parity.references(load_model(self._training / MODEL), exact, self._texts)
        self._parity["fp32"] = asdict(parity.check_parity(expected, exact, parity.FP32))
        if precision == "fp32":
            return exact
        self._progress("quantising", 0.5)
        small = self._draft("int8", quantise_graphs(exact.bundle.path, self._room / "int8"))
        self._parity["int8"] = asdict(parity.check_parity(expected, small, self._tolerance))
        return small

    def finished(self, draft: OnnxGenerator, target: Path, share: float | None, scored_codes: int) -> Bundle:
        """Calibrates a draft and moves it to its place."""
        self._progress("clustering codes", 0.6)
        arm = None if share == 0 else self._linear(draft, scored_codes)
        self._progress("calibrating", 0.7)
        draft = self._with_linear(draft, arm, share) if arm else draft
        calibrated = {role: calibrate(draft, self._texts, role) for role in Role}
        path = draft.bundle.path
        write_calibration(path / CALIBRATION, {role: found.curve for role, found in calibrated.items()})
        manifest = replace(draft.manifest, figures={**self._record.figures, "export": self._figures(calibrated)})
        bundle = write_bundle(path, target, manifest)
        self._progress("bundle ready", 1.0)
        return bundle

    def _linear(self, draft: OnnxGenerator, scored_codes: int) -> LinearArm | None:
        """The linear arm that training left, as it will serve, in the draft's folder; None where it left none."""
        source, target = self._training / LINEAR, draft.bundle.file(LINEAR)
        if not source.is_file():
            return None
        codes = len(draft.codebook)
        TrainedArm.load(source, codes).for_serving(scored_codes).save(target)
        return LinearArm.load(target, codes)

    def _with_linear(self, draft: OnnxGenerator, arm: LinearArm, share: float | None) -> OnnxGenerator:
        """The draft with an arm at the given part or the one that fits best."""
        share = linear_share(draft, arm, self._texts) if share is None else share
        manifest = replace(draft.manifest, linear_share=share)
        return replace(draft, linear=arm, bundle=replace(draft.bundle, manifest=manifest))

    def _draft(self, precision: str, graphs: Mapping[str, Graph]) -> OnnxGenerator:
        staging = self._room / precision
        for name in (TOKENIZER, CODEBOOK, TAGGER):
            shutil.copyfile(self._training / name, staging / name)
        write_calibration(staging / CALIBRATION, {role: identity_curve() for role in Role})
        manifest = _manifest(self._record, graphs, precision)
        return OnnxGenerator.of(write_bundle(staging, self._room / f"{precision}-draft", manifest))

    def _figures(self, calibrated: Mapping[Role, Calibrated]) -> dict[str, Any]:
        curves = {
            role.value: {
                "pairs": found.pairs,
                "expected_error_before": found.error_before,
                "expected_error_after": found.error_after,
            }
            for role, found in calibrated.items()
        }
        return {"parity": self._parity, "calibration": curves}


def _calibration_texts(training: Path) -> list[CalibrationText]:
    path = training / CALIBRATION_TEXTS
    try:
        texts = list(read_calibration_texts(path))
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{path} cannot be read: {error!r}", next_step="run `gram train` again") from error
    if not texts:
        raise ExportError(f"{path} holds no text", next_step="run `gram train` again with held-out texts")
    return texts


def _manifest(record: TrainingRecord, graphs: Mapping[str, Graph], precision: str) -> Manifest:
    return Manifest(
        generation=record.generation,
        architecture=record.architecture,
        rendering=record.rendering,
        id_field=record.id_field,
        tokens=record.tokens,
        graphs=graphs,
        files={},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data_source=record.data_source,
        data_licence=record.data_licence,
        figures=record.figures,
        precision=precision,
        products=record.products,
    )
