"""Which combinations of attributes become codes, and which products carry them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import sparse

from gram_plugin.contract.bundle import CodebookEntry
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
        TrainingError: no attribute is shared by enough products, so no code could recall anything.
    """
    frequency = Counter(attribute for attributes in products for attribute in set(attributes))
    shared = {attribute for attribute, n in frequency.items() if n >= settings.min_products}
    kept_by_product = [_combinable(attributes, shared, frequency) for attributes in products]
    counts = _grow(kept_by_product, settings)
    ceiling = max(settings.min_products, settings.max_share * len(products))
    ranked = sorted((c for c, n in counts.items() if n <= ceiling), key=lambda c: (-counts[c], c.text))
    codes = tuple(sorted(ranked[: settings.max_codes], key=lambda code: code.text))
    if not codes:
        raise TrainingError(
            f"no attribute is shared by {settings.min_products} of the {len(products)} products",
            next_step="name attribute fields in [catalogue.attributes] of gram.toml, or lower codes.min_products",
        )
    return Codebook(codes, _carried(kept_by_product, codes, settings.max_attributes))


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


def _combinable(
    attributes: Sequence[Attribute], shared: set[Attribute], frequency: Counter[Attribute]
) -> tuple[Attribute, ...]:
    own = sorted(set(attributes) & shared, key=lambda a: (-frequency[a], a.sort_key))[:MAX_ATTRIBUTES_COMBINED]
    return tuple(sorted(own, key=lambda attribute: attribute.sort_key))


def _grow(products: Sequence[tuple[Attribute, ...]], settings: CodebookSettings) -> dict[Code, int]:
    """Counts codes level by level: a combination is tried only where all its parts were kept (Apriori)."""
    kept: dict[Code, int] = {}
    for size in range(1, settings.max_attributes + 1):
        counts = Counter(code for own in products for code in _combinations(own, size) if _parts_kept(code, kept))
        for code, n in counts.items():
            if n >= settings.min_products and _tells_more(code, n, kept):
                kept[code] = n
    return kept


def _combinations(own: tuple[Attribute, ...], size: int) -> Iterator[Code]:
    leaders = {own[0].type, "type", "brand"} if own else set()
    for attributes in combinations(own, size):
        if size == 1 or attributes[0].type in leaders:
            code = _code_or_none(attributes)
            if code:
                yield code


def _code_or_none(attributes: Iterable[Attribute]) -> Code | None:
    try:
        return Code.of(attributes)
    except CodeError:  # longer than an index may store
        return None


def _parts(code: Code) -> Iterator[Code]:
    if len(code.attributes) > 1:
        yield from (Code(part) for part in combinations(code.attributes, len(code.attributes) - 1))


def _parts_kept(code: Code, kept: dict[Code, int]) -> bool:
    return all(part in kept or part.family != code.family for part in _parts(code))


def _tells_more(code: Code, n: int, kept: dict[Code, int]) -> bool:
    return all(n <= 0.9 * kept[part] for part in _parts(code) if part in kept)


def _carried(products: Sequence[tuple[Attribute, ...]], codes: Sequence[Code], max_size: int) -> sparse.csr_array:
    column = {code: at for at, code in enumerate(codes)}
    rows = [
        sorted(column[c] for size in range(1, max_size + 1) for c in _combinations(own, size) if c in column)
        for own in products
    ]
    pointer = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.fromiter((at for row in rows for at in row), dtype=np.int32, count=int(pointer[-1]))
    data = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_array((data, indices, pointer), shape=(len(products), len(codes)))
