"""Tests of the verb `gram shop`."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from gram_exporter.shop_verbs import register


def _run(*arguments: str) -> str:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)  # with two verbs typer expects the verb's name
    result = CliRunner().invoke(app, ["shop", *arguments])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_shop_is_written_and_named_synthetic(tmp_path: Path) -> None:
    """The verb writes the folder and says what it wrote."""
    output = _run(str(tmp_path / "shop"), "--seed", "3", "--products", "600")
    assert output.startswith("synthetic sample shop: 600 products, queries:")
    assert (tmp_path / "shop" / "gram.toml").is_file()


def test_catalogue_alone(tmp_path: Path) -> None:
    """With --catalogue-only there are products and nothing else."""
    output = _run(str(tmp_path), "--products", "700", "--catalogue-only")
    assert output.startswith("synthetic sample shop: 700 products (seed 1)")
    assert [path.name for path in tmp_path.iterdir()] == ["products.jsonl"]
