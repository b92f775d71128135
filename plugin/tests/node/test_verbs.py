"""The verbs of `gram node`: arguments and the answers of a machine where nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.verbs import parse_lines, register


@pytest.fixture
def app() -> typer.Typer:
    """A program with this room's verbs alone."""
    program = typer.Typer()
    program.callback()(lambda: None)
    register(program)
    return program


def test_lines_for_the_server_are_json_or_text() -> None:
    """Numbers and booleans keep their type; the value may hold another `=`."""
    assert parse_lines(["a.b=1", "c=true", "d=x=y", "e="]) == {"a.b": 1, "c": True, "d": "x=y", "e": ""}


@pytest.mark.parametrize("line", ["a.b", "=1", ""])
def test_a_line_without_key_is_refused(line: str) -> None:
    """The message repeats what was given."""
    with pytest.raises(ConfigError, match="is not of the form KEY=VALUE"):
        parse_lines([line])


@pytest.mark.parametrize("verb", ["stop", "status"])
def test_without_a_node_there_is_nothing_to_stop(app: typer.Typer, tmp_path: Path, verb: str) -> None:
    """The error names the verb that starts one."""
    result = CliRunner().invoke(app, ["node", verb], env={"XDG_STATE_HOME": str(tmp_path)})
    assert isinstance(result.exception, NodeError)
    assert str(result.exception) == "no node 'default' runs — gram node start"


def test_wrong_arguments_stop_before_anything_is_fetched(app: typer.Typer, tmp_path: Path) -> None:
    """Two nodes are refused with an empty cache and without network."""
    result = CliRunner().invoke(app, ["node", "run", "--nodes", "2"], env={"XDG_CACHE_HOME": str(tmp_path)})
    assert isinstance(result.exception, ConfigError)
    assert list(tmp_path.iterdir()) == []
