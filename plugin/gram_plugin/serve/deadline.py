"""Deadlines: how long a search still may wait for what only improves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

Clock = Callable[[], float]
"""Seconds that never run backwards, so that a clock set by an operator moves no deadline."""


@dataclass(frozen=True)
class Deadline:
    """A moment of a clock, in seconds."""

    at_s: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, budget_ms: float, clock: Clock = time.monotonic) -> Self:
        """The moment `budget_ms` from now."""
        return cls(clock() + budget_ms / 1000, clock)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at_s - self.clock())
