"""Training, end to end on a catalogue that fits on a page."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gram_exporter.checkpoint import FILE, load_checkpoint
from gram_exporter.config import CatalogueConfig, Config, TrainingConfig
from gram_exporter.data import Example, texts_from_feedback
from gram_exporter.model import TokenLimits, tokens_of, train_tokenizer
from gram_exporter.prepare import prepare
from gram_exporter.record import CALIBRATION_TEXTS, MODEL, RECORD, read_calibration_texts, read_record
from gram_exporter.train import CHECKPOINT, Course, sampled, train
from gram_plugin.contract.codebook import read_codebook
from gram_plugin.contract.codes import Role
from gram_plugin.errors import TrainingError

TYPES, COLOURS, BRANDS = ("sofa", "lamp", "table"), ("blue", "red"), ("acme", "zed")
PRODUCTS = {
    f"p{n}": {"id": f"p{n}", "title": f"{brand} {kind} {colour} {n}", "kind": kind, "colour": colour, "brand": brand}
    for n, (kind, colour, brand) in enumerate(
        itertools.product(
            TYPES,
            COLOURS,
            BRANDS,
        )
    )
}
PRODUCTS |= {f"q{key}": {**value, "id": f"q{key}", "title": value["title"] + " new"} for key, value in PRODUCTS.items()}
WANTED = {"couch": {key: 1.0 for key, value in PRODUCTS.items() if value["kind"] == "sofa"}}
SETTINGS = TrainingConfig(
    steps=8, d_model=32, encoder_layers=1, decoder_layers=1, batch_texts=8, vocabulary=512, dropout=0.0, linear_steps=2
)
CONFIG = Config(
    catalogue=CatalogueConfig(
        path=Path("unused.jsonl"),
        id="id",
        text=("title",),
        attributes={"kind": "type", "colour": "colour", "brand": "brand"},
        source="test",
        licence="none",
    ),
    training=SETTINGS,
)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / MODEL / "model.safetensors")


def test_training_leaves_what_export_reads_and_learns(tmp_path: Path) -> None:
    """After training, the record, the codebook and held-out texts are there and the loss has fallen."""
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, steps=60, learning_rate=5e-3))
    record = train(PRODUCTS, WANTED, config, tmp_path)
    assert record == read_record(tmp_path)
    assert record.figures["loss_last"] < 0.8 * record.figures["loss_first"]
    assert len(read_codebook(tmp_path / "codebook.tsv")) == record.figures["codebook_codes"]
    assert {text.role for text in read_calibration_texts(tmp_path / CALIBRATION_TEXTS)} == set(Role)


def test_an_interrupted_training_resumes_to_the_same_model(tmp_path: Path) -> None:
    """Stopped after four of eight steps and resumed, the weights equal those of an undisturbed run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(PRODUCTS, WANTED, CONFIG, whole)

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "train" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, WANTED, CONFIG, broken, progress=stop)
    assert (broken / CHECKPOINT).is_dir() and not (broken / RECORD).exists()
    train(PRODUCTS, WANTED, CONFIG, broken, resume=True)
    expected, found = _weights(whole), _weights(broken)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_training_stopped_at_its_last_step_can_be_finished(tmp_path: Path) -> None:
    """Nothing is left to train: resumed, it has the model and the figures of an undisturbed run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(PRODUCTS, WANTED, CONFIG, whole)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, WANTED, CONFIG, broken, progress=stop)
    found = train(PRODUCTS, WANTED, CONFIG, broken, resume=True)
    assert {**found.figures, "seconds": 0} == {**expected.figures, "seconds": 0}
    assert all(torch.equal(weight, _weights(broken)[name]) for name, weight in _weights(whole).items())


def test_a_training_stopped_after_its_last_step_has_its_checkpoint(tmp_path: Path) -> None:
    """Stopped while the linear arm is trained, it goes on from the end of the model's training."""
    stages: list[tuple[str, int]] = []

    def stop(stage: str, done: int, _total: int) -> None:
        stages.append((stage, done))
        if stage == "train the linear arm":
            raise KeyboardInterrupt

    for resume in (False, True):
        stages.clear()
        with pytest.raises(KeyboardInterrupt):
            train(PRODUCTS, WANTED, CONFIG, tmp_path, resume=resume, progress=stop)
    assert [done for stage, done in stages if stage == "train"] == []


def test_a_training_that_fails_leaves_the_finished_one(tmp_path: Path) -> None:
    """A catalogue that cannot be trained on takes nothing away from what was trained before."""
    record = train(PRODUCTS, WANTED, CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="no products"):
        train({}, {}, CONFIG, tmp_path)
    assert read_record(tmp_path) == record


def test_a_spoilt_training_leaves_its_last_checkpoint(tmp_path: Path) -> None:
    """Where the loss is no number any more, the weights are not saved: the good ones of before stay."""
    prepared = prepare(PRODUCTS, WANTED, CONFIG)
    tokenizer = train_tokenizer([example.text for example in prepared.products], SETTINGS.vocabulary)
    course = Course(SETTINGS, prepared, tokenizer, tokens_of(tokenizer, TokenLimits(16, 24)))

    def stop_then_spoil(_stage: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt
        if done == 4:
            course.optimiser.param_groups[0]["scale"] = float("inf")

    with pytest.raises(KeyboardInterrupt):
        course.run(tmp_path / "checkpoint", resume=False, progress=stop_then_spoil)
    with pytest.raises(TrainingError, match=r"the loss became nan.*learning_rate"):
        course.run(tmp_path / "checkpoint", resume=True, progress=stop_then_spoil)
    found = load_checkpoint(tmp_path / "checkpoint", course.model, course.optimiser, course.fingerprint)
    assert found is not None and found.step == 2
    assert all(bool(torch.isfinite(weight).all()) for weight in course.model.parameters())


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    """Resuming with another seed names the way out instead of mixing two trainings."""

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "train" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, WANTED, CONFIG, tmp_path, progress=stop)
    other = dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, seed=7))
    with pytest.raises(TrainingError, match=r"belongs to other data or settings.*without --resume"):
        train(PRODUCTS, WANTED, other, tmp_path, resume=True)


def test_a_checkpoint_takes_other_settings_for_what_comes_after(tmp_path: Path) -> None:
    """Joint training is not lost because its alignment, or the linear arm, is to be done otherwise."""

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "train" and done == SETTINGS.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, WANTED, CONFIG, tmp_path, progress=stop)
    later = dataclasses.replace(
        SETTINGS, linear_steps=0, align_steps=0, prefer_steps=0, linear_width=8, nearest_share=0.0
    )
    told: list[str] = []
    config = dataclasses.replace(CONFIG, training=later)
    train(PRODUCTS, WANTED, config, tmp_path, resume=True, progress=lambda stage, *_: told.append(stage))
    assert "train" not in told
    assert not (tmp_path / "linear.npz").exists()


LAMPS = {key: 1.0 for key, value in PRODUCTS.items() if value["kind"] == "lamp"}
RED_FIRST = {key: 1.0 + (PRODUCTS[key]["colour"] == "red") for key in WANTED["couch"]}


@pytest.mark.parametrize("wanted", [{"couch": LAMPS}, {"couch": RED_FIRST}])
def test_a_checkpoint_of_other_feedback_is_refused(tmp_path: Path, wanted: dict[str, dict[str, float]]) -> None:
    """The same texts with other codes, or with other weights of the same codes, are other data."""

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "train" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, WANTED, CONFIG, tmp_path, progress=stop)
    with pytest.raises(TrainingError, match="belongs to other data or settings"):
        train(PRODUCTS, wanted, CONFIG, tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """A cut tensor file is an error that says which folder to delete."""
    folder = tmp_path / CHECKPOINT
    folder.mkdir()
    (folder / FILE).write_bytes(b"cut")
    with pytest.raises(TrainingError, match="is damaged"):
        train(PRODUCTS, WANTED, CONFIG, tmp_path, resume=True)


def test_an_empty_catalogue_is_an_error(tmp_path: Path) -> None:
    """Training without products says where to look."""
    with pytest.raises(TrainingError, match=r"no products.*gram\.toml"):
        train({}, {}, CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("asked", "made", "texts"), [(0, 900, 0), (1, 900, 1), (100, 900, 16), (200, 900, 32), (5000, 900, 32), (3, 0, 64)]
)
def test_feedback_gets_as_much_of_a_batch_as_there_is_of_it(asked: int, made: int, texts: int) -> None:
    """Half a batch of 64 from 200 asked queries on, fewer for fewer, all of it where none could be made."""
    assert texts_from_feedback(64, asked, made) == texts


def test_the_warm_start_counts_a_sample_of_very_many_texts() -> None:
    """Up to the most all are taken; beyond, as many by the seed, each at most once and in their order."""
    empty = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32)
    examples = [Example(f"{at:03d}", *empty) for at in range(100)]
    first, again, other = ([item.text for item in sampled(examples, 20, seed)] for seed in (1, 1, 2))
    assert sampled(examples, 100, 1) == examples
    assert first == again != other
    assert first == sorted(set(first)) and len(first) == 20
