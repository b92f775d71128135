"""What a person sees of long work, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gram_plugin.progress import LINE_EVERY_S, reporting, spelled

Reports = list[tuple[float, str, int, int]]


def lines(reports: Reports) -> list[str]:
    """What is written where there is no terminal; each report has its time in seconds."""
    shown, times = io.StringIO(), iter([at for at, *_ in reports])
    with reporting(Console(file=shown, width=20), clock=lambda: next(times)) as report:
        for _, stage, done, total in reports:
            report(stage, done, total)
    return shown.getvalue().splitlines()


def bars(reports: Reports) -> list[list[str]]:
    """The words of each bar when all is done, its own signs and times left out."""
    shown = io.StringIO()
    with reporting(Console(file=shown, width=200, force_terminal=False, force_interactive=True)) as report:
        for _, stage, done, total in reports:
            report(stage, done, total)
    return [[line.partition("━")[0].strip(), line.rpartition("━")[2].split()[0]] for line in _shown(shown)]


def _shown(text: io.StringIO) -> list[str]:
    return [line for line in text.getvalue().splitlines() if line.strip()]


def test_off_a_terminal_a_stage_says_where_it_is_at_most_every_ten_seconds() -> None:
    """Its beginning, then a line once ten seconds have gone by, and its end; never wrapped or marked up."""
    reports = [(2.0 * at, "train [1]", at, 240) for at in range(0, 240, 2)]
    found = lines([*reports[:14], (480.0, "train [1]", 240, 240)])
    assert found == [
        "train [1]: 0 of 240",
        "train [1]: 6 of 240, 7 min 48 s left",
        "train [1]: 12 of 240, 7 min 36 s left",
        "train [1]: 18 of 240, 7 min 24 s left",
        "train [1]: 24 of 240, 7 min 12 s left",
        "train [1]: 240 of 240, took 8 min 0 s",
    ]


def test_a_stage_that_goes_on_is_timed_from_where_it_began() -> None:
    """What an earlier run did is no part of the speed."""
    assert lines([(5.0, "ingest", 900, 1000), (15.0, "ingest", 950, 1000)]) == [
        "ingest: 900 of 1000",
        "ingest: 950 of 1000, 10 s left",
    ]


AGAIN: Reports = [
    (0.0, "train", 1, 2),
    (3.0, "train", 2, 2),
    (3.0, "train", 2, 2),
    (9.0, "train", 1, 4),
    (20.0, "train", 2, 4),
    (31.0, "train", 4, 4),
]


def test_a_stage_that_begins_again_is_shown_again() -> None:
    """Two trainings of one run: the second has lines, a bar and a speed of its own."""
    assert lines(AGAIN) == [
        "train: 1 of 2",
        "train: 2 of 2, took 3 s",
        "train: 1 of 4",
        "train: 2 of 4, 22 s left",
        "train: 4 of 4, took 22 s",
    ]
    assert bars(AGAIN) == [["train", "2/2"], ["train", "4/4"]]


def test_every_stage_has_lines_of_its_own() -> None:
    """Stages follow each other without waiting, one of a single report has one line, and an end is said once."""
    assert lines(
        [
            (0.0, "prepare", 0, 1),
            (3.0, "prepare", 1, 1),
            (3.0, "train", 1, 12),
            (4.0, "train", 2, 12),
            (4.5, "time", 1, 1),
            (5.0, "time", 1, 1),
        ]
    ) == ["prepare: 0 of 1", "prepare: 1 of 1, took 3 s", "train: 1 of 12", "time: 1 of 1, took 0 s"]


EXPORT: Reports = [
    (0.0, "export: exporting graphs", 0, 100),
    (6.0, "export: quantising", 50, 100),
    (7.0, "export: quantising", 60, 100),
    (12.0, "export: bundle ready", 100, 100),
]


def test_the_steps_of_a_stage_are_said_as_they_begin() -> None:
    """A new step is worth a line at once; the time left is that of the whole stage."""
    assert lines(EXPORT) == [
        "export: exporting graphs: 0 of 100",
        "export: quantising: 50 of 100, 6 s left",
        "export: bundle ready: 100 of 100, took 12 s",
    ]


def test_on_a_terminal_a_stage_is_one_bar_whatever_its_steps() -> None:
    """The bar carries the step that it is at; no bar stays behind at 0."""
    assert bars([(0.0, "train", 1, 12), (0.0, "train", 240, 240), *EXPORT]) == [
        ["train", "240/240"],
        ["export: bundle ready", "100/100"],
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (65, "1 min 5 s"), (3600, "1 h 0 min"), (90061, "25 h 1 min")],
)
def test_durations_are_spelled_as_a_person_says_them(seconds: float, words: str) -> None:
    """Seconds, minutes with seconds, hours with minutes."""
    assert spelled(seconds) == words


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_lines_are_never_closer_than_their_interval(pauses: list[float]) -> None:
    """However often work reports, what is between a stage's beginning and its end is bounded by the time it took."""
    at, reports = 0.0, []
    for done, pause in enumerate(pauses):
        at += pause
        reports.append((at, "train", done, len(pauses)))
    assert len(lines(reports)) <= 1 + (at - pauses[0]) // LINE_EVERY_S
