"""What the workshop's verbs show on a terminal: bars with the time that is left, and what is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gram_plugin.errors import ExtraMissingError


@contextmanager
def workshop(verb: str) -> Iterator[None]:
    """Turns a missing torch, transformers or optimum into words."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "gram_").startswith("gram_"):
            raise
        raise ExtraMissingError(
            f"`gram {verb}` needs the extra [exporter]; not installed: {error.name}",
            next_step="pip install 'gram-opensearch[exporter]'",
        ) from error


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage, with the time that is left; called with stage, done and total."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield report
