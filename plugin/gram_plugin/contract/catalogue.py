"""Products of a catalogue file, read as a stream, each with its id and the line it stands on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_plugin.contract.records import Record, RecordReader, SkippedLine
from gram_plugin.errors import CatalogueError

MAX_ID_BYTES = 512
"""Longest `_id` that OpenSearch takes."""


@dataclass(frozen=True, slots=True)
class Product:
    """One document of the catalogue: `source` is what will be indexed, unchanged."""

    id: str
    source: dict[str, Any]
    line: int


class CatalogueReader:
    """Iterates over the products of a file; each iteration reads it from the start.

    Memory grows by some 80 bytes for each product (a digest of its id), never by its size.
    """

    def __init__(self, path: Path, *, id_field: str, skip_invalid: bool = False) -> None:
        self._records = RecordReader(path, skip_invalid=skip_invalid)
        self._id_field = id_field
        self._skip_invalid = skip_invalid

    @property
    def skipped(self) -> list[SkippedLine]:
        """The lines that the latest iteration left out; always empty without `skip_invalid`."""
        return self._records.skipped

    def __iter__(self) -> Iterator[Product]:
        """Yields the products in file order.

        Raises:
            CatalogueError: the file cannot be read, no line of it is a product, or (without
                `skip_invalid`) a line is broken, has no usable id, or repeats an id.
        """
        seen: set[bytes] = set()
        for record in self._records:
            product = self._product(record)
            if product and self._is_new(product, seen):
                yield product
        if not seen:
            raise CatalogueError(
                f"{self._records.path}: none of its lines is a product with an id in {self._id_field!r}",
                next_step="name the id field in gram.toml: [catalogue] id",
            )

    def _product(self, record: Record) -> Product | None:
        found = _value_at(record.source, self._id_field)
        identifier = _id_text(found)
        if fault := _id_fault(identifier, found, self._id_field, record.source):
            self._records.refuse(record.line, fault)
            return None
        return Product(str(identifier), record.source, record.line)

    def _is_new(self, product: Product, seen: set[bytes]) -> bool:
        # 128 bits: two ids of a billion share a digest with a chance below 1e-20.
        digest = hashlib.blake2b(product.id.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            return True
        self._records.refuse(product.line, f"id {product.id[:80]!r} is a duplicate{self._first_mention(product)}")
        return False

    def _first_mention(self, product: Product) -> str:
        if self._skip_invalid:  # a second pass for each of many duplicates would take for ever
            return ""
        again = RecordReader(self._records.path)
        lines = (record.line for record in again if _id_text(_value_at(record.source, self._id_field)) == product.id)
        return f" of line {next(lines, '?')}"


def read_catalogue(path: Path, *, id_field: str, skip_invalid: bool = False) -> CatalogueReader:
    """Opens a catalogue: JSONL, CSV or TSV, each also gzip; nothing is read before iteration.

    Args:
        path: the file; its format is known by its name, else by its content.
        id_field: field with the product's id, a text or whole number; a dotted path reaches into objects.
        skip_invalid: leave broken lines out and note them in `skipped`, instead of raising.
    """
    return CatalogueReader(path, id_field=id_field, skip_invalid=skip_invalid)


def _value_at(source: Mapping[str, Any], path: str) -> Any:
    if path in source:
        return source[path]
    head, dot, rest = path.partition(".")
    inner = source.get(head)
    return _value_at(inner, rest) if dot and isinstance(inner, Mapping) else None


def _id_text(found: Any) -> str | None:
    if isinstance(found, str):
        return found.strip()
    if isinstance(found, float) and found.is_integer():
        return str(int(found))
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else None


def _id_fault(identifier: str | None, found: Any, field: str, source: Mapping[str, Any]) -> str | None:
    if found is None or identifier == "":
        return f"no id: field {field!r} is missing or empty among {', '.join(list(source)[:12])}"
    if identifier is None:
        return f"id field {field!r} must hold a text or a whole number, found {type(found).__name__}"
    try:
        size = len(identifier.encode())
    except UnicodeEncodeError:
        return f"id {identifier[:80]!r} holds a lone surrogate"
    return f"id {identifier[:80]!r}... is longer than {MAX_ID_BYTES} bytes" if size > MAX_ID_BYTES else None
