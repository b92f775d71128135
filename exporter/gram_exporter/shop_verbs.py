"""The verb `gram shop`; it stands beside the shop's package because that is slow to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Adds `gram shop`."""
    app.command("shop")(shop)


def shop(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if missing.")],
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 1,
    products: Annotated[int, typer.Option(min=500, help="Size of the catalogue.")] = 4000,
    catalogue_only: Annotated[
        bool, typer.Option("--catalogue-only", help="Products alone, streamed: for a million and more.")
    ] = False,
) -> None:
    """Writes the synthetic sample shop: catalogue, queries, judgments and click log."""
    from gram_exporter.shop.folder import write_catalogue, write_shop
    from gram_exporter.shop.shop import LABEL, make_shop

    console = Console()
    if catalogue_only:
        write_catalogue(folder, seed, products)
        console.print(f"{LABEL}: {products} products (seed {seed}) in {folder}")
        return
    made = make_shop(seed, products)
    write_shop(made, folder)
    counts = ", ".join(f"{len(queries)} {split}" for split, queries in made.queries.items())
    console.print(f"{LABEL}: {products} products, queries: {counts} (seed {seed}) in {folder}")
