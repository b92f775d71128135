"""From a catalogue and its feedback to everything that training reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gram_exporter.attributes import learn_lexicon, learn_terms
from gram_exporter.codebook import Codebook, CodebookSettings, build_codebook
from gram_exporter.config import Config, TrainingConfig
from gram_exporter.data import CatalogueView, Example, catalogue_examples, feedback_examples, product_examples
from gram_exporter.record import CalibrationText
from gram_plugin.contract.codes import Code, Role
from gram_plugin.contract.tagging import ProductText, Tagger, product_attributes, product_text
from gram_plugin.contract.text import Rendering, render_product
from gram_plugin.errors import TrainingError

Item = TypeVar("Item")

CODES_PER_QUERY = 8
MAX_CALIBRATION_PRODUCTS = 300
MAX_CALIBRATION_QUERIES = 600
MAX_QUERIES_MADE = 40_000
ENOUGH_CALIBRATION_QUERIES = 100
LEAST_SHARE = 0.02
"""Codes that a smaller part of a query's wanted products carry are not written down for calibration."""


@dataclass(frozen=True)
class Prepared:
    """All that training reads; `queries` come from feedback, `made` from the catalogue.

    `ids` and `texts` are those of all products, rendered, in order of `codebook.carried`.
    `held` is the feedback that no part of training reads: query text to product id to weight > 0.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    codebook: Codebook
    rendering: Rendering
    tagger: Tagger
    queries: tuple[Example, ...]
    made: tuple[Example, ...]
    products: tuple[Example, ...]
    calibration: tuple[CalibrationText, ...]
    held: Mapping[str, Mapping[str, float]]


def prepare(
    products: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, float]], config: Config
) -> Prepared:
    """Extracts attributes, builds the codebook and makes the examples; deterministic for a seed.

    Args:
        products: product id to document, in catalogue order.
        wanted: query text to product id to weight > 0, from clicks or judgments; may be empty.
        config: the parsed gram.toml.

    Raises:
        TrainingError: there are no products, or none of them shares an attribute with another.
    """
    if not products:
        raise TrainingError("the catalogue has no products", next_step="check [catalogue] path in gram.toml")
    rendering = rendering_of(config)
    texts = [product_text(source, config.catalogue.text, config.catalogue.attributes) for source in products.values()]
    tagger = _tagger(texts, config)
    view = CatalogueView(
        ids=tuple(products),
        titles=tuple(text.title[: rendering.max_field_chars] for text in texts),
        texts=tuple(render_product(source, rendering) for source in products.values()),
        attributes=tuple(product_attributes(text, tagger.lexicon, tagger.terms) for text in texts),
    )
    del texts
    settings = CodebookSettings(
        config.codes.min_products, config.codes.max_attributes, config.codes.max_share, config.codes.max_codes
    )
    codebook = build_codebook(view.attributes, settings)
    asked = feedback_examples(wanted, view, codebook, per_query=CODES_PER_QUERY)
    count = min(MAX_QUERIES_MADE, 4 * len(products))
    made = catalogue_examples(view, codebook, count=count, per_query=CODES_PER_QUERY, seed=config.training.seed)
    rng = np.random.default_rng(config.training.seed)
    held = _held_queries(asked, made, config.training, rng)
    queries = tuple(example for example in asked if example.text not in held.queries)
    made = [example for example in made if example.text not in held.queries]
    coded = product_examples(view, codebook, [*queries, *made], per_product=config.codes.max_per_product)
    held_products = _held_products(coded, rng)
    return Prepared(
        view.ids,
        view.texts,
        codebook,
        rendering,
        tagger,
        queries=queries,
        made=tuple(made),
        products=tuple(example for example in coded if len(example.codes) and example.text not in held_products),
        calibration=tuple(_calibration_texts(held.queries, held_products, codebook)),
        held={text: _wanted_ids(example, view.ids) for text, example in held.asked.items()},
    )


def rendering_of(config: Config) -> Rendering:
    """Title, then attribute fields, then the long texts: a cut at the end must not lose the attributes."""
    title, *rest = config.catalogue.text
    fields = dict.fromkeys((title, *config.catalogue.attributes, *rest))
    return Rendering(tuple(fields))


def _tagger(texts: Sequence[ProductText], config: Config) -> Tagger:
    catalogue, codes = config.catalogue, config.codes
    titles = [text.title for text in texts]
    return Tagger(
        text=catalogue.text,
        types=catalogue.attributes,
        lexicon=learn_lexicon(texts, min_products=codes.min_products),
        terms=learn_terms(titles, min_products=max(3, codes.min_products), max_terms=codes.max_terms),
    )


@dataclass(frozen=True)
class _Held:
    """Queries by text that training must not see, `asked` those of them from feedback."""

    queries: Mapping[str, Example]
    asked: Mapping[str, Example]


def _held_queries(
    asked: Sequence[Example], made: Sequence[Example], settings: TrainingConfig, rng: np.random.Generator
) -> _Held:
    """Calibration is done on what people asked, where that is enough; else queries from the catalogue fill it up."""
    queries = kept = _drawn(asked, min(MAX_CALIBRATION_QUERIES, int(settings.holdout * len(asked))), rng)
    if len(queries) < ENOUGH_CALIBRATION_QUERIES:
        missing = min(MAX_CALIBRATION_QUERIES - len(queries), int(settings.holdout * len(made)))
        queries = [*queries, *_drawn(made, missing, rng)]
    return _Held({example.text: example for example in queries}, {example.text: example for example in kept})


def _held_products(coded: Sequence[Example], rng: np.random.Generator) -> dict[str, int]:
    """Texts of products that training must not see, with their rows."""
    with_codes = [row for row, example in enumerate(coded) if len(example.codes)]
    products = _drawn(with_codes, min(MAX_CALIBRATION_PRODUCTS, int(0.05 * len(with_codes))), rng)
    return {coded[row].text: row for row in products}


def _wanted_ids(example: Example, ids: Sequence[str]) -> dict[str, float]:
    return {ids[row]: float(weight) for row, weight in zip(example.wanted, example.demand, strict=True)}


def _drawn(items: Sequence[Item], count: int, rng: np.random.Generator) -> list[Item]:
    return [items[int(at)] for at in rng.permutation(len(items))[:count]]


def _calibration_texts(
    queries: Mapping[str, Example], products: Mapping[str, int], codebook: Codebook
) -> Iterator[CalibrationText]:
    for text, example in queries.items():
        shares = {at: share for at, share in example.code_shares(codebook).items() if share >= LEAST_SHARE}
        codes = tuple(codebook.codes[at] for at in shares)
        yield CalibrationText(Role.QUERY, text, codes, tuple(shares.values()))
    for text, row in products.items():
        yield CalibrationText(Role.PRODUCT, text, _carried_codes(row, codebook))


def _carried_codes(row: int, codebook: Codebook) -> tuple[Code, ...]:
    pointer = codebook.carried.indptr
    return tuple(codebook.codes[at] for at in codebook.carried.indices[pointer[row] : pointer[row + 1]])
