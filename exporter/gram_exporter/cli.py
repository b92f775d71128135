"""The workshop's verbs; they join `gram` through the entry-point group `gram.commands`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the workshop's verbs to `gram`. Nothing heavy is imported before a verb runs."""
