"""Deadlines, on a clock that the test turns."""

from __future__ import annotations

from gram_plugin.serve.deadline import Deadline


def test_what_remains_shrinks_to_zero_and_no_further() -> None:
    """50 ms are 0.05 s at first, 0.02 s after 30 ms, and nothing when they are over."""
    now = [100.0]
    deadline = Deadline.after(50, lambda: now[0])
    found = []
    for moment in (100.0, 100.03, 100.05, 200.0):
        now[0] = moment
        found.append(round(deadline.remaining_s, 6))
    assert found == [0.05, 0.02, 0.0, 0.0]
