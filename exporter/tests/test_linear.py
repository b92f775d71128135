"""Training of the linear arm on a catalogue that fits on a page."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.config import CatalogueConfig, Config, TrainingConfig
from gram_exporter.linear import candidates_of, train_linear
from gram_exporter.prepare import Prepared, prepare
from gram_exporter.trainedarm import TrainedArm
from gram_plugin.contract.features import BUCKETS, features_of

TYPES, COLOURS, BRANDS = ("bookshelf", "lampshade", "armchair"), ("blue", "red", "green"), ("acme", "zed")
PRODUCTS = {
    f"p{at}": {"title": f"{brand} {kind} {colour}", "kind": kind, "colour": colour, "brand": brand}
    for at, (kind, colour, brand, _) in enumerate(itertools.product(TYPES, COLOURS, BRANDS, range(2)))
}
WANTED = {
    f"{word} {colour}": {
        key: 1.0 for key, value in PRODUCTS.items() if (value["kind"], value["colour"]) == (kind, colour)
    }
    for kind, word in zip(TYPES, ("rack for novels", "shade", "comfy seat"), strict=True)
    for colour in COLOURS
}
SETTINGS = TrainingConfig(linear_steps=60, linear_width=8)
CONFIG = Config(
    catalogue=CatalogueConfig(
        path=Path("unused.jsonl"),
        id="id",
        text=("title",),
        attributes={"kind": "type", "colour": "colour", "brand": "brand"},
    )
)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """What training reads."""
    return prepare(PRODUCTS, WANTED, CONFIG)


def trained(prepared: Prepared, *, sampled_codes: int = 4096, **settings: int) -> TrainedArm:
    """An arm of a short training."""
    config = dataclasses.replace(SETTINGS, **settings)
    arm = train_linear(prepared, config, lambda *_stage: None, sampled_codes=sampled_codes)
    assert arm is not None
    return arm


@pytest.fixture(scope="module")
def arm(prepared: Prepared) -> TrainedArm:
    """The arm that most tests look at."""
    return trained(prepared)


def best(arm: TrainedArm, prepared: Prepared, query: str) -> str:
    """The likeliest code of a query."""
    found = arm.probabilities(query)
    assert found is not None
    return prepared.codebook.codes[int(found.argmax())].text


QUERIES = {
    "comfy seat red": "type=armchair|colour=red",
    "comfy saet red": "type=armchair|colour=red",
    "rack for novls blue": "type=bookshelf|colour=blue",
    "bookshelf blue": "type=bookshelf|colour=blue",
    "boookshelf blue": "type=bookshelf|colour=blue",
    "green lampshde": "type=lampshade|colour=green",
}


@pytest.mark.parametrize(("query", "code"), QUERIES.items())
def test_an_arm_ranks_the_right_code_first(arm: TrainedArm, prepared: Prepared, query: str, code: str) -> None:
    """Of what people asked and of what the catalogue says, as it was seen and misspelt."""
    assert best(arm, prepared, query) == code


@pytest.mark.parametrize("sampled_codes", [1, 4])
def test_an_arm_learns_from_a_draw_of_the_codes_that_no_query_wants(prepared: Prepared, sampled_codes: int) -> None:
    """Sampled softmax: a few of the other codes at each step are enough to give nearly all of the probability."""
    few = dataclasses.replace(prepared, queries=prepared.queries[:1], made=())
    (query,) = few.queries
    arm = trained(few, sampled_codes=sampled_codes)
    found = arm.probabilities(query.text)
    assert found is not None
    assert best(arm, prepared, query.text) == "type=bookshelf|colour=blue"
    assert found[query.codes].sum() > 0.9


def test_the_same_seed_gives_the_same_arm_and_another_gives_another(prepared: Prepared) -> None:
    """To the last bit, whatever was drawn in between."""
    first, again, other = (trained(prepared, linear_steps=3, seed=seed) for seed in (1, 1, 2))
    for name in ("features", "codes", "bias"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) != getattr(other, name)).any()


def test_no_steps_or_no_queries_give_no_arm(prepared: Prepared) -> None:
    """An arm that learned nothing is none."""
    none = dataclasses.replace(prepared, queries=(), made=())
    assert train_linear(prepared, dataclasses.replace(SETTINGS, linear_steps=0), lambda *_stage: None) is None
    assert train_linear(none, SETTINGS, lambda *_stage: None) is None


def test_an_arm_learns_from_feedback_or_from_the_catalogue_alone(prepared: Prepared) -> None:
    """A shop on day one has queries of the second kind only."""
    made = trained(dataclasses.replace(prepared, queries=()))
    asked = trained(dataclasses.replace(prepared, made=()))
    assert best(made, prepared, "bookshelf blue") == "type=bookshelf|colour=blue"
    assert best(asked, prepared, "comfy seat red") == "type=armchair|colour=red"


def test_features_that_training_never_saw_say_nothing(arm: TrainedArm, prepared: Prepared) -> None:
    """Their rows are zero, those of seen queries are not, and a text of nothing else gets no answer."""
    seen = [bucket for example in (*prepared.queries, *prepared.made) for bucket in features_of(example.text).buckets]
    known = arm.features.any(axis=1)
    assert known[seen].all()
    assert known.sum() < BUCKETS / 20
    assert not known[list(features_of("x500").buckets)].any()
    assert arm.probabilities("x500") is None


def test_an_arm_has_a_row_for_every_bucket_and_code_of_any_width(prepared: Prepared) -> None:
    """Its shapes and types are those that serving asks for, so that it may be saved and loaded."""
    found = trained(prepared, linear_steps=1, linear_width=12)
    codes = len(prepared.codebook.codes)
    assert [found.features.shape, found.codes.shape, found.bias.shape] == [(BUCKETS, 12), (codes, 12), (codes,)]
    assert {part.dtype for part in (found.features, found.codes, found.bias)} == {np.dtype(np.float32)}


def test_a_query_without_letters_is_no_trouble(prepared: Prepared) -> None:
    """Feedback may hold a text of nothing but signs: it teaches which codes are wanted at all."""
    signs = tuple(dataclasses.replace(example, text="—!") for example in prepared.queries)
    found = trained(dataclasses.replace(prepared, queries=signs, made=()), linear_steps=2)
    assert not found.features.any()
    assert np.isfinite(found.codes).all() and np.isfinite(found.bias).all()


def test_progress_is_told_at_every_step(prepared: Prepared) -> None:
    """From one to all."""
    told: list[tuple[str, int, int]] = []
    config = dataclasses.replace(SETTINGS, linear_steps=3)
    train_linear(prepared, config, lambda *stage: told.append(stage))
    assert told == [("train the linear arm", step, 3) for step in (1, 2, 3)]


@given(
    wanted=st.lists(st.integers(0, 39), min_size=1, max_size=30),
    more=st.integers(0, 20),
    most=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_candidates_are_the_wanted_codes_and_others_that_stand_for_the_rest(
    wanted: list[int], more: int, most: int, seed: int
) -> None:
    """Each code comes once, wanted ones count once, and the others together for all that nobody wants."""
    every = max(wanted) + 1 + more
    found = candidates_of(np.array(wanted, np.int32), every, most, np.random.default_rng(seed))
    codes, counts = found.codes.tolist(), np.exp(found.correction.numpy())
    distinct = sorted(set(wanted))
    others = codes[len(distinct) :]
    assert codes[: len(distinct)] == distinct
    assert others == sorted(set(range(every)) - set(distinct)) or len(others) <= most
    assert set(others) <= set(range(every)) - set(distinct)
    assert [codes[at] for at in found.place.tolist()] == wanted
    assert counts[: len(distinct)].tolist() == [1.0] * len(distinct)
    assert counts.sum() == pytest.approx(every if others else len(distinct), rel=1e-5)


def test_a_draw_of_candidates_is_worth_all_of_them_on_average() -> None:
    """The denominator of the softmax over many draws is that over all codes, within two percent."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=200)
    draws = [candidates_of(np.array([3, 7], np.int32), 200, 20, rng) for _ in range(3000)]
    sums = [np.exp(logits[found.codes.numpy()] + found.correction.numpy()).sum() for found in draws]
    assert np.mean(sums) == pytest.approx(np.exp(logits).sum(), rel=0.02)
