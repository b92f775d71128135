"""The shop as files in a folder: catalogue, queries, judgments, click log, `gram.toml` and NOTICE."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from gram_exporter.shop.clicks import simulate_log
from gram_exporter.shop.shop import SPLITS, Shop, stream_products
from gram_exporter.shop.shopper import Query

CATALOGUE = "products.jsonl"
UBI_QUERIES = "ubi_queries.ndjson"
UBI_EVENTS = "ubi_events.ndjson"


def write_shop(shop: Shop, folder: Path) -> None:
    """Writes all files of a shop; the same shop gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CATALOGUE, _lines(shop.documents))
    for split in SPLITS:
        queries = shop.queries[split]
        _write(folder / f"queries-{split}.csv", _csv(("query", "family", "kind"), map(_query_row, queries)))
        _write(folder / f"judgments-{split}.csv", _csv(("query", "docid", "rating"), _judgments(shop, queries)))
    _write_log(shop, folder)
    for name in ("gram.toml", "NOTICE"):
        _write(folder / name, [files("gram_exporter.shop").joinpath("words", f"{name}.in").read_text("utf-8")])


def write_catalogue(folder: Path, seed: int, products: int) -> None:
    """Writes the catalogue alone, product by product: for catalogues that do not fit into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CATALOGUE, _lines(offer.document for offer in stream_products(seed, products)))


def _write_log(shop: Shop, folder: Path) -> None:
    with (
        (folder / UBI_QUERIES).open("w", encoding="utf-8", newline="\n") as queries,
        (folder / UBI_EVENTS).open("w", encoding="utf-8", newline="\n") as events,
    ):
        for search in simulate_log(shop):
            queries.writelines(_lines([search.query]))
            events.writelines(_lines(search.events))


def _write(path: Path, chunks: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(chunks)


def _lines(documents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    yield buffer.getvalue()


def _query_row(query: Query) -> Sequence[str]:
    return (query.text, query.family, query.kind)


def _judgments(shop: Shop, queries: Sequence[Query]) -> Iterator[Sequence[str]]:
    for query in queries:
        for document_id, grade in shop.grades[query.family].items():
            yield (query.text, document_id, str(grade))
