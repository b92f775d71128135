"""The breaker, on a clock that the test turns."""

from __future__ import annotations

from gram_plugin.serve.breaker import Breaker


class Turned:
    """A clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def opened(clock: Turned) -> Breaker:
    """A breaker that two failures have opened at 0 s, for 10 s."""
    breaker = Breaker(2, 10, clock)
    breaker.failed()
    breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    """A success in between starts the count anew."""
    breaker = Breaker(2, 10, Turned())
    states = []
    for report in (breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        report()
        states.append((breaker.is_open, breaker.allows()))
    assert states == [(False, True), (False, True), (False, True), (True, False)]


def test_after_the_pause_one_call_is_the_trial() -> None:
    """Half-open lets one call go and no second."""
    clock = Turned()
    breaker = opened(clock)
    clock.now = 9.9
    early = breaker.allows()
    clock.now = 10.0
    assert (early, breaker.allows(), breaker.allows()) == (False, True, False)


def test_a_good_trial_closes_and_a_bad_one_opens_again() -> None:
    """The trial decides: all calls go, or none for another pause."""
    clock = Turned()
    good, bad = opened(clock), opened(clock)
    clock.now = 10.0
    assert (good.allows(), bad.allows()) == (True, True)
    good.succeeded()
    bad.failed()
    clock.now = 19.9
    assert (good.allows(), good.is_open, bad.allows(), bad.is_open) == (True, False, False, True)
    clock.now = 20.0
    assert bad.allows()


def test_an_abandoned_trial_makes_room_for_the_next() -> None:
    """A trial whose client hung up neither closes nor blocks."""
    clock = Turned()
    breaker = opened(clock)
    clock.now = 10.0
    first = breaker.allows()
    breaker.abandoned()
    assert (first, breaker.allows(), breaker.is_open) == (True, True, True)
