"""Training examples: which codes a query and a product should be given, and how strongly.

A query's codes are those that its wanted products share more often than the catalogue does. The wanted
products are the clicked or judged ones; for queries made from catalogue text, the products that hold
their words or attributes. Codes cross over in both directions (GRAM's code sharing): products teach
queries their attributes, and queries tell products which of their codes are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from gram_exporter.codebook import Codebook
from gram_plugin.contract.codes import Attribute, readable_value
from gram_plugin.contract.text import render_query
from gram_plugin.contract.words import Place, is_part, places, written

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Key = TypeVar("Key", bound=Hashable)

MAX_LIFT = 50.0
"""Cap of P(code | wanted) / P(code): one click must not make the rarest code the best."""
SMOOTHING = 0.5
"""Pseudo-count of the catalogue in P(code | wanted): a query with few clicks says little."""
MAX_WANTED = 64
"""Most wanted products that are read for one query made from the catalogue."""
FEEDBACK_SHARE = 0.5
"""Most of a query batch that comes from feedback; less where there is little of it."""
ENOUGH_FEEDBACK = 200
"""Asked queries from which on `FEEDBACK_SHARE` holds: fewer would be learned by heart."""
SPAN_WORDS = range(1, 5)
SPAN_PARTS = range(2, 9)
"""Lengths of a span of text as a query, in words; in characters where a script puts no spaces between words."""
_NOBODY: Ints = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Example:
    """A text with its codes.

    `codes` int32, shape (n,), columns of the codebook; `weights` float32, shape (n,), sum 1;
    `share` float32, shape (n,), the smoothed part of wanted products that carry the code. Of a query also what it
    wants: `wanted` int32, shape (m,), rows of the catalogue, and `demand` float32, shape (m,), > 0.
    """

    text: str
    codes: Ints
    weights: Floats
    share: Floats
    wanted: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    demand: Floats = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    def code_shares(self, codebook: Codebook) -> dict[int, float]:
        """The part of the wanted products, by demand, that carry each code: column to share, > 0 to 1, unsmoothed."""
        if not len(self.wanted):
            return {}
        mass = sparse.csr_array(self.demand[np.newaxis, :] @ codebook.carried[self.wanted])  # (1, codes)
        return dict(zip(mass.indices.tolist(), (mass.data / self.demand.sum()).tolist(), strict=True))


@dataclass(frozen=True)
class CatalogueView:
    """What example making reads of a catalogue; positions are rows of `codebook.carried`."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    attributes: tuple[tuple[Attribute, ...], ...]


def feedback_examples(
    wanted: Mapping[str, Mapping[str, float]], view: CatalogueView, codebook: Codebook, *, per_query: int
) -> list[Example]:
    """One example for each query that has a wanted product with a code.

    `wanted` maps query text to product id to weight > 0; unknown ids are passed over.
    """
    row_of = {product_id: row for row, product_id in enumerate(view.ids)}
    merged: dict[str, dict[int, float]] = {}
    for query, products in wanted.items():
        rows = merged.setdefault(render_query(query), {})
        for product_id, weight in products.items():
            if product_id in row_of:
                rows[row_of[product_id]] = rows.get(row_of[product_id], 0.0) + weight
    texts = [text for text, rows in merged.items() if text and rows]
    matrix = _wanted_matrix([merged[text] for text in texts], len(view.ids))
    return list(_examples(texts, matrix, codebook, per_query))


def catalogue_examples(
    view: CatalogueView, codebook: Codebook, *, count: int, per_query: int, seed: int
) -> list[Example]:
    """Queries made from catalogue text: spans of titles and texts, and attributes in free order.

    Fewer than `count` come back when spans repeat or are said by more than a fifth of all products.
    """
    maker = _QueryMaker(view, np.random.default_rng(seed))
    made: dict[str, Ints] = {}
    for _ in range(2 * count):
        if len(made) >= count:
            break
        text, rows = maker.make()
        if text and 0 < len(rows) <= max(MAX_WANTED, len(view.ids) // 5):
            made.setdefault(text, rows)
    wanted = [dict.fromkeys(maker.sample(rows), 1.0) for rows in made.values()]
    return list(_examples(list(made), _wanted_matrix(wanted, len(view.ids)), codebook, per_query))


def product_examples(
    view: CatalogueView, codebook: Codebook, queries: Sequence[Example], *, per_product: int
) -> list[Example]:
    """One example for each product with a code: its codes, weighted by how much queries ask for them.

    A product's row has the same order as `view`; a product without a code has an example without codes.
    """
    demand = _demand(codebook, queries)
    carried = codebook.carried
    rows = (carried.indices[carried.indptr[row] : carried.indptr[row + 1]] for row in range(len(view.ids)))
    return [_product_example(text, own, demand, per_product) for text, own in zip(view.texts, rows, strict=True)]


def _product_example(text: str, own: Ints, demand: Floats, per_product: int) -> Example:
    best = own[np.argsort(-demand[own], kind="stable")][:per_product].astype(np.int32)
    return Example(text, best, _normalised(demand[best]), np.ones(len(best), dtype=np.float32))


def _demand(codebook: Codebook, queries: Sequence[Example]) -> Floats:
    """How much queries ask for each code, > 0, float32, shape (codes,); the square root keeps the tail alive."""
    asked = np.full(len(codebook.codes), 0.05, dtype=np.float64)
    for example in queries:
        asked[example.codes] += example.weights
    return np.sqrt(asked).astype(np.float32)


def _examples(texts: Sequence[str], wanted: sparse.csr_array, codebook: Codebook, per_query: int) -> Iterator[Example]:
    base = (codebook.support / codebook.carried.shape[0]).astype(np.float64)
    totals = np.asarray(wanted.sum(axis=1)).ravel()
    mass = sparse.csr_array(wanted @ codebook.carried)
    for row, text in enumerate(texts):
        codes = mass.indices[mass.indptr[row] : mass.indptr[row + 1]]
        weight = mass.data[mass.indptr[row] : mass.indptr[row + 1]]
        example = _example(text, codes, weight, float(totals[row]), base, per_query)
        own = slice(wanted.indptr[row], wanted.indptr[row + 1])
        if len(example.codes):
            yield replace(example, wanted=wanted.indices[own].astype(np.int32), demand=wanted.data[own].copy())


def _example(text: str, codes: Ints, mass: Floats, total: float, base: npt.NDArray[np.float64], limit: int) -> Example:
    """Codes by their part of the divergence of wanted products from the catalogue: p ln(p / b)."""
    prior = base[codes]
    share = (mass + SMOOTHING * prior) / (total + SMOOTHING)
    gain = share * np.log(np.minimum(share / prior, MAX_LIFT))
    best = np.argsort(-gain, kind="stable")[:limit]
    best = best[gain[best] > 0.05]
    weights = _normalised(gain[best])
    return Example(text, codes[best].astype(np.int32), weights, share[best].astype(np.float32))


def query_batch(
    asked: Sequence[Example], made: Sequence[Example], size: int, rng: np.random.Generator
) -> list[Example]:
    """`size` queries drawn with repetition from those that people asked and those made from the catalogue."""
    from_feedback = texts_from_feedback(size, len(asked), len(made))
    return [*drawn(asked, from_feedback, rng), *drawn(made, size - from_feedback, rng)]


def texts_from_feedback(size: int, asked: int, made: int) -> int:
    """How many of a batch of `size` queries are asked ones: in proportion up to `ENOUGH_FEEDBACK`, one at least."""
    if not (asked and made):
        return size if asked else 0
    return math.ceil(size * FEEDBACK_SHARE * min(1.0, asked / ENOUGH_FEEDBACK))


def drawn(examples: Sequence[Example], count: int, rng: np.random.Generator) -> list[Example]:
    """So many examples, with repetition; none where there are none."""
    if not examples:
        return []
    return [examples[int(at)] for at in rng.integers(len(examples), size=count)]


def _normalised(values: npt.NDArray[np.floating]) -> Floats:
    return (values / values.sum()).astype(np.float32) if len(values) else values.astype(np.float32)


def _wanted_matrix(rows: Sequence[Mapping[int, float]], products: int) -> sparse.csr_array:
    pointer = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.fromiter((at for row in rows for at in row), dtype=np.int64, count=int(pointer[-1]))
    data = np.fromiter((w for row in rows for w in row.values()), dtype=np.float32, count=int(pointer[-1]))
    return sparse.csr_array((data, indices, pointer), shape=(len(rows), products))


class _QueryMaker:
    """Makes one query at a time out of a product, with the products that it would be meant for."""

    def __init__(self, view: CatalogueView, rng: np.random.Generator) -> None:
        self._view, self._rng = view, rng
        self._holders = _postings(set(_keys(text, places(text))) for text in view.texts)
        self._carriers = _postings(set(own) for own in view.attributes)

    def make(self) -> tuple[str, Ints]:
        """A query text and the rows of the products that hold all of it."""
        product = int(self._rng.integers(len(self._view.ids)))
        kind = self._rng.random()
        if kind < 0.45 and self._view.attributes[product]:
            return self._from_attributes(self._view.attributes[product])
        return self._from_span(self._view.titles[product] if kind < 0.85 else self._view.texts[product])

    def sample(self, rows: Ints) -> list[int]:
        """At most `MAX_WANTED` of the rows."""
        if len(rows) <= MAX_WANTED:
            return [int(row) for row in rows]
        return [int(row) for row in self._rng.choice(rows, MAX_WANTED, replace=False)]

    def _from_attributes(self, own: Sequence[Attribute]) -> tuple[str, Ints]:
        size = min(len(own), int(self._rng.integers(1, 4)))
        chosen = [own[int(at)] for at in self._rng.permutation(len(own))[:size]]
        text = " ".join(readable_value(attribute.value) for attribute in chosen)
        return render_query(text), _all_of([self._carriers[attribute] for attribute in chosen])

    def _from_span(self, text: str) -> tuple[str, Ints]:
        found = places(text)
        if not found:
            return "", _NOBODY
        among = found[int(self._rng.integers(len(found)))]
        sizes = SPAN_PARTS if is_part(text[among.start : among.end]) else SPAN_WORDS
        size = min(len(found), int(self._rng.integers(sizes.start, sizes.stop)))
        start = int(self._rng.integers(len(found) - size + 1))
        span = found[start : start + size]
        holders = [self._holders.get(key, _NOBODY) for key in set(_keys(text, span))]
        return render_query(written(text, span)), _all_of(holders)


def _keys(text: str, span: Sequence[Place]) -> Iterator[str]:
    """What a text must hold to hold the words of a span: each word; of characters that follow each other, each pair."""
    follows = [False, *(_follow(text, first, second) for first, second in pairwise(span)), False]
    for at, place in enumerate(span):
        if follows[at]:
            yield text[span[at - 1].start : place.end]
        elif not follows[at + 1]:
            yield text[place.start : place.end]


def _follow(text: str, first: Place, second: Place) -> bool:
    return first.end == second.start and is_part(text[first.start]) and is_part(text[second.start])


def _postings(holdings: Iterable[set[Key]]) -> dict[Key, Ints]:
    postings: dict[Key, list[int]] = {}
    for row, held in enumerate(holdings):
        for key in held:
            postings.setdefault(key, []).append(row)
    return {key: np.asarray(rows, dtype=np.int32) for key, rows in postings.items()}


def _all_of(postings: Sequence[Ints]) -> Ints:
    shortest_first = sorted(postings, key=len)
    rows = shortest_first[0]
    for other in shortest_first[1:]:
        rows = np.intersect1d(rows, other, assume_unique=True)
    return rows
