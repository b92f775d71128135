"""What became of a search: applied, degraded or off, and why; the value of the header `x-gram-status`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

HEADER = b"x-gram-status"


class Outcome(StrEnum):
    """How a search was answered."""

    APPLIED = "applied"
    DEGRADED = "degraded"
    OFF = "off"


class Reason(StrEnum):
    """Why a search was answered without codes; the value stands in headers, metrics and logs."""

    # degraded: codes were wanted and something failed
    LATE = "late"
    MODEL_ERROR = "model-error"
    OVERLOAD = "overload"
    BREAKER = "breaker-open"
    NO_MODEL = "no-model"
    LOOKUP_LATE = "index-lookup-late"
    LOOKUP_FAILED = "index-lookup-failed"
    REFUSED = "refused"
    UPSTREAM = "upstream"
    INTERNAL = "internal"
    # off: codes were not wanted, or the search is none that takes them
    MODE = "mode"
    SWITCH = "switched-off"
    NO_BODY = "no-body"
    URL_QUERY = "url-query"
    TOO_LARGE = "body-too-large"
    ENCODING = "content-encoding"
    CONTENT_TYPE = "content-type"
    INVALID = "invalid-json"
    EXTENSION = "bad-extension"
    REQUEST = "bad-request"
    TEMPLATE = "template"
    NO_TEXT = "no-query-text"
    NO_CODES = "no-codes"
    NO_QUERY = "no-query"
    HYBRID = "hybrid"
    NO_SCORE = "no-score"
    UNREADABLE = "answer-unreadable"
    ENOUGH_HITS = "enough-hits"
    SCROLL = "rescue-with-scroll"
    PIT = "pit"
    NO_MAPPING = "no-mapping"
    UNCALIBRATED = "uncalibrated"
    GENERATION = "generation"
    MIXED = "mixed-indices"
    FORBIDDEN = "index-lookup-forbidden"


NEXT_STEPS = {
    Reason.NO_MAPPING: "gram mapping apply",
    Reason.UNCALIBRATED: "gram calibrate",
    Reason.GENERATION: "gram calibrate",
}
"""The command that ends a reason."""


@dataclass(frozen=True)
class Status:
    """An outcome; every one but `applied` has a reason."""

    outcome: Outcome
    reason: Reason | None = None

    def header(self, items: str = "") -> bytes:
        """The header's value, e.g. `off; reason=uncalibrated; next="gram calibrate"`; `items` as in `1/3`."""
        parts = [str(self.outcome)]
        if self.reason is not None:
            parts.append(f"reason={self.reason}")
            parts += [f'next="{NEXT_STEPS[self.reason]}"'] if self.reason in NEXT_STEPS else []
        return "; ".join([*parts, *([f"items={items}"] if items else [])]).encode()


APPLIED = Status(Outcome.APPLIED)


def degraded(reason: Reason) -> Status:
    """Codes were wanted and could not be had."""
    return Status(Outcome.DEGRADED, reason)


def off(reason: Reason) -> Status:
    """Codes were not wanted, or do not fit the search."""
    return Status(Outcome.OFF, reason)


def summary(statuses: Sequence[Status]) -> Status:
    """One status for several searches: applied if any is, else degraded if any is, else the first."""
    ranked = sorted(statuses, key=lambda status: list(Outcome).index(status.outcome))
    return ranked[0] if ranked else off(Reason.NO_BODY)


class NotEnriched(Exception):
    """Ends the attempt to enrich a search."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.header().decode())
        self.status = status
