"""A catalogue where words mislead, with what people ask for: alignment and co-training are tried on it."""

from __future__ import annotations

import itertools
from pathlib import Path

from gram_exporter.config import CatalogueConfig, Config, TrainingConfig

KINDS = {"armchair": "comfy seat", "bookshelf": "rack for novels", "lampshade": "shade"}
COLOURS = ("blue", "red", "green", "black", "white", "brown", "pink")
MATERIALS = ("oak", "steel", "linen", "glass", "wool", "cork", "jute", "clay")
PRODUCTS = {
    f"p{at}": {"title": f"{kind} {colour} {material}", "kind": kind, "colour": colour, "material": material}
    for at, (kind, colour, material) in enumerate(itertools.product(KINDS, COLOURS, MATERIALS))
}
"""168 products; people ask for a kind by words that no product says, beside a colour or a material."""
WANTED = {
    f"{words} {value}": {
        key: 1.0 for key, source in PRODUCTS.items() if source["kind"] == kind and value in source.values()
    }
    for kind, words in KINDS.items()
    for value in (*COLOURS, *MATERIALS)
} | {
    f"{value} {words} please": {
        key: 1.0 for key, source in PRODUCTS.items() if source["kind"] == kind and value in source.values()
    }
    for kind, words in KINDS.items()
    for value in (*COLOURS, *MATERIALS)
}
SETTINGS = TrainingConfig(linear_steps=10, linear_width=8, align_steps=50, holdout=0.5)
CONFIG = Config(
    catalogue=CatalogueConfig(
        path=Path("unused.jsonl"),
        id="id",
        text=("title",),
        attributes={"kind": "type", "colour": "colour", "material": "material"},
    ),
    training=SETTINGS,
)
ASKED = WANTED | {f"{text}!": own for text, own in WANTED.items()}
"""180 queries, enough to hold out half of them and judge by those."""


def quiet(*_stage: object) -> None:
    """Nobody listens."""
