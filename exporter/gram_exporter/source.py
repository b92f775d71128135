"""Where products come from: the catalogue's file, or an index that holds them already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.helpers import scan

from gram_exporter.config import CatalogueConfig
from gram_plugin.contract.catalogue import Product, read_catalogue
from gram_plugin.errors import CatalogueError
from gram_plugin.search.client import asking, connect

INDEX_TIMEOUT_S = 60.0
WITHOUT_CODES = {"excludes": ["gram"]}
"""What an earlier model wrote into the index is no part of a product."""


class Intake:
    """Reads the products that `[catalogue]` names, into memory, as training needs them.

    Attributes:
        skipped: lines left out with `skip_invalid`, counted by reason.
    """

    def __init__(self, catalogue: CatalogueConfig, *, skip_invalid: bool = False) -> None:
        self._catalogue, self._skip_invalid = catalogue, skip_invalid
        self.skipped: Mapping[str, int] = {}

    def read(self) -> dict[str, dict[str, Any]]:
        """Product id to document, in catalogue order.

        Raises:
            CatalogueError: the file cannot be read as products, or the index is empty.
            SearchError: the index cannot be read.
        """
        catalogue = self._catalogue
        if catalogue.path is None:
            client = connect(catalogue.url, timeout_s=INDEX_TIMEOUT_S)
            return {product.id: product.source for product in indexed_products(client, str(catalogue.index))}
        reader = read_catalogue(catalogue.path, id_field=catalogue.id, skip_invalid=self._skip_invalid)
        products = {product.id: product.source for product in reader}
        self.skipped = Counter(_kind_of(line.reason) for line in reader.skipped)
        return products


def _kind_of(reason: str) -> str:
    """The reason of a skipped line without what is particular to it, so that lines can be counted."""
    return re.sub(r"'[^']*'|\d+", "…", reason.partition(":")[0])


def indexed_products(client: OpenSearch, index: str) -> Iterator[Product]:
    """Streams all documents of an index; a product's id is its `_id`, its line the count so far."""
    number = 0
    with asking(client, f"reading the products of {index}"):
        query = {"query": {"match_all": {}}, "_source": WITHOUT_CODES}
        for number, hit in enumerate(scan(client, index=index, query=query, size=500), start=1):
            yield _product(hit, number)
    if number == 0:
        raise CatalogueError(f"index {index} holds no products", next_step="name an index that has documents")


def sampled_products(client: OpenSearch, index: str, most: int) -> list[Product]:
    """At most `most` documents of an index, drawn by a fixed seed.

    Raises:
        SearchError: the index cannot be read.
        CatalogueError: the index is empty.
    """
    random = {"function_score": {"query": {"match_all": {}}, "random_score": {"seed": 1, "field": "_seq_no"}}}
    with asking(client, f"sampling the products of {index}"):
        found = client.search(index=index, body={"query": random, "size": most, "_source": WITHOUT_CODES})
    hits = found["hits"]["hits"]
    if not hits:
        raise CatalogueError(f"index {index} holds no products", next_step="name an index that has documents")
    return [_product(hit, number) for number, hit in enumerate(hits, start=1)]


def _product(hit: dict[str, Any], number: int) -> Product:
    return Product(str(hit["_id"]), hit.get("_source") or {}, number)
