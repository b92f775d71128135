"""Writes docs/cli.md from the program itself, so that the page cannot tell of options that do not exist."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from gram_plugin.cli import build_app

HEAD = """# Commands

Written by `make docs` from the program; a change by hand is lost. Every command answers `--help`.
`gram --debug COMMAND`, or `GRAM_DEBUG=1`, shows everything that is logged, and tracebacks.
Exit codes: 0 done, 1 it failed, 2 it was called or configured wrongly.
"""
HIDDEN = {"--help", "--install-completion", "--show-completion"}


def main() -> None:
    """Prints the page."""
    sys.stdout.write(HEAD + "".join(page_of(get_command(build_app()), "gram")))


def page_of(command: Any, path: str) -> Iterator[str]:
    """Section of a command, then those of its subcommands."""
    commands = getattr(command, "commands", {})
    rows = [row for parameter in command.params if (row := row_of(parameter))]
    yield f"\n## {path}\n{prose(command.help or '')}\n"
    if commands:
        yield "\n" + "".join(f"- `{path} {name}`: {first_line(item)}\n" for name, item in sorted(commands.items()))
    if rows:
        yield "\n| option | meaning | default |\n| --- | --- | --- |\n" + "".join(rows)
    for name, item in sorted(commands.items()):
        yield from page_of(item, f"{path} {name}")


def row_of(parameter: Any) -> str:
    """Table row of an option or argument; empty for those that every program has."""
    names = [*parameter.opts, *parameter.secondary_opts]
    if HIDDEN & set(names) or getattr(parameter, "hidden", False):
        return ""
    shown = (parameter.name or "").upper() if parameter.param_type_name == "argument" else ", ".join(names)
    return f"| `{cell(shown)}` | {cell(parameter.help or '')}{variables_of(parameter)} | {default_of(parameter)} |\n"


def variables_of(parameter: Any) -> str:
    """Environment variables that stand in for an option."""
    given = parameter.envvar or []
    names = [given] if isinstance(given, str) else given
    return f" (`{'`, `'.join(names)}`)" if names else ""


def default_of(parameter: Any) -> str:
    """What holds when the option is left out."""
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == [] or value == ():
        return ""
    return f"`{cell(str(value))}`"


def first_line(command: Any) -> str:
    """The first line of a command's help."""
    return prose(command.help or "").split("\n")[0]


def prose(text: str) -> str:
    """Help text without the indentation of its docstring."""
    return re.sub(r"\n[ \t]+", "\n", text.split("\f")[0]).strip()


def cell(text: str) -> str:
    """Text inside a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
