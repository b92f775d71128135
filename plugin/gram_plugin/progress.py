"""Progress of long work: bars with the time left on a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 10.0

Progress = Callable[[str, int, int], None]
"""Called with stage, done and total; `export: quantising` is the stage `export`, at its step `quantising`."""


@contextmanager
def reporting(console: Console, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """A bar for each stage on a terminal; in a file, a pipe or a pod's log a line now and then.

    A stage that begins again after its end is another one.

    Args:
        console: where it is shown.
        clock: seconds, for the lines.
    """
    if not console.is_interactive:
        yield _Lines(console, clock).report
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console) as shown:
        yield _Bars(shown).report


def spelled(seconds: float) -> str:
    """A duration as a person says it, such as `1 min 5 s`; whole seconds, from an hour on whole minutes."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Bars:
    """One bar for each stage; its steps change the words beside it."""

    def __init__(self, shown: RichProgress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        name = _name_of(stage)
        if name not in self._tasks or (done < total and self._has_ended(name)):
            # what an earlier run did says nothing about the speed of this one
            self._tasks[name] = self._shown.add_task(stage, total=total, completed=done)
        self._shown.update(self._tasks[name], description=stage, completed=done, total=total)

    def _has_ended(self, name: str) -> bool:
        return any(task.finished for task in self._shown.tasks if task.id == self._tasks[name])


@dataclass(frozen=True)
class _Stage:
    """A stage under way: where and when it began, and what was last said of it."""

    begun_at: float
    begun_with: int
    said: str
    said_at: float


class _Lines:
    """A line when a stage or a step of it begins, one every ten seconds, and one at its end."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._stages: dict[str, _Stage | None] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        name, now = _name_of(stage), self._clock()
        found = self._stages.get(name)
        if found is None and name in self._stages and done >= total:
            return  # it has ended, and was said to
        known = found or _Stage(now, done, "", now)
        if done >= total:
            self._stages[name] = None
            self._say(f"{stage}: {done} of {total}, took {spelled(now - known.begun_at)}")
        elif known.said != stage or now - known.said_at >= LINE_EVERY_S:
            self._stages[name] = replace(known, said=stage, said_at=now)
            self._say(f"{stage}: {done} of {total}{_left(known, done, total, now)}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _name_of(stage: str) -> str:
    return stage.partition(": ")[0]


def _left(stage: _Stage, done: int, total: int, now: float) -> str:
    """The time left at the stage's own speed so far, if it has one."""
    since, spent_s = done - stage.begun_with, now - stage.begun_at
    if since <= 0 or spent_s <= 0:
        return ""
    return f", {spelled(spent_s * (total - done) / since)} left"
