"""The sample shop in an index, at any size, with codes but without a model: what searches are measured on.

A product's codes are those that its own typed fields make, by a codebook of the shop's first products; a query's are
those of the products that it is about. So clauses and posting lists are as long as a trained model would make them.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from opensearchpy import OpenSearch

from gram_exporter.codebook import CodebookSettings, build_codebook
from gram_exporter.shop.merchant import write_document
from gram_exporter.shop.product import draw_product
from gram_exporter.shop.shop import Shop, make_shop
from gram_exporter.shop.vocabulary import load_vocabulary
from gram_plugin.contract.codebook import Codebook
from gram_plugin.contract.codes import MAX_CODES, MAX_PRODUCT_CODES, Code, ScoredCode
from gram_plugin.contract.tagging import field_attributes
from gram_plugin.decode.finder import CodeFinder
from gram_plugin.decode.generator import rarity_of
from gram_plugin.progress import Progress
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, write_calibration

SEED = 1
FIRST_PRODUCTS = 4000
CHUNK = 2000
WRITERS = 2
WEIGHT = 0.9
"""P(code | product) of every code: they are sure."""
CALIBRATED_POINTS = 1.0
"""λ of the index."""


@dataclass(frozen=True)
class ShopCodes:
    """Which codes a product has, and how rare each is (`ScoredCode.rarity`)."""

    types: Mapping[str, str]
    finder: CodeFinder
    rarity: Mapping[Code, float]

    def of_product(self, document: Mapping[str, Any]) -> list[Code]:
        """At most as many as an index keeps."""
        return self.finder.codes_of(field_attributes(document, self.types))[:MAX_PRODUCT_CODES]


@cache
def first_products() -> Shop:
    """The shop of 4,000 products, with the queries and what they are about."""
    return make_shop(SEED, FIRST_PRODUCTS)


@cache
def shop_codes() -> ShopCodes:
    """The codes of the shop."""
    types = _settings()["catalogue"]["attributes"]
    own = [field_attributes(document, types) for document in first_products().documents]
    found = build_codebook(own, CodebookSettings())
    rarity = rarity_of(found.support, FIRST_PRODUCTS).tolist()
    return ShopCodes(types, CodeFinder(Codebook.of(found.entries())), dict(zip(found.codes, rarity, strict=True)))


def query_codes() -> dict[str, list[ScoredCode]]:
    """For every query of the shop the commonest codes of its relevant products, best first."""
    shop, codes = first_products(), shop_codes()
    own = {document["id"]: codes.of_product(document) for document in shop.documents}
    by_family = {family: Counter(code for key in grades for code in own[key]) for family, grades in shop.grades.items()}
    return {
        query.text: [
            ScoredCode(code, WEIGHT / (1 + rank), codes.rarity[code])
            for rank, (code, _) in enumerate(by_family[query.family].most_common(MAX_CODES))
        ]
        for queries in shop.queries.values()
        for query in queries
        if by_family.get(query.family)
    }


def forms() -> dict[str, Mapping[str, Any]]:
    """Search forms by name, `{text}` standing for the query: over the title alone, and what `gram.toml` has."""
    search = _settings()["search"]
    shop = {"query": "{text}", "type": search["type"], "operator": search["operator"], "fields": search["fields"]}
    return {"title": {"match": {"title": "{text}"}}, "shop": {"multi_match": shop}}


def _settings() -> dict[str, Any]:
    text = files("gram_exporter.shop").joinpath("words", "gram.toml.in").read_text("utf-8")
    return tomllib.loads(text)


def index_name(products: int, generation: str) -> str:
    """One index for each size and generation, so that a kept one is known again."""
    return f"gram-benchmark-{generation}-{products}"


def fill(url: str, products: int, generation: str, progress: Progress) -> str:
    """Makes the index anew unless it is there whole; gives its name."""
    name = index_name(products, generation)
    with OpenSearch(url, timeout=3600) as client:
        if client.indices.exists(index=name) and client.count(index=name)["count"] == products:
            return name
        client.indices.delete(index=name, ignore_unavailable=True)
        settings = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"}
        client.indices.create(index=name, body={"settings": settings})
        apply_to_index(client, name)
        write_calibration(
            client, name, IndexCalibration(generation, 1.0, CALIBRATED_POINTS, 10, "2026-01-01T00:00:00Z")
        )
        chunks = [
            _Chunk(url, name, generation, start, min(products, start + CHUNK)) for start in range(0, products, CHUNK)
        ]
        for done, _ in enumerate(_written(chunks), start=1):
            progress(f"fill {name}", min(products, done * CHUNK), products)
        progress("fill: merging", 0, 1)
        client.indices.forcemerge(index=name, max_num_segments=1)
        client.indices.refresh(index=name)
        progress("fill: merging", 1, 1)
    return name


@dataclass(frozen=True)
class _Chunk:
    url: str
    index: str
    generation: str
    start: int
    stop: int


def _written(chunks: Sequence[_Chunk]) -> Iterator[None]:
    """One item for each chunk that is in the index; a single one is not worth processes of its own."""
    if len(chunks) == 1:
        yield _write(chunks[0])
        return
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for written in as_completed([pool.submit(_write, chunk) for chunk in chunks]):
            yield written.result()


def _write(chunk: _Chunk) -> None:
    """Makes and sends the products of one chunk; runs in a process of its own."""
    parts = urlsplit(chunk.url)
    body = "".join(_lines(chunk)).encode()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
    connection.request("POST", f"/{chunk.index}/_bulk", body, {"content-type": "application/x-ndjson"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if answer.get("errors", True):
        raise RuntimeError(f"products were refused: {json.dumps(answer)[:500]}")


def _lines(chunk: _Chunk) -> Iterator[str]:
    vocabulary, codes = load_vocabulary(), shop_codes()
    for index in range(chunk.start, chunk.stop):
        document = write_document(vocabulary, SEED, draw_product(vocabulary, SEED, index))
        stored = [code.stored(chunk.generation) for code in codes.of_product(document)]
        gram = {
            "codes": stored,
            "weights": dict.fromkeys(stored, WEIGHT),
            "model": chunk.generation,
            "source": "0" * 32,
        }
        yield json.dumps({"index": {"_id": document["id"]}}) + "\n"
        yield json.dumps({**document, "gram": gram} if stored else document) + "\n"
