"""The workshop's verbs on the command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gram_exporter.cli import register
from gram_exporter.record import read_record
from gram_plugin.errors import ConfigError, ExportError


@pytest.fixture
def app() -> typer.Typer:
    """A program with the workshop's verbs alone."""
    program = typer.Typer()
    register(program)
    return program


def test_verbs(app: typer.Typer) -> None:
    """Each verb is there and explains itself."""
    said = CliRunner().invoke(app, ["--help"]).output
    for verb in ("init", "train", "export", "shop"):
        assert f" {verb} " in said
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_init_then_train(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue becomes a gram.toml and then a finished training, with the broken line left out and reported."""
    monkeypatch.chdir(tmp_path)
    kinds, colours = ["sofa", "lamp", "chair", "table"], ["red", "blue", "grey"]
    products = [
        {
            "id": n,
            "title": f"{colours[n % 3]} {kinds[n % 4]} no {n}",
            "category": kinds[n % 4],
            "colour": colours[n % 3],
        }
        for n in range(60)
    ]
    lines = [json.dumps(product) for product in products]
    Path("things.jsonl").write_text("\n".join([*lines, "broken"]))
    Path("judgments.csv").write_text("query,docid,rating\nred couch,0,2\nred couch,1,0\n")
    runner = CliRunner()
    made = runner.invoke(app, ["init", "things.jsonl", "--judgments", "judgments.csv"], catch_exceptions=False)
    assert made.exit_code == 0
    settings = tomllib.loads(Path("gram.toml").read_text())
    assert settings["catalogue"]["path"] == "things.jsonl"
    small = Path("gram.toml").read_text()
    for name, usual, few in (("\nsteps", 0, 3), ("linear_steps", 800, 3), ("d_model", 192, 32)):
        small = small.replace(f"{name} = {usual} ", f"{name} = {few} ")
    Path("gram.toml").write_text(small)
    trained = runner.invoke(app, ["train", "--skip-invalid"], catch_exceptions=False)
    assert trained.exit_code == 0
    assert "1 × no JSON object" in trained.output
    assert "60 products, 1 queries with feedback" in trained.output
    assert read_record(Path("gram-training")).id_field == "id"


def test_errors_come_through_as_ours(app: typer.Typer, tmp_path: Path) -> None:
    """Verbs raise errors of the tree; `gram` turns them into words."""
    with pytest.raises(ConfigError, match="cannot be read"):
        CliRunner().invoke(app, ["train", "--config", str(tmp_path / "none.toml")], catch_exceptions=False)
    with pytest.raises(ExportError, match="there is no finished training"):
        arguments = ["export", "--training", str(tmp_path), "--bundle", str(tmp_path / "bundle")]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
