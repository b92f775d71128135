"""Products of catalogue files: ids, duplicates, and what is named when a line is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gram_plugin.contract.catalogue import Product, read_catalogue
from gram_plugin.contract.records import SkippedLine
from gram_plugin.errors import CatalogueError


def jsonl(folder: Path, *sources: dict[str, Any]) -> Path:
    """Writes one object on each line."""
    path = folder / "products.jsonl"
    path.write_text("".join(json.dumps(source) + "\n" for source in sources), encoding="utf-8")
    return path


def test_products_keep_their_source_unchanged(tmp_path: Path) -> None:
    """Nested objects, lists, empty texts and 1 MB texts come through; the reader can be read twice."""
    sources = [
        {"id": "a", "title": "", "specs": {"colour": ["red", None], "size": {"eu": 42}}},
        {"id": "b", "title": "x" * 1_000_000, "price": 9.5},
    ]
    reader = read_catalogue(jsonl(tmp_path, *sources), id_field="id")
    expected = [Product(source["id"], source, line) for line, source in enumerate(sources, start=1)]
    assert list(reader) == expected
    assert list(reader) == expected
    assert reader.skipped == []


@pytest.mark.parametrize(
    ("field", "source", "identifier"),
    [
        ("id", {"id": 7}, "7"),
        ("id", {"id": 7.0}, "7"),
        ("id", {"id": " 7 "}, "7"),
        ("meta.sku", {"meta": {"sku": "x-1"}}, "x-1"),
        ("meta.sku", {"meta.sku": "x-2"}, "x-2"),
        ("id", {"id": 123456789012345678901}, "123456789012345678901"),
    ],
)
def test_ids_become_text(tmp_path: Path, field: str, source: dict[str, Any], identifier: str) -> None:
    """Whole numbers, padded texts and dotted paths give the id that OpenSearch will hold."""
    assert list(read_catalogue(jsonl(tmp_path, source), id_field=field)) == [Product(identifier, source, 1)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"sku": "2", "title": "b"}, "no id: field 'id' is missing or empty among sku, title"),
        ({"id": ""}, "no id: field 'id' is missing or empty among id"),
        ({"id": None}, "no id: field 'id' is missing or empty among id"),
        ({"id": True}, "id field 'id' must hold a text or a whole number, found bool"),
        ({"id": 1.5}, "id field 'id' must hold a text or a whole number, found float"),
        ({"id": ["1"]}, "id field 'id' must hold a text or a whole number, found list"),
        ({"id": "\ud800"}, "id '\\ud800' holds a lone surrogate"),
        ({"id": "é" * 300}, f"id '{'é' * 80}'... is longer than 512 bytes"),
    ],
)
def test_product_without_usable_id(tmp_path: Path, source: dict[str, Any], reason: str) -> None:
    """A line without a usable id is named with what was found, or skipped and counted."""
    path = jsonl(tmp_path, {"id": "1"}, source, {"id": "3"})
    with pytest.raises(CatalogueError) as caught:
        list(read_catalogue(path, id_field="id"))
    assert caught.value.message == f"{path}:2: {reason}"
    lenient = read_catalogue(path, id_field="id", skip_invalid=True)
    assert [product.id for product in lenient] == ["1", "3"]
    assert lenient.skipped == [SkippedLine(2, reason)]


def test_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    """A repeated id, as text or number, is an error that names the first mention; skipping keeps the first."""
    path = jsonl(tmp_path, {"id": "7", "n": 1}, {"id": "8"}, {"id": 7, "n": 2})
    with pytest.raises(CatalogueError) as caught:
        list(read_catalogue(path, id_field="id"))
    assert caught.value.message == f"{path}:3: id '7' is a duplicate of line 1"
    lenient = read_catalogue(path, id_field="id", skip_invalid=True)
    assert [product.source for product in lenient] == [{"id": "7", "n": 1}, {"id": "8"}]
    assert lenient.skipped == [SkippedLine(3, "id '7' is a duplicate")]


def test_catalogue_without_a_single_product(tmp_path: Path) -> None:
    """When skipping leaves nothing, that is an error and no empty catalogue."""
    path = jsonl(tmp_path, {"sku": "1"})
    with pytest.raises(CatalogueError, match="none of its lines is a product with an id in 'id'"):
        list(read_catalogue(path, id_field="id", skip_invalid=True))


def test_csv_products(tmp_path: Path) -> None:
    """A CSV catalogue gives text cells, with the line on which a row begins."""
    path = tmp_path / "products.csv"
    path.write_text('sku;title;price\n001;"two\nlines";9,50\n002;plain;\n', encoding="utf-8")
    assert list(read_catalogue(path, id_field="sku")) == [
        Product("001", {"sku": "001", "title": "two\nlines", "price": "9,50"}, 2),
        Product("002", {"sku": "002", "title": "plain"}, 4),
    ]
