"""The breaker: after repeated failure the model is left alone for a while, then tried with one call."""

from __future__ import annotations

import time

from gram_plugin.serve.deadline import Clock


class Breaker:
    """Closed: every call may go. Open: none. After the pause half-open: one trial decides.

    Args:
        failures: failures in a row that open it, >= 1.
        pause_s: seconds that it stays open, >= 0.
        clock: seconds that never run backwards.
    """

    def __init__(self, failures: int, pause_s: float, clock: Clock = time.monotonic) -> None:
        self._limit = failures
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        """True from opening until a trial succeeds."""
        return self._opened_at is not None

    def allows(self) -> bool:
        """Whether a call may go now. True while half-open makes the caller the trial: it must report its end."""
        if self._opened_at is None:
            return True
        if self._trying or self._clock() < self._opened_at + self._pause_s:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """A call went well: closes."""
        self._failures = 0
        self._opened_at = None
        self._trying = False

    def failed(self) -> None:
        """A call failed or came too late: opens at the limit, or again after a failed trial."""
        self._failures += 1
        if self._opened_at is not None or self._failures >= self._limit:
            self._opened_at = self._clock()
        self._trying = False

    def abandoned(self) -> None:
        """A call ended without saying anything about the model: the next one may be the trial."""
        self._trying = False
