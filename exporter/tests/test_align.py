"""Alignment of the linear arm on a catalogue where words mislead."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from misleading import SETTINGS

from gram_exporter.align import Worths, align, compared_products, with_nearest
from gram_exporter.data import Example
from gram_exporter.linear import train_linear
from gram_exporter.prepare import Prepared
from gram_exporter.trainedarm import TrainedArm
from gram_exporter.trial import Hits


def many(prepared: Prepared) -> Prepared:
    """The same with its held-out queries asked in two ways, so that there are enough of them."""
    more = {f"{text} x{at}": own for text, own in prepared.held.items() for at in range(2)}
    return dataclasses.replace(prepared, held=more)


@pytest.fixture(scope="module")
def arm(prepared: Prepared) -> TrainedArm:
    """An arm of a short training."""
    found = train_linear(prepared, SETTINGS, lambda *_stage: None)
    assert found is not None
    return found


def test_alignment_makes_held_out_pages_better(arm: TrainedArm, prepared: Prepared) -> None:
    """A half-trained arm gains by it, as the figures say, and the neighbours cost nothing."""
    aligned = align(arm, many(prepared), SETTINGS, lambda *_stage: None)
    figures = aligned.figures
    assert figures["align_steps"] in (25.0, 50.0)
    assert figures["held_words"] < figures["held_arm"] < figures["held_aligned"] <= figures["held_nearest"] <= 1
    assert figures["nearest_share"] == (aligned.arm.nearest.share if aligned.arm.nearest else 0.0)
    assert (aligned.arm.codes != arm.codes).any()


def test_the_same_seed_aligns_alike(arm: TrainedArm, prepared: Prepared) -> None:
    """To the last bit; another seed differs."""
    config = dataclasses.replace(SETTINGS, align_steps=2)
    first, again, other = (
        align(arm, many(prepared), dataclasses.replace(config, seed=seed), lambda *_stage: None).arm
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.codes, again.codes)
    np.testing.assert_array_equal(first.features, again.features)
    assert (first.codes != other.codes).any()


def test_without_enough_held_out_feedback_the_arm_stays_as_it_is(arm: TrainedArm, prepared: Prepared) -> None:
    """Nobody could say whether it helped; a share of the neighbours that is set is kept to."""
    few = dataclasses.replace(prepared, held=dict(list(many(prepared).held.items())[:49]))
    for poor in (few, dataclasses.replace(many(prepared), queries=())):
        found = align(arm, poor, SETTINGS, lambda *_stage: None)
        assert found.arm is arm
        assert found.figures == {}
    set_by_hand = align(arm, few, dataclasses.replace(SETTINGS, nearest_share=0.3), lambda *_stage: None).arm
    assert set_by_hand.nearest is not None and set_by_hand.nearest.share == 0.3


def test_both_stages_can_be_left_out(arm: TrainedArm, prepared: Prepared) -> None:
    """Then nothing changes, and the figures say so."""
    config = dataclasses.replace(SETTINGS, align_steps=0, nearest_share=0.0)
    found = align(arm, many(prepared), config, lambda *_stage: None)
    assert found.arm is arm
    assert found.figures["held_nearest"] == found.figures["held_arm"]
    assert "held_aligned" not in found.figures


def test_alignment_that_does_not_help_is_undone(arm: TrainedArm, prepared: Prepared) -> None:
    """Where held-out pages are no better after any step, the arm is the one from before."""
    indifferent = {f"{at}": {"p0": 1.0} for at in range(50)}
    found = align(arm, dataclasses.replace(prepared, held=indifferent), SETTINGS, lambda *_stage: None)
    assert found.figures["align_steps"] == 0.0
    assert found.figures["held_aligned"] == found.figures["held_arm"]
    np.testing.assert_array_equal(found.arm.codes, arm.codes)


def test_progress_is_told_at_every_step(arm: TrainedArm, prepared: Prepared) -> None:
    """From one to all: reading the catalogue, searching for the queries that are taught, and the steps."""
    told: list[tuple[str, int, int]] = []
    align(arm, many(prepared), dataclasses.replace(SETTINGS, align_steps=3), lambda *stage: told.append(stage))
    asked = min(len(prepared.queries), 3 * 64)
    assert told == [
        ("read the catalogue", 0, 1),
        ("read the catalogue", 1, 1),
        *(("search for asked queries", at, asked) for at in range(1, asked + 1)),
        *(("align the linear arm", step, 3) for step in (1, 2, 3)),
    ]


def test_neighbours_take_the_share_that_is_worth_most(arm: TrainedArm, prepared: Prepared) -> None:
    """Each share is tried on whatever is to judge; one that is given is not tried at all."""

    def closest_to(share: float) -> Worths:
        return lambda one: np.array([-abs((one.nearest.share if one.nearest else 0.0) - share)] * 3)

    def nobody(_arm: TrainedArm) -> npt.NDArray[np.float64]:
        raise AssertionError

    chosen = [with_nearest(arm, prepared, closest_to(share), None).nearest for share in (0.25, 0.4, 0.9)]
    assert [one.share for one in chosen if one] == [0.2, 0.4, 0.6]
    assert with_nearest(arm, prepared, closest_to(0.0), None) is arm
    given = with_nearest(arm, prepared, nobody, 0.35)
    assert given.nearest is not None and given.nearest.share == 0.35
    assert with_nearest(arm, prepared, nobody, 0.0) is arm


def test_neighbours_that_gain_no_more_than_chance_are_left_out(arm: TrainedArm, prepared: Prepared) -> None:
    """A mean gain below its standard error is none."""

    def judged(gains: list[float]) -> Worths:
        return lambda one: np.array(gains) if one.nearest else np.zeros(len(gains))

    assert with_nearest(arm, prepared, judged([0.3, -0.2, 0.0, 0.0]), None) is arm
    assert with_nearest(arm, prepared, judged([0.3, 0.2, 0.0, 0.0]), None).nearest is not None


def test_neighbours_are_the_asked_queries_with_their_codes(arm: TrainedArm, prepared: Prepared) -> None:
    """Each with the arm's own vector and with the weights of its codes."""
    found = with_nearest(arm, prepared, lambda _arm: np.zeros(1), 0.5).nearest
    assert found is not None
    assert len(found.vectors) == len(prepared.queries)
    wanted = {example.text: example for example in prepared.queries}
    order = sorted(prepared.queries, key=lambda example: -float(example.demand.sum()))
    for at, example in enumerate(order):
        own = slice(found.offsets[at], found.offsets[at + 1])
        np.testing.assert_array_equal(found.vectors[at], arm.direction(example.text))
        np.testing.assert_array_equal(found.codes[own], wanted[example.text].codes)
        np.testing.assert_array_equal(found.weights[own], wanted[example.text].weights)


def test_a_query_is_taught_on_what_either_side_brings_up_and_on_what_is_wanted() -> None:
    """Each product once, the most wanted ones where there are many."""
    none = np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32)
    demand = np.linspace(1, 2, 60).astype(np.float32)
    example = Example("sofa", *none, wanted=np.arange(100, 160, dtype=np.int32), demand=demand)
    words = Hits(np.array([7, 3, 159]), np.ones(3, np.float32))
    codes = Hits(np.arange(50), np.ones(50, np.float32))
    found = compared_products(example, words, codes)
    assert found.tolist() == [*range(40), *range(128, 160)]
