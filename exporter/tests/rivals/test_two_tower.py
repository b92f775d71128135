"""Fine-tuning of the dense rival, on a tiny BERT."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gram_exporter.rivals.encoder import WEIGHTS, SentenceEncoder
from gram_exporter.rivals.two_tower import (
    FIGURES,
    SCALE,
    Pairs,
    TwoTowerSettings,
    batches,
    fine_tuned,
    ranking_loss,
    tune_encoder,
)
from gram_plugin.errors import TrainingError

PRODUCTS = {"p1": "red sofa", "p2": "blue lamp", "p3": "table", "p4": "rug"}
PAIRS = Pairs(
    PRODUCTS,
    {"couch": {"p1": 1.0, "gone": 1.0}, "light": {"p2": 1.0}, "desk": {"p3": 2.0}, "seat": {"gone": 1.0}},
    {"couch": frozenset({"p2", "gone"})},
)
QUICK = TwoTowerSettings(steps=60, batch_pairs=3, hard_negatives=1, learning_rate=5e-3)


def silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody listens."""


def test_the_loss_is_that_of_the_slow_formula() -> None:
    """For each query: minus the log of its own product's share among its own and the wrong ones."""
    rng = np.random.default_rng(0)
    queries, products = (torch.tensor(rng.normal(size=(rows, 4)), dtype=torch.float32) for rows in (3, 5))
    wrong = rng.random((3, 5)) < 0.6
    expected = []
    for at in range(3):
        scores = [SCALE * float(queries[at] @ products[column]) for column in range(5)]
        rivals = [math.exp(scores[column]) for column in range(5) if wrong[at, column] and column != at]
        expected.append(-math.log(math.exp(scores[at]) / (math.exp(scores[at]) + sum(rivals))))
    found = ranking_loss(queries, products, torch.from_numpy(wrong))
    assert float(found) == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_batches_hold_each_query_once_and_no_wanted_product_as_wrong() -> None:
    """Two queries that want the same product do not push it away; one judged irrelevant is wrong for its query."""
    pairs = Pairs({"a": "x", "b": "y", "c": "z"}, {"q": {"a": 1.0}, "r": {"a": 3.0, "b": 1.0}}, {"q": frozenset({"c"})})
    drawn = list(itertools.islice(batches(pairs, TwoTowerSettings(batch_pairs=2)), 20))
    for batch in drawn:
        assert sorted(batch.queries) == ["q", "r"]
        assert batch.products[2:] == ("c",)
        for query, row in zip(batch.queries, batch.wrong.tolist(), strict=True):
            assert row == [product not in pairs.wanted[query] for product in batch.products]
    of_r = [batch.products[batch.queries.index("r")] for batch in drawn]
    assert of_r.count("a") > of_r.count("b") > 0


def test_the_same_seed_draws_the_same() -> None:
    """And another one draws otherwise."""
    drawn = [
        [batch.queries for batch in itertools.islice(batches(PAIRS.known(), TwoTowerSettings(seed=seed)), 8)]
        for seed in (0, 0, 1)
    ]
    assert (drawn[0] == drawn[1], drawn[0] == drawn[2]) == (True, False)


def test_it_learns_what_was_clicked(tiny_encoder: Path, tmp_path: Path) -> None:
    """Words that share no letter come together; the result is a checkpoint that opens like any other."""
    folder = fine_tuned(tiny_encoder, PAIRS, QUICK, tmp_path, silent)
    before, after = SentenceEncoder.open(tiny_encoder), SentenceEncoder.open(folder)
    figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    products = after.encode(list(PRODUCTS.values()))
    nearest = [int(np.argmax(products @ query)) for query in after.encode(["couch", "light", "desk"])]
    assert nearest == [0, 1, 2]
    assert figures["steps"] == QUICK.steps and figures["loss_last"] < figures["loss_first"] / 2
    assert before.fingerprint != after.fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}


def test_a_finished_fine_tuning_is_used_again(tiny_encoder: Path, tmp_path: Path) -> None:
    """Nothing is written; other feedback, settings or weights make another folder."""
    first = fine_tuned(tiny_encoder, PAIRS, QUICK, tmp_path, silent)
    written = (first / WEIGHTS).stat().st_mtime_ns
    assert fine_tuned(tiny_encoder, PAIRS, QUICK, tmp_path, silent) == first
    assert (first / WEIGHTS).stat().st_mtime_ns == written
    others = [
        fine_tuned(tiny_encoder, Pairs(PRODUCTS, {"couch": {"p1": 2.0}}, {}), QUICK, tmp_path, silent),
        fine_tuned(tiny_encoder, PAIRS, TwoTowerSettings(steps=1, batch_pairs=2), tmp_path, silent),
        fine_tuned(first, PAIRS, TwoTowerSettings(steps=1, batch_pairs=2), tmp_path, silent),
    ]
    assert len({first, *others}) == 4


def test_it_ends_when_its_minutes_are_over(tiny_encoder: Path) -> None:
    """Whatever the steps say; progress reaches its end all the same."""
    told: list[tuple[str, int, int]] = []
    ticks = itertools.count(0, 20)
    settings = TwoTowerSettings(steps=1000, minutes=1.0, batch_pairs=2)
    encoder = SentenceEncoder.open(tiny_encoder)
    losses = tune_encoder(
        encoder, PAIRS.known(), settings, lambda *now: told.append(now), clock=lambda: float(next(ticks))
    )
    assert len(losses) == 2  # begun at 0 s; before a step it is 20 s, 40 s, and 60 s
    assert told[-1] == ("fine-tune", 1000, 1000)


def test_without_feedback_there_is_nothing_to_tune(tiny_encoder: Path, tmp_path: Path) -> None:
    """No query, or none that wants a product of the catalogue."""
    for pairs in (Pairs(PRODUCTS, {}, {}), Pairs(PRODUCTS, {"couch": {"gone": 1.0}}, {})):
        with pytest.raises(TrainingError, match="no query wants a product of the catalogue"):
            fine_tuned(tiny_encoder, pairs, QUICK, tmp_path, silent)
