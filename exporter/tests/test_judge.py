"""The judge of alignment: what is sure, and how held-out pages are looked at."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gram_exporter.config import CatalogueConfig, Config, TrainingConfig
from gram_exporter.judge import FEWEST_HELD, Judge, surely_better
from gram_exporter.prepare import Prepared, prepare

PRODUCTS = {
    f"p{at}": {"title": f"{kind} {colour}", "kind": kind, "colour": colour}
    for at, (kind, colour) in enumerate((kind, colour) for kind in ("sofa", "lamp") for colour in "abcdefgh" * 2)
}
CONFIG = Config(
    catalogue=CatalogueConfig(
        path=Path("unused.jsonl"), id="id", text=("title",), attributes={"kind": "type", "colour": "colour"}
    ),
    training=TrainingConfig(holdout=0.5),
)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Half of 120 asked queries are held out; the wanted products are found by their words alone."""
    sofas = [key for key, source in PRODUCTS.items() if source["kind"] == "sofa"]
    return prepare(PRODUCTS, {f"sofa {at}": dict.fromkeys(sofas, 1.0) for at in range(120)}, CONFIG)


def test_held_out_pages_are_judged(prepared: Prepared) -> None:
    """Every held-out query by rendered text, with the rows that it wants; the words find all of them first."""
    told: list[tuple[str, int, int]] = []
    judge = Judge.of(prepared, lambda *stage: told.append(stage))
    assert judge is not None
    assert judge.wanted == {text: dict.fromkeys(range(16), 1.0) for text in prepared.held}
    assert judge.worth_of_words == 1.0
    assert judge.worths(lambda _text: None).tolist() == [1.0] * len(prepared.held)
    assert told == [("read the catalogue", 0, 1), ("read the catalogue", 1, 1)]


def test_too_little_feedback_has_no_judge(prepared: Prepared) -> None:
    """Too few held-out queries, or none left to learn from; the catalogue is not read then."""

    def nobody(*_stage: object) -> None:
        raise AssertionError

    few = dataclasses.replace(prepared, held=dict(list(prepared.held.items())[: FEWEST_HELD - 1]))
    assert Judge.of(few, nobody) is None
    assert Judge.of(dataclasses.replace(prepared, queries=()), nobody) is None


@given(
    gains=st.lists(st.floats(-1, 1), min_size=1, max_size=20),
    worths=st.lists(st.floats(0, 1), min_size=20, max_size=20),
)
def test_sure_is_a_mean_gain_above_its_standard_error(gains: list[float], worths: list[float]) -> None:
    """Paired: what both are worth alike does not count."""
    than = np.array(worths[: len(gains)])
    found = than + np.array(gains)
    differences = [float(a) - float(b) for a, b in zip(found, than, strict=True)]
    mean = math.fsum(differences) / len(gains)
    error = math.sqrt(math.fsum((one - mean) ** 2 for one in differences)) / len(gains)
    assume(abs(mean - error) > 1e-9)
    assert surely_better(found, than) == (mean > error)
