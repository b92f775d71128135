"""What tests of bulk encoding share: the examples of its page, products of a warehouse, a bundle that reads them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gram_plugin.contract.bundle import MANIFEST, read_manifest, write_bundle
from gram_plugin.contract.text import Rendering
from gram_plugin.serve.productcoder import ProductCoder

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/bulk-encoding.md"
TINY = ROOT / "plugin/tests/decode/tiny_bundle"
BLOCK = re.compile(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FIELDS = ("title", "brand", "colours", "seats", "width_cm", "waterproof", "made.land")


def example(section: str) -> str:
    """The first Python block of a section, as it stands on the page."""
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))[section]


def products(number: int) -> list[dict[str, Any]]:
    """Documents with texts, numbers, arrays and objects, of which some miss some."""
    found: list[dict[str, Any]] = []
    for n in range(number):
        extras: dict[str, Any] = {
            "brand": None if n % 4 else f"brand {n}",
            "seats": n,
            "width_cm": n / 4,
            "colours": ["red", "blue"][: n % 3],
            "waterproof": n % 2 == 0,
            "made": {"land": "Norway", "year": 2000 + n},
        }
        kept = {name: value for at, (name, value) in enumerate(extras.items()) if (n + at) % 3}
        found.append({"id": f"p{n}", "title": f"grey velvet sofa {n % 30} été 沙发", **kept})
    return found


def furnish(folder: Path, documents: Iterable[Mapping[str, Any]]) -> Path:
    """Puts into a folder what the examples expect there: the catalogue and a bundle that reads all its fields."""
    lines = (json.dumps(document) + "\n" for document in documents)
    (folder / "products.jsonl").write_text("".join(lines), encoding="utf-8")
    staging = folder / "staging"
    shutil.copytree(TINY, staging)
    manifest = read_manifest(staging)
    (staging / MANIFEST).unlink()
    return write_bundle(staging, folder / "bundle", replace(manifest, rendering=Rendering(FIELDS))).path


def codes_of(bundle: Path, documents: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The `gram` objects of documents by id, without their times, as the library call gives them."""
    read = list(documents)
    with ProductCoder.open(bundle) as coder:
        grams = coder.gram_of(read)
    return {document["id"]: untimed(gram) for document, gram in zip(read, grams, strict=True)}


def untimed(gram: Mapping[str, Any]) -> dict[str, Any]:
    """A `gram` object without its time; the weights of a partial update out of their array."""
    weights = gram.get("weights")
    whole = {**gram, "weights": weights[0]} if isinstance(weights, list) and weights else gram
    return {name: value for name, value in whole.items() if name != "at"}


def written(folder: Path) -> dict[str, dict[str, Any]]:
    """The `gram` objects by id that an example wrote, without their times."""
    lines = (line for path in folder.glob("*.json") for line in path.read_text(encoding="utf-8").splitlines())
    return {found["id"]: untimed(json.loads(found["gram"])) for found in map(json.loads, lines)}
