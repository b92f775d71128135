"""Which combinations of attributes become codes, and which products carry them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import sparse

from gram_plugin.contract.codebook import CodebookEntry
from gram_plugin.contract.codes import Attribute, Code
from gram_plugin.errors import CodeError, TrainingError

MAX_ATTRIBUTES_COMBINED = 24
"""Attributes of one product that are combined, the most widely shared first: bounds the work on rich catalogues."""


@dataclass(frozen=True)
class CodebookSettings:
    """Bounds of the codebook; see docs/gram-toml.md."""

    min_products: int = 2
    max_attributes: int = 2
    max_share: float = 0.5
    max_codes: int = 250_000


@dataclass(frozen=True)
class Codebook:
    """All codes of one catalogue and who carries them.

    `carried` is a boolean-valued float32 CSR matrix, shape (products, codes).
    """

    codes: tuple[Code, ...]
    carried: sparse.csr_array

    @property
    def support(self) -> np.ndarray:
        """Products carrying each code, int64, shape (codes,)."""
        return np.asarray(self.carried.sum(axis=0)).ravel().astype(np.int64)

    def entries(self) -> list[CodebookEntry]:
        """The codebook as a bundle stores it."""
        return [CodebookEntry(code, int(n)) for code, n in zip(self.codes, self.support, strict=True)]


def build_codebook(products: Sequence[Sequence[Attribute]], settings: CodebookSettings) -> Codebook:
    """Makes codes out of the attributes of products.

    Kept are single attributes and combinations that hold a leading attribute (type, else brand, else
    the product's first), if at least `min_products` products share them, at most `max_share` of all
    do, and, for combinations, if they say something that each smaller part does not: their posting
    list is at most 0.9 times that of every part.

    Raises:
        TrainingError: no code is left: no attribute is shared by enough products, or all are shared by too many.
    """
    frequency = Counter(attribute for attributes in products for attribute in set(attributes))
    shared = {attribute for attribute, n in frequency.items() if n >= settings.min_products}
    numbered = _Numbered.of(products, shared, frequency)
    counts = _grow(numbered, settings)
    ceiling = max(settings.min_products, settings.max_share * len(products))
    found = {code: key for key, n in counts.items() if n <= ceiling and (code := numbered.code(key))}
    ranked = sorted(found, key=lambda code: (-counts[found[code]], code.text))
    codes = tuple(sorted(ranked[: settings.max_codes], key=lambda code: code.text))
    if not codes:
        raise _no_code(len(products), frequency, settings)
    return Codebook(codes, _carried(numbered, [found[code] for code in codes], counts))


def _no_code(products: int, frequency: Counter[Attribute], settings: CodebookSettings) -> TrainingError:
    fields = "name attribute fields in [catalogue.attributes] of gram.toml"
    if not frequency:
        return TrainingError(
            f"none of the {products} products has an attribute: no field gives one, and titles share too few words",
            next_step=f"{fields}, or give more products: a title word counts when three titles or more say it",
        )
    widest = max(frequency.values())
    if widest < settings.min_products:
        return TrainingError(
            f"no attribute is shared by {settings.min_products} of the {products} products",
            next_step=f"{fields}, or lower codes.min_products",
        )
    return TrainingError(
        f"every attribute that products share is on more than {settings.max_share:.0%} of the {products} products",
        next_step=f"{fields} that tell products apart, or raise codes.max_share",
    )


def code_report(codebook: Codebook) -> dict[str, float]:
    """Shape of the index that the codebook makes: sizes, products per code, codes per product."""
    support, per_product = codebook.support, np.diff(codebook.carried.indptr)
    return {
        "codes": float(len(codebook.codes)),
        "products": float(codebook.carried.shape[0]),
        "products_without_code": float((per_product == 0).sum()),
        "products_per_code_median": float(np.median(support)),
        "products_per_code_max": float(support.max()),
        "codes_per_product_mean": float(per_product.mean()),
    }


Key = tuple[int, ...]
"""A combination of attributes by their numbers, ascending, which is canonical order."""


@dataclass(frozen=True)
class _Numbered:
    """Products as ascending attribute numbers: combining numbers is twenty times faster than combining attributes."""

    attributes: tuple[Attribute, ...]
    leads: tuple[bool, ...]
    products: tuple[Key, ...]

    @classmethod
    def of(
        cls, products: Sequence[Sequence[Attribute]], shared: set[Attribute], frequency: Counter[Attribute]
    ) -> _Numbered:
        attributes = tuple(sorted(shared, key=lambda attribute: attribute.sort_key))
        number = {attribute: at for at, attribute in enumerate(attributes)}
        rows = []
        for own in products:
            known = {number[attribute] for attribute in own if attribute in number}
            widest = sorted(known, key=lambda at: (-frequency[attributes[at]], at))[:MAX_ATTRIBUTES_COMBINED]
            rows.append(tuple(sorted(widest)))
        return cls(attributes, tuple(a.type in ("type", "brand") for a in attributes), tuple(rows))

    def combinations(self, own: Key, size: int, kept: Mapping[Key, int]) -> Iterator[Key]:
        """Of one product: single attributes, or combinations that hold a leading attribute or the product's first.

        Of those only the ones whose every part was kept, `kept` holding all shorter ones (Apriori).
        """
        for at, first in enumerate(own):
            if size == 1 or self.leads[first] or at == 0:
                yield from (key for key in _longer((first,), own[at + 1 :], size, kept) if _parts_kept(key, kept))

    def code(self, key: Key) -> Code | None:
        """The code of a combination; None when it is longer than an index may store."""
        try:
            return Code.of(self.attributes[at] for at in key)
        except CodeError:
            return None


def _grow(numbered: _Numbered, settings: CodebookSettings) -> dict[Key, int]:
    """Counts combinations level by level: one is tried only where its parts were kept."""
    kept: dict[Key, int] = {}
    for size in range(1, settings.max_attributes + 1):
        counts = Counter(key for own in numbered.products for key in numbered.combinations(own, size, kept))
        kept |= {key: n for key, n in counts.items() if n >= settings.min_products and _tells_more(key, n, kept)}
    return kept


def _longer(key: Key, rest: Key, size: int, kept: Mapping[Key, int]) -> Iterator[Key]:
    """Combinations of `size` that begin with `key` and go on with some of `rest`, each shorter beginning kept."""
    if len(key) == size:
        yield key
    elif key in kept:
        for at, attribute in enumerate(rest):
            yield from _longer((*key, attribute), rest[at + 1 :], size, kept)


def _held(key: Key, rest: Key, kept: Mapping[Key, int]) -> Iterator[Key]:
    """All kept combinations that begin with `key` and go on with some of `rest`; each beginning of one is kept."""
    if key in kept:
        yield key
        for at, attribute in enumerate(rest):
            yield from _held((*key, attribute), rest[at + 1 :], kept)


def _parts(key: Key) -> Iterator[Key]:
    if len(key) > 1:
        yield from combinations(key, len(key) - 1)


def _parts_kept(key: Key, kept: Mapping[Key, int]) -> bool:
    return all(part in kept or part[0] != key[0] for part in _parts(key))


def _tells_more(key: Key, n: int, kept: dict[Key, int]) -> bool:
    return all(n <= 0.9 * kept[part] for part in _parts(key) if part in kept)


def _carried(numbered: _Numbered, keys: Sequence[Key], kept: Mapping[Key, int]) -> sparse.csr_array:
    column = {key: at for at, key in enumerate(keys)}
    rows = [
        sorted(
            column[key] for at, first in enumerate(own) for key in _held((first,), own[at + 1 :], kept) if key in column
        )
        for own in numbered.products
    ]
    pointer = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.fromiter((at for row in rows for at in row), dtype=np.int32, count=int(pointer[-1]))
    data = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_array((data, indices, pointer), shape=(len(numbered.products), len(keys)))
