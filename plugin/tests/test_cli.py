"""The program `gram`: verbs, errors as text, the workshop's verbs with and without their extra."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from gram_plugin.cli import WORKSHOP_VERBS, build_app, report
from gram_plugin.errors import ConfigError, GramError, NodeError

HEAVY = (
    "numpy",
    "torch",
    "transformers",
    "optimum",
    "onnxruntime",
    "tokenizers",
    "opensearchpy",
    "aiohttp",
    "starlette",
    "uvicorn",
)


@dataclass(frozen=True)
class FakePlugin:
    """An entry point that is not installed anywhere."""

    name: str
    register: Callable[[typer.Typer], None]

    def load(self) -> Callable[[typer.Typer], None]:
        """Gives the function that it was made with."""
        return self.register


def failing_with(error: GramError) -> FakePlugin:
    """A plugin whose one verb `fail` raises an error."""

    def register(app: typer.Typer) -> None:
        @app.command("fail")
        def fail() -> None:
            raise error

    return FakePlugin("other", register)


def everything_is_installed(module: str) -> bool:
    """Stands for an environment with every extra."""
    return True


def nothing_is_installed(module: str) -> bool:
    """Stands for a base install."""
    return False


def test_version_is_that_of_the_distribution() -> None:
    """`gram --version` prints name and version and succeeds."""
    result = CliRunner().invoke(build_app(plugins=()), ["--version"])
    assert (result.exit_code, result.output) == (0, f"gram-opensearch {version('gram-opensearch')}\n")


@pytest.mark.parametrize(
    ("error", "exit_code", "stderr"),
    [
        (
            NodeError("port 9200 is taken", next_step="pass --port 0"),
            1,
            "error: port 9200 is taken\nnext:  pass --port 0\n",
        ),
        (ConfigError("unknown key [codes] colour"), 2, "error: unknown key [codes] colour\n"),
    ],
)
def test_an_error_is_told_without_traceback(error: GramError, exit_code: int, stderr: str) -> None:
    """A GramError becomes its message, its next step and its exit code, and nothing more."""
    result = CliRunner().invoke(build_app(plugins=[failing_with(error)]), ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", stderr)


def test_a_long_error_stays_on_one_red_line() -> None:
    """The message is red and not wrapped at the width of the terminal."""
    stream = io.StringIO()
    report(NodeError("x" * 300), Console(file=stream, force_terminal=True, color_system="standard", width=80))
    assert stream.getvalue() == f"\x1b[1;31merror: {'x' * 300}\x1b[0m\n"


@pytest.mark.parametrize(("arguments", "environment"), [(["--debug", "fail"], {}), (["fail"], {"GRAM_DEBUG": "1"})])
def test_debug_lets_the_error_through(arguments: list[str], environment: dict[str, str]) -> None:
    """With `--debug`, or GRAM_DEBUG set, the traceback is not hidden."""
    error = NodeError("port 9200 is taken")
    result = CliRunner(env=environment).invoke(build_app(plugins=[failing_with(error)]), arguments)
    assert result.exception is error


@pytest.mark.parametrize("verb", WORKSHOP_VERBS)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["file.jsonl", "--unknown", "3"]])
def test_workshop_verbs_name_their_extra(verb: str, arguments: list[str]) -> None:
    """Without the extra every workshop verb, however it is called, says what to install and exits 2."""
    plugins = [FakePlugin("exporter", lambda app: pytest.fail("the workshop must not be loaded"))]
    result = CliRunner().invoke(build_app(plugins=plugins, is_importable=nothing_is_installed), [verb, *arguments])
    assert (result.exit_code, result.stdout, result.stderr.splitlines()) == (
        2,
        "",
        [
            f"error: `gram {verb}` needs the extra [exporter]; not installed: torch, transformers, optimum, onnx",
            "next:  pip install 'gram-opensearch[exporter]'",
        ],
    )


def test_workshop_joins_when_its_extra_is_installed() -> None:
    """With the extra the workshop's own verbs run."""

    def register(app: typer.Typer) -> None:
        @app.command("train")
        def train() -> None:
            typer.echo("training")

    app = build_app(plugins=[FakePlugin("exporter", register)], is_importable=everything_is_installed)
    result = CliRunner().invoke(app, ["train"])
    assert (result.exit_code, result.output) == (0, "training\n")


def test_help_imports_nothing_heavy() -> None:
    """Composing the whole program, workshop included, loads no server, no model runtime and no torch."""
    code = (
        "import sys; from gram_plugin.cli import build_app; build_app(is_importable=lambda module: True); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_module_runs_as_the_program() -> None:
    """`python -m gram_plugin.cli` is `gram`."""
    result = subprocess.run(
        [sys.executable, "-m", "gram_plugin.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"gram-opensearch {version('gram-opensearch')}\n"
