"""From a training folder to a bundle that opens, or to an error that leaves the old bundle alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from gram_exporter.package import export_bundle
from gram_exporter.parity import Tolerance
from gram_exporter.record import (
    CALIBRATION_TEXTS,
    CODEBOOK,
    RECORD,
    read_calibration_texts,
    read_record,
)
from gram_exporter.trainedarm import TrainedArm
from gram_plugin.contract.bundle import LINEAR, REQUIRED_FILES, Bundle, open_bundle
from gram_plugin.contract.codebook import read_codebook
from gram_plugin.contract.codes import MAX_CODES, Role
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.linear import LinearArm
from gram_plugin.errors import ExportError

IMPOSSIBLE = Tolerance(logits=0.0, same_best_code=1.0, common_codes=1.0)


@pytest.fixture
def training(tiny_training: Path, tmp_path: Path) -> Path:
    """A copy of the tiny training that a test may spoil."""
    return Path(shutil.copytree(tiny_training, tmp_path / "training"))


def test_a_bundle_carries_what_training_recorded(tiny_training: Path, small_bundle: Bundle) -> None:
    """Generation, rendering, tokens, source and licence come from the record, figures are added to."""
    record, manifest = read_record(tiny_training), small_bundle.manifest
    assert (manifest.generation, manifest.architecture, manifest.rendering, manifest.id_field, manifest.tokens) == (
        record.generation,
        record.architecture,
        record.rendering,
        record.id_field,
        record.tokens,
    )
    assert (manifest.data_source, manifest.data_licence) == (record.data_source, record.data_licence)
    assert manifest.precision == "int8"
    assert (sorted(manifest.files), manifest.linear_share) == (sorted(REQUIRED_FILES), 0.0)


def test_figures_tell_parity_and_calibration(small_bundle: Bundle) -> None:
    """Both precisions were compared, both roles were calibrated."""
    figures = small_bundle.manifest.figures["export"]
    assert set(figures["parity"]) == {"fp32", "int8"}
    assert set(figures["parity"]["int8"]) == {
        "texts",
        "logits",
        "greatest_difference",
        "same_best_code",
        "common_codes",
    }
    assert {role: set(found) for role, found in figures["calibration"].items()} == {
        role.value: {"pairs", "expected_error_before", "expected_error_after"} for role in Role
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_exported_bundle_writes_codes(precision: str, exact_bundle: Bundle, small_bundle: Bundle) -> None:
    """Opened from its folder, checked whole, in both precisions."""
    path = {"fp32": exact_bundle, "int8": small_bundle}[precision].path
    generator = OnnxGenerator.open(path)
    found = generator.generate(["type 1", "a longer text about colour 3"], Role.QUERY)
    assert [len(codes) for codes in found] == [MAX_CODES, MAX_CODES]
    assert generator.generate(["type 1"], Role.QUERY) == found[:1] or precision == "fp32"


def test_a_training_with_a_linear_arm_is_exported_with_it(
    training: Path, tmp_path: Path, arm_by_heart: Callable[[Sequence[str], int], TrainedArm]
) -> None:
    """The arm is that of the training, its share is greater than 0, and queries are answered with it."""
    codebook = read_codebook(training / CODEBOOK)
    asked = {item.codes[0]: item.text for item in read_calibration_texts(training / CALIBRATION_TEXTS)}
    arm = arm_by_heart([asked.get(entry.code, "nothing") for entry in codebook], len(codebook))
    arm.save(training / LINEAR)
    bundle = export_bundle(training, tmp_path / "bundle", precision="fp32")
    assert sorted(bundle.manifest.files) == sorted([*REQUIRED_FILES, "linear.npz"])
    kept, trained = LinearArm.load(bundle.file("linear.npz"), len(codebook)), TrainedArm.load(training / LINEAR, 30)
    assert kept.scored_codes == 8192
    for name, array in trained.for_serving().codes.arrays().items():
        np.testing.assert_array_equal(kept.codes.arrays()[name], array)
    assert 0 < bundle.manifest.linear_share <= 1
    generator = OnnxGenerator.open(bundle.path)
    assert [codes[0].code for codes in generator.generate(list(asked.values()), Role.QUERY)] == list(asked)


def test_an_arm_of_another_codebook_is_not_exported(
    training: Path, tmp_path: Path, arm_by_heart: Callable[[Sequence[str], int], TrainedArm]
) -> None:
    """What does not belong together leaves no bundle."""
    arm_by_heart(["sofa"], 3).save(training / LINEAR)
    with pytest.raises(ExportError, match=r"linear\.npz does not fit the codebook of 30 codes.*gram train"):
        export_bundle(training, tmp_path / "bundle", precision="fp32")
    assert not (tmp_path / "bundle").exists()


def test_a_query_looks_at_as_many_codes_as_export_is_told(
    training: Path, tmp_path: Path, arm_by_heart: Callable[[Sequence[str], int], TrainedArm]
) -> None:
    """The number is in the bundle, and the codes are in clusters where it is less than half of them."""
    arm_by_heart(["sofa", "lamp"], 30).save(training / LINEAR)
    bundle = export_bundle(training, tmp_path / "bundle", precision="fp32", scored_codes=3)
    kept = LinearArm.load(bundle.file("linear.npz"), 30)
    assert kept.scored_codes == 3
    assert len(kept.codes.mass) > 1
    assert OnnxGenerator.open(bundle.path).generate(["sofa"], Role.QUERY) != [[]]


def test_to_look_at_no_code_is_refused(training: Path, tmp_path: Path) -> None:
    """Before anything is made."""
    with pytest.raises(ExportError, match="a query cannot look at 0 codes — give a number above 0"):
        export_bundle(training, tmp_path / "bundle", scored_codes=0)
    assert not (tmp_path / "bundle").exists()


def test_progress_goes_from_nothing_to_all(tiny_training: Path, tmp_path: Path) -> None:
    """Each stage is told once, in order, and nothing is left beside the bundle."""
    told: list[tuple[str, float]] = []
    export_bundle(tiny_training, tmp_path / "out" / "bundle", progress=lambda *stage: told.append(stage))
    assert [stage for stage, _ in told] == [
        "exporting graphs",
        "comparing with the trained model",
        "quantising",
        "clustering codes",
        "calibrating",
        "bundle ready",
    ]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["bundle"]


def test_a_model_that_fails_the_gate_leaves_the_old_bundle(
    tiny_training: Path, exact_bundle: Bundle, tmp_path: Path
) -> None:
    """The error names the way out, the folder is as before, and no staging is left."""
    old = Path(shutil.copytree(exact_bundle.path, tmp_path / "bundle"))
    with pytest.raises(ExportError, match="int8 graphs do not say") as caught:
        export_bundle(tiny_training, old, tolerance=IMPOSSIBLE)
    assert "--precision fp32" in caught.value.next_step
    assert open_bundle(old).manifest == exact_bundle.manifest
    assert [item.name for item in tmp_path.iterdir()] == ["bundle"]


def test_an_unknown_precision_is_refused(tiny_training: Path, tmp_path: Path) -> None:
    """Before anything is done."""
    with pytest.raises(ExportError, match="precision 'int4' is unknown"):
        export_bundle(tiny_training, tmp_path / "bundle", precision="int4")


def test_an_unfinished_training_is_refused(training: Path, tmp_path: Path) -> None:
    """The record is what training writes last; without it training must end first, with a broken one begin again."""
    (training / RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(ExportError, match=r"no record of a finished training: .* — run `gram train` again"):
        export_bundle(training, tmp_path / "bundle")
    (training / RECORD).unlink()
    with pytest.raises(ExportError) as raised:
        export_bundle(training, tmp_path / "bundle")
    assert (raised.value.message, raised.value.next_step) == (
        f"there is no finished training in {training}",
        f"run `gram train --training {training}`; --resume goes on with one that was interrupted",
    )


@pytest.mark.parametrize(
    ("content", "finding"), [("", "holds no text"), ("{}\n", "cannot be read"), ("no json\n", "cannot be read")]
)
def test_calibration_texts_that_cannot_be_used_are_refused(
    training: Path, tmp_path: Path, content: str, finding: str
) -> None:
    """The message names the file."""
    (training / CALIBRATION_TEXTS).write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=rf"calibration\.jsonl {finding}"):
        export_bundle(training, tmp_path / "bundle")


def test_missing_calibration_texts_are_refused(training: Path, tmp_path: Path) -> None:
    """A missing file is an error of its own kind, not a traceback."""
    (training / CALIBRATION_TEXTS).unlink()
    with pytest.raises(ExportError, match="cannot be read"):
        export_bundle(training, tmp_path / "bundle")
