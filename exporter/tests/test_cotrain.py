"""Co-training on a catalogue where the words of queries and of products differ."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from misleading import ASKED, CONFIG, PRODUCTS, WANTED, quiet
from safetensors.torch import load_file

from gram_exporter.cotrain import (
    LINKED,
    NEW_CODES,
    NEW_SHARE,
    CrossFitted,
    Floats,
    cotrain,
    share_codes,
    with_codes,
)
from gram_exporter.data import Example
from gram_exporter.judge import Judge
from gram_exporter.linear import train_linear
from gram_exporter.model import TokenLimits, tokens_of, train_tokenizer
from gram_exporter.prepare import Prepared
from gram_exporter.record import MODEL
from gram_exporter.train import Course, train
from gram_exporter.writing import Writer
from gram_plugin.contract.codes import BEAM_WIDTH, MAX_PRODUCT_CODES, Role
from gram_plugin.errors import TrainingError

SETTINGS = dataclasses.replace(
    CONFIG.training, steps=20, d_model=32, encoder_layers=1, decoder_layers=1, vocabulary=512, cotrain_steps=6
)


@pytest.fixture(scope="module")
def trained(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A half-trained generator; tests must not change it."""
    return course(prepared, tmp_path_factory.mktemp("course")).writer()


def course(prepared: Prepared, folder: Path) -> Course:
    """A course after its joint training."""
    tokenizer = train_tokenizer([*prepared.texts, *WANTED], SETTINGS.vocabulary)
    found = Course(SETTINGS, prepared, tokenizer, tokens_of(tokenizer, TokenLimits(16, 24)))
    found.run(folder, resume=False, progress=quiet)
    return found


@dataclasses.dataclass(frozen=True)
class Table:
    """Says of every query what a table says."""

    relevance: Floats

    def of(self, query: str) -> Floats:
        """The same for all."""
        return self.relevance


def weights_of(writer: Writer) -> list[torch.Tensor]:
    """Every weight of the model."""
    return [weight.clone() for weight in writer.model.state_dict().values()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether two models are the same to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_queries_get_what_either_side_writes_and_the_relevance_model_lets_pass(
    trained: Writer, prepared: Prepared
) -> None:
    """Only codes of the query or of its most wanted products, none that it had, and none below half of what it had."""
    rng = np.random.default_rng(0)
    relevance = Table(rng.random(len(prepared.codebook.codes)))
    shared = share_codes(trained, prepared, relevance, quiet)
    least = np.quantile(np.concatenate([relevance.relevance[example.codes] for example in prepared.queries]), 0.5)
    assert [example.text for example in shared.queries] == [example.text for example in prepared.queries]
    passed = 0
    for before, after in zip(prepared.queries, shared.queries, strict=True):
        wanted = before.wanted[np.argsort(-before.demand, kind="stable")][:LINKED]
        (own,) = trained.written([before.text], Role.QUERY, BEAM_WIDTH)
        theirs = trained.written([prepared.texts[row] for row in wanted], Role.PRODUCT, MAX_PRODUCT_CODES)
        offered = set(own.code).union(*(ranking.code for ranking in theirs)) - set(before.codes)
        new = after.codes[len(before.codes) :]
        best = sorted((code for code in offered if relevance.relevance[code] >= least), key=relevance.relevance.item)
        assert set(new) == set(best[-NEW_CODES:])
        assert list(after.codes[: len(before.codes)]) == list(before.codes)
        passed += len(new)
    assert shared.figures["passed_codes"] == pytest.approx(passed / len(prepared.queries))
    assert 0 < shared.figures["passed_codes"] < shared.figures["new_codes"]


def test_products_get_what_they_write_and_their_queries_have(trained: Writer, prepared: Prepared) -> None:
    """Codes that they do not carry, written by themselves, of queries that want them; others stay as they are."""
    shared = share_codes(trained, prepared, Table(np.ones(len(prepared.codebook.codes))), quiet)
    row_of = {text: row for row, text in enumerate(prepared.texts)}
    carried = prepared.codebook.carried.toarray() > 0
    grown = 0
    for before, after in zip(prepared.products, shared.products, strict=True):
        row = row_of[before.text]
        asked = {int(code) for query in shared.queries if row in query.wanted for code in query.codes}
        (own,) = trained.written([before.text], Role.PRODUCT, MAX_PRODUCT_CODES)
        new = set(after.codes[len(before.codes) :].tolist())
        assert new <= asked & set(own.code.tolist()) - set(np.flatnonzero(carried[row]).tolist())
        assert len(new) <= NEW_CODES
        grown += bool(new)
    assert grown > len(prepared.products) // 10


def test_a_relevance_model_that_knows_nothing_lets_nothing_pass(trained: Writer, prepared: Prepared) -> None:
    """Then both sides keep what they had."""
    shared = share_codes(trained, prepared, Table(np.zeros(len(prepared.codebook.codes))), quiet)
    assert shared.queries == prepared.queries
    assert shared.figures["passed_codes"] == 0


def test_nobody_is_judged_by_an_arm_that_has_seen_him(prepared: Prepared) -> None:
    """Each query is left to the arm that was trained on the other half, and that arm never sees its words."""
    alone = "zzyzx quux"
    (first, *others) = prepared.queries
    asked = dataclasses.replace(prepared, queries=(dataclasses.replace(first, text=alone), *others), made=())
    found = CrossFitted.of_halves(asked, SETTINGS, quiet)
    assert found.part_of[alone] == 0
    assert not found.of(alone).any()
    seen = tuple(example for example in asked.queries if found.part_of[example.text] == 1)
    settings = dataclasses.replace(SETTINGS, linear_steps=400)
    expected = train_linear(dataclasses.replace(asked, queries=seen), settings, quiet)
    assert expected is not None
    text = next(text for text, part in found.part_of.items() if part == 0 and text != alone)
    assert found.of(text) == pytest.approx(expected.probabilities(text))


def test_both_sides_are_trained_again_on_what_was_shared(prepared: Prepared, judge: Judge, tmp_path: Path) -> None:
    """As many steps as were asked for; the course has its own examples back, and the figures tell what happened."""
    one = course(prepared, tmp_path)
    writer, told = one.writer(), list[tuple[str, int, int]]()
    before = weights_of(writer)
    figures = cotrain(writer, prepared, SETTINGS, judge, one.again(lambda *stage: told.append(stage)), quiet)
    assert told == [("co-train", step, 6) for step in range(1, 7)]
    assert one.prepared is prepared
    assert figures["cotrain_steps"] in (0.0, 6.0)
    assert equal(before, weights_of(writer)) is (figures["cotrain_steps"] == 0.0)
    names = {f"attributes_{side}_{when}" for side in ("query", "product") for when in ("joint", "cotrained")}
    assert names | {"new_codes", "passed_codes", "held_joint", "held_cotrained"} < figures.keys()
    assert all(1 <= figures[name] <= 2 for name in names)


def test_what_makes_pages_worse_is_undone(trained: Writer, prepared: Prepared, judge: Judge) -> None:
    """Where training again spoils the model, it is the one from before, and the figures say so."""
    before = weights_of(trained)

    def spoil(_queries: object, _products: object) -> None:
        with torch.no_grad():
            trained.model.shared.weight.normal_(generator=torch.Generator().manual_seed(1))

    figures = cotrain(trained, prepared, SETTINGS, judge, spoil, quiet)
    assert equal(before, weights_of(trained))
    assert figures["cotrain_steps"] == 0.0
    assert figures["held_cotrained"] < figures["held_joint"]


def test_a_training_that_spoils_the_model_is_undone(trained: Writer, prepared: Prepared, judge: Judge) -> None:
    """Where the loss is no number any more the model is the one from before; the joint training is not lost."""
    before = weights_of(trained)

    def spoil(_queries: object, _products: object) -> None:
        with torch.no_grad():
            trained.model.shared.weight.fill_(float("nan"))
        raise TrainingError("the loss became nan")

    figures = cotrain(trained, prepared, SETTINGS, judge, spoil, quiet)
    assert equal(before, weights_of(trained))
    assert (figures["cotrain_steps"], "held_cotrained" in figures) == (0.0, False)


def test_it_can_be_left_out(trained: Writer, prepared: Prepared, judge: Judge) -> None:
    """Then nothing is written, trained or told."""

    def never(*_examples: object) -> None:
        raise AssertionError

    assert cotrain(trained, prepared, dataclasses.replace(SETTINGS, cotrain_steps=0), judge, never, quiet) == {}


def test_a_training_co_trains_and_resumes_to_the_same_model(tmp_path: Path) -> None:
    """Stopped in the middle of co-training, it goes on from the end of joint training."""
    settings = dataclasses.replace(SETTINGS, prefer_steps=0, linear_steps=2, align_steps=0, nearest_share=0.0)
    config = dataclasses.replace(CONFIG, training=settings)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(PRODUCTS, ASKED, config, whole)

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "co-train" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, ASKED, config, broken, progress=stop)
    found = train(PRODUCTS, ASKED, config, broken, resume=True)
    assert without_time(found.figures) == without_time(expected.figures)
    assert (found.figures["steps"], "held_cotrained" in found.figures) == (20, True)
    weights = [load_file(folder / MODEL / "model.safetensors") for folder in (whole, broken)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def without_time(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that a machine's speed does not change."""
    return {name: figure for name, figure in figures.items() if name != "seconds"}


@given(st.lists(st.floats(0.01, 5), max_size=4), st.lists(st.floats(0.01, 5), max_size=4))
def test_new_codes_share_a_part_of_the_weight(old: list[float], new: list[float]) -> None:
    """All weights sum to one as before; without new codes nothing changes."""
    before = np.array(old, np.float32) / (sum(old) or 1)
    example = Example("q", np.arange(len(old), dtype=np.int32), before, before)
    found = with_codes(example, np.arange(10, 10 + len(new)), np.array(new))
    if not new:
        assert found is example
        return
    assert found.codes.tolist() == [*range(len(old)), *range(10, 10 + len(new))]
    assert found.weights[len(old) :].sum() == pytest.approx(NEW_SHARE)
    assert found.weights[: len(old)] == pytest.approx((1 - NEW_SHARE) * before)
    assert (found.share <= 1).all()


def test_the_model_is_copied_before_it_changes(trained: Writer) -> None:
    """Weights that were kept do not follow the model."""
    writer = copy.copy(trained)
    writer.model = copy.deepcopy(trained.model)
    kept = writer.weights()
    with torch.no_grad():
        writer.model.shared.weight.zero_()
    assert not kept["shared.weight"].eq(0).all()
