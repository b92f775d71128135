"""Tests of what the verbs of this room refuse before they ask OpenSearch anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gram_plugin.cli import build_app


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `gram`."""
    found = CliRunner().invoke(build_app(plugins=[]), list(arguments))
    return found.exit_code, found.output


@pytest.mark.parametrize(
    ("content", "options", "code", "said"),
    [
        (b"", (), 1, "holds no query"),
        (b" \n\n", (), 1, "holds no query"),
        (b"\xff\xfe", (), 1, "cannot be read"),
        (b"red\n", ("--type", "any"), 2, "--type is 'any'"),
        (b"red\n", ("--operator", "xor"), 2, "--operator is 'xor'"),
        (b"red\n", ("--url", "localhost"), 2, "is no address of OpenSearch"),
        (b"red\n", ("--query", "missing.json"), 2, "cannot be read as a query"),
    ],
)
def test_unusable_input_is_refused(
    tmp_path: Path, content: bytes, options: tuple[str, ...], code: int, said: str
) -> None:
    """An empty or unreadable list of queries and unknown options end in one line and an exit code."""
    queries = tmp_path / "queries.txt"
    queries.write_bytes(content)
    found, output = run("calibrate", "products", "--queries", str(queries), *options)
    assert (found, said in output) == (code, True), output


@pytest.mark.parametrize("query", ["[]", "{}", '{"query": {"match_all": {}}}', "{"])
def test_own_query_needs_a_place_for_the_text(tmp_path: Path, query: str) -> None:
    """A query file without %QUERY% would measure the same search again and again."""
    queries, own = tmp_path / "queries.txt", tmp_path / "own.json"
    queries.write_text("red\n", encoding="utf-8")
    own.write_text(query, encoding="utf-8")
    code, _ = run("calibrate", "products", "--queries", str(queries), "--query", str(own))
    assert code == 2
