"""Expansion, as doc2query does it: the words of a product's codes become a text field that is searched lexically.

The same model as behind the codes, but spent at indexing time alone: no model is asked for a query. The products
are copied into an index of its own, which is deleted afterwards: the live index stays as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.helpers import streaming_bulk

from gram_exporter.config import SearchConfig
from gram_exporter.rivals.oracle import IndexCodes
from gram_exporter.source import indexed_products
from gram_plugin.contract.codes import Code, readable_value
from gram_plugin.progress import Progress
from gram_plugin.search.client import asking

FIELD = "gram_expansion"
BOOSTS = (0.25, 0.5, 1.0, 2.0)
"""Weights of the field that are tried on development judgments."""
_CHUNK = 500
_KEPT_SETTINGS = ("analysis", "similarity", "mapping", "max_result_window")


def expansion_of(codes: Sequence[Code]) -> str:
    """The values of the codes' attributes in words, each once, in the order of the codes."""
    return " ; ".join(dict.fromkeys(readable_value(part.value) for code in codes for part in code.attributes))


def expanded_search(search: SearchConfig, boost: float) -> SearchConfig:
    """The same search over the expansion too; one that searches all fields needs no change."""
    return replace(search, fields=(*search.fields, f"{FIELD}^{boost:g}")) if search.fields else search


@contextmanager
def expanded_index(
    client: OpenSearch, index: str, codes: IndexCodes, search: SearchConfig, progress: Progress
) -> Iterator[str]:
    """A copy of the index, with the field `gram_expansion`, that lives as long as the block; gives its name.

    The field has the analyzer of the first searched field, so that `cross_fields` sees both as one.

    Raises:
        SearchError: the copy could not be made; what is there of it is deleted.
    """
    name = f"gram-expansion-{secrets.token_hex(6)}"
    with asking(client, f"copying {index} with expansions"):
        body = _copied(client, index, search)
        try:
            client.indices.create(index=name, body=body)
            actions = _documents(client, index, name, codes)
            for done, _ in enumerate(streaming_bulk(client, actions, chunk_size=_CHUNK), start=1):
                progress("expand", done, max(done, len(codes.of)))
            client.indices.refresh(index=name)
            yield name
        finally:
            client.indices.delete(index=name, ignore_unavailable=True)


def _documents(client: OpenSearch, index: str, name: str, codes: IndexCodes) -> Iterator[dict[str, Any]]:
    for product in indexed_products(client, index):
        words = expansion_of(codes.of.get(product.id, ()))
        yield {"_index": name, "_id": product.id, "_source": {**product.source, FIELD: words}}


def _copied(client: OpenSearch, index: str, search: SearchConfig) -> dict[str, Any]:
    """Settings and mapping for the copy; of an alias those of its first index."""
    found = sorted(client.indices.get(index=index).items())[0][1]
    properties = dict(found["mappings"].get("properties", {}))
    own = {key: value for key, value in found["settings"]["index"].items() if key in _KEPT_SETTINGS}
    field = {"type": "text", **_analysis(properties, search)}
    mappings = {key: value for key, value in found["mappings"].items() if key != "_meta"}
    return {
        "settings": {"index": {**own, "number_of_shards": 1, "number_of_replicas": 0}},
        "mappings": {**mappings, "properties": {**properties, FIELD: field}},
    }


def _analysis(properties: Mapping[str, Any], search: SearchConfig) -> dict[str, Any]:
    first = next(iter(search.fields), "").partition("^")[0]
    mapping: Mapping[str, Any] = properties.get(first, {})
    return {key: mapping[key] for key in ("analyzer", "search_analyzer") if key in mapping}
