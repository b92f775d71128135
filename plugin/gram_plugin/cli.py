"""The command `gram`: every room's verbs in one program; the one place where an error becomes words for a person."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from gram_plugin.errors import ExtraMissingError, GramError
from gram_plugin.node import verbs as node_verbs
from gram_plugin.search import verbs as search_verbs
from gram_plugin.serve import backfill_verbs, explain_verbs, ingest_verbs
from gram_plugin.serve import verbs as serve_verbs

DISTRIBUTION = "gram-opensearch"
COMMANDS_GROUP = "gram.commands"
WORKSHOP = "exporter"
WORKSHOP_VERBS = ("init", "train", "export", "tune", "evaluate", "demo", "shop")
WORKSHOP_NEEDS = ("torch", "transformers", "optimum", "onnx")
"""Modules that the extra `[exporter]` brings and a base install does not have."""


class Plugin(Protocol):
    """What an entry point of the group `gram.commands` is: a name, and a function that adds verbs to the program."""

    @property
    def name(self) -> str:
        """Name of the entry point."""

    def load(self) -> Callable[[typer.Typer], None]:
        """Imports the function `register(app)`."""


class ErrorReportingGroup(TyperGroup):
    """A command group that turns a `GramError` into one red line, the next step and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # older versions of typer have click's Context here, newer ones their own
        """Runs the verb; `--debug` lets the error through with its traceback."""
        try:
            return super().invoke(ctx)
        except GramError as error:
            if ctx.params.get("debug"):
                raise
            report(error, Console(stderr=True))
            ctx.exit(error.exit_code)


def main() -> None:
    """Runs `gram` with the arguments of this process."""
    build_app()()


def build_app(
    *,
    plugins: Iterable[Plugin] | None = None,
    is_importable: Callable[[str], bool] = lambda module: find_spec(module) is not None,
) -> typer.Typer:
    """Composes the program: the rooms' verbs first, then those of the entry-point group `gram.commands`.

    Args:
        plugins: entry points to load; those of the installed distributions when left out.
        is_importable: tells whether a top-level module is installed.
    """
    app = typer.Typer(
        name="gram",
        cls=ErrorReportingGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    _register_rooms(app)
    missing = [module for module in WORKSHOP_NEEDS if not is_importable(module)]
    for plugin in entry_points(group=COMMANDS_GROUP) if plugins is None else plugins:
        if plugin.name == WORKSHOP and missing:
            _register_placeholders(app, missing)
        else:
            plugin.load()(app)
    return app


def report(error: GramError, console: Console) -> None:
    """Writes the finding in red on one line and, where there is one, the way out on the next."""
    console.print(Text(f"error: {error.message}", style="bold red"), soft_wrap=True)
    if error.next_step:
        console.print(Text(f"next:  {error.next_step}"), soft_wrap=True)


def _register_rooms(app: typer.Typer) -> None:
    for room in (search_verbs, ingest_verbs, backfill_verbs, serve_verbs, explain_verbs, node_verbs):
        room.register(app)


def _register_placeholders(app: typer.Typer, missing: Sequence[str]) -> None:
    for verb in WORKSHOP_VERBS:
        app.command(
            verb,
            help=f"Needs the extra: pip install '{DISTRIBUTION}[{WORKSHOP}]'.",
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_placeholder(verb, missing))


def _placeholder(verb: str, missing: Sequence[str]) -> Callable[[], None]:
    def refuse() -> None:
        raise ExtraMissingError(
            f"`gram {verb}` needs the extra [{WORKSHOP}]; not installed: {', '.join(missing)}",
            next_step=f"pip install '{DISTRIBUTION}[{WORKSHOP}]'",
        )

    return refuse


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


def _root(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="GRAM_DEBUG", help="Log everything and show tracebacks.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Codes for an existing OpenSearch index: train, serve and measure GRAM."""
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("gram_plugin", "gram_exporter"):
        logging.getLogger(name).setLevel(level)
    # The client logs a traceback for every refusal; a SearchError says the same in one line.
    logging.getLogger("opensearch").setLevel(logging.DEBUG if debug else logging.CRITICAL)


if __name__ == "__main__":
    main()
