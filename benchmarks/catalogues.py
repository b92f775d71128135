"""Products to write, a bundle that reads them, and an OpenSearch to take them: what measurements of writing share."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from opensearchpy import OpenSearch
from rich.console import Console

from gram_exporter.shop.shop import stream_products
from gram_plugin.contract.bundle import MANIFEST, read_manifest, write_bundle
from gram_plugin.contract.text import Rendering
from gram_plugin.node.node import NodeSettings, start_node
from gram_plugin.progress import Progress, reporting

Document = Mapping[str, Any]
Item = TypeVar("Item")

SEED = 1
FIELDS = ("title", "product_type", "brand", "series", "features", "material", "style", "colour", "size", "description")
"""Of the sample shop's products: what a bundle of random weights reads."""


def shop_documents(number: int) -> Iterator[Document]:
    """Products of the sample shop, one at a time."""
    return (offer.document for offer in stream_products(SEED, number))


def slices(documents: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """Documents, or what is made of them, in lists of `size`; the last may be shorter."""
    rest = iter(documents)
    while found := list(islice(rest, size)):
        yield found


def bundle_of(given: Path | None, room: Path, *, small: bool) -> Path:
    """The bundle to measure with: a given one, or one of random weights that reads the fields of the sample shop."""
    if given:
        return given
    from bundles import make_bundle  # here, because torch takes seconds to import
    from gram_exporter.untrained import Shape

    tiny = Shape(8, 8, 1, encoder_layers=1, decoder_layers=1, text_tokens=260, types=3, brands=2, codes=6)
    made = make_bundle(room / "made", tiny if small else Shape(), "int8", with_linear=False)
    manifest = replace(read_manifest(made), rendering=Rendering(FIELDS))
    (made / MANIFEST).unlink()
    return write_bundle(made, room / "random-weights", manifest).path


def bulk_body(documents: Iterable[Document], grams: Iterable[Mapping[str, Any]] | None = None) -> bytes:
    """A `_bulk` body that indexes documents by their `id`, each with its `gram` object where they are given."""
    whole = documents if grams is None else ({**a, "gram": b} for a, b in zip(documents, grams, strict=True))
    lines = (line for found in whole for line in ({"index": {"_id": found["id"]}}, found))
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


@contextlib.contextmanager
def opensearch(url: str | None) -> Iterator[str]:
    """The OpenSearch at `url`, or one of our own for as long as the block runs."""
    if url:
        yield url
        return
    with start_node(NodeSettings()) as node:
        yield node.url


@dataclass(frozen=True)
class Place:
    """Where writing is measured: a folder, a bundle, an OpenSearch with its client, and who is told of progress."""

    room: Path
    bundle: Path
    url: str
    client: OpenSearch
    progress: Progress


@contextlib.contextmanager
def place(url: str | None, bundle: Path | None, *, small: bool) -> Iterator[Place]:
    """All of it, for as long as the block runs; what is not given is made."""
    with (
        tempfile.TemporaryDirectory() as room,
        reporting(Console(stderr=True)) as progress,
        opensearch(url) as direct,
        OpenSearch(direct, timeout=300) as client,
    ):
        yield Place(Path(room), bundle_of(bundle, Path(room), small=small), direct, client, progress)
