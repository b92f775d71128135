"""From a catalogue and its feedback to what training reads."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_exporter.config import CatalogueConfig, CodesConfig, Config, TrainingConfig
from gram_exporter.prepare import CODES_PER_QUERY, Prepared, prepare, rendering_of
from gram_plugin.contract.codebook import Codebook
from gram_plugin.contract.codes import Attribute, Code, Role
from gram_plugin.contract.tagging import Tagger
from gram_plugin.contract.text import render_product
from gram_plugin.decode.finder import CodeFinder
from gram_plugin.errors import TrainingError

TYPES, COLOURS, BRANDS = ("sofa", "lamp", "table", "chair"), ("blue", "red", "green"), ("acme", "zed", "moor")
CONFIG = Config(
    catalogue=CatalogueConfig(
        path=Path("unused.jsonl"),
        id="id",
        text=("title", "description"),
        attributes={"kind": "type", "colour": "colour", "brand": "brand"},
    )
)


def _product(number: int, brand: str, kind: str, colour: str) -> dict[str, Any]:
    words = f"{brand} {kind} {colour} {number}"
    return {"title": words, "description": f"about {words}", "kind": kind, "colour": colour, "brand": brand}


PRODUCTS = {
    f"p{number}": _product(number, brand, kind, colour)
    for number, (brand, kind, colour, _) in enumerate(itertools.product(BRANDS, TYPES, COLOURS, range(3)))
}
SOFAS = {key: 1.0 for key, product in PRODUCTS.items() if product["kind"] == "sofa"}


def _texts(found: Prepared) -> list[list[str]]:
    return [[example.text for example in part] for part in (found.queries, found.made, found.products)]


def test_what_is_held_out_is_in_no_example() -> None:
    """Calibration texts of either role are none that training reads."""
    found = prepare(PRODUCTS, {f"couch {at}": SOFAS for at in range(40)}, CONFIG)
    queries, made, products = map(set, _texts(found))
    held = {role: {item.text for item in found.calibration if item.role is role} for role in Role}
    assert held[Role.QUERY]
    assert held[Role.PRODUCT]
    assert held[Role.QUERY] & (queries | made) == set()
    assert held[Role.PRODUCT] & products == set()


def test_feedback_is_held_out_first_and_the_catalogue_fills_up() -> None:
    """A tenth of the asked queries is kept; as that is few, queries from the catalogue join them."""
    asked = {f"couch {at}": SOFAS for at in range(40)}
    found = prepare(PRODUCTS, asked, CONFIG)
    held = [item.text for item in found.calibration if item.role is Role.QUERY]
    assert len([text for text in held if text in asked]) == 4
    assert len(held) > 4
    assert len(found.queries) == 36


def test_the_same_seed_gives_the_same_and_another_gives_others() -> None:
    """Everything drawn follows from the seed."""
    other = dataclasses.replace(CONFIG, training=TrainingConfig(seed=5))
    first, again, second = (prepare(PRODUCTS, {"couch": SOFAS}, config) for config in (CONFIG, CONFIG, other))
    assert (_texts(first), first.calibration) == (_texts(again), again.calibration)
    assert first.calibration != second.calibration


def test_wanted_products_teach_the_codes_that_they_share() -> None:
    """A query whose clicks are all on sofas learns `type=sofa` above all, and calibration calls that right."""
    found = prepare(PRODUCTS, {"couch": SOFAS}, CONFIG)
    (query,) = found.queries
    best = found.codebook.codes[int(query.codes[int(np.argmax(query.weights))])]
    assert query.text == "couch"
    assert Attribute.of("type", "sofa") in best.attributes
    assert len(query.codes) <= CODES_PER_QUERY


def test_right_codes_of_a_product_are_those_that_it_carries() -> None:
    """A held-out product's codes have only its own attributes."""
    found = prepare(PRODUCTS, {}, CONFIG)
    by_text = {render_product(source, rendering_of(CONFIG)): source for source in PRODUCTS.values()}
    for item in found.calibration:
        if item.role is Role.PRODUCT:
            source = by_text[item.text]
            assert item.codes
            assert Code.of([Attribute.of("type", source["kind"])]) in item.codes
            assert Code.of([Attribute.of("colour", (set(COLOURS) - {source["colour"]}).pop())]) not in item.codes


_words = st.sampled_from(["sofa", "lamp", "oak", "blue", "red", "acme", "登山鞋", "soft", "x500"])
_documents = st.fixed_dictionaries(
    {"title": st.lists(_words, max_size=4).map(" ".join)},
    optional={
        "description": st.lists(_words, max_size=6).map(" ".join),
        "kind": st.sampled_from(["sofa", "lamp"]),
        "colour": st.lists(st.sampled_from(["blue", "red", "oak"]), max_size=2),
        "brand": st.sampled_from(["acme", "zed", 3]),
    },
)


@settings(max_examples=40)
@given(st.lists(_documents, min_size=3, max_size=12))
def test_serving_finds_every_code_that_the_codebook_says_a_product_carries(
    tmp_path_factory: pytest.TempPathFactory, documents: list[dict[str, Any]]
) -> None:
    """The tagger, written and read again, gives a product all the codes that training counted it for."""
    products = {**PRODUCTS, **{f"d{at}": document for at, document in enumerate(documents)}}
    found = prepare(products, {}, dataclasses.replace(CONFIG, codes=CodesConfig(max_attributes=3)))
    path = tmp_path_factory.getbasetemp() / "prepared-tagger.json"
    found.tagger.save(path)
    tagger, finder = Tagger.load(path), CodeFinder(Codebook.of(found.codebook.entries()))
    pointer, columns = found.codebook.carried.indptr, found.codebook.carried.indices
    for row, source in enumerate(products.values()):
        carried = {found.codebook.codes[at].text for at in columns[pointer[row] : pointer[row + 1]]}
        assert carried <= {code.text for code in finder.codes_of(tagger.attributes(source))}


@pytest.mark.parametrize("wanted", [{}, {"couch": {}}, {"couch": {"unknown": 1.0}}, {" \t": SOFAS}])
def test_feedback_that_teaches_nothing_is_a_shop_on_day_one(wanted: dict[str, dict[str, float]]) -> None:
    """No feedback, none for a product that exists, none with words: the catalogue's own queries are left."""
    found = prepare(PRODUCTS, wanted, CONFIG)
    assert found.queries == ()
    assert found.made
    assert found.products


def test_an_empty_catalogue_cannot_be_trained_on() -> None:
    """The error names the setting."""
    with pytest.raises(TrainingError, match="the catalogue has no products — check \\[catalogue\\] path"):
        prepare({}, {}, CONFIG)


def test_a_catalogue_without_shared_attributes_cannot_be_trained_on() -> None:
    """Without two products that share anything there are no codes."""
    with pytest.raises(TrainingError):
        prepare({"a": {"title": "one"}, "b": {"title": "other"}}, {}, CONFIG)


def test_attributes_come_before_long_texts() -> None:
    """The title leads, then the fields, then the rest; a field that is both text and attribute comes once."""
    catalogue = dataclasses.replace(CONFIG.catalogue, text=("title", "brand", "description"))
    assert rendering_of(dataclasses.replace(CONFIG, catalogue=catalogue)).fields == (
        "title",
        "kind",
        "colour",
        "brand",
        "description",
    )


def test_held_feedback_is_what_training_does_not_read() -> None:
    """The queries kept apart come with the ids and weights that they were asked with; made ones are not among them."""
    asked = {f"couch {at}": {"p1": 1.0, "p0": 0.5} for at in range(40)}
    found = prepare(PRODUCTS, asked, CONFIG)
    assert found.held
    assert found.held == {query: asked[query] for query in found.held}
    assert set(found.held) & {example.text for example in found.queries} == set()
    assert len(found.held) + len(found.queries) == len(asked)
