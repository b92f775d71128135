"""`gram` with a wall clock that jumps: `python jumpingclock.py FILE shim …`, FILE holds the seconds that it is ahead.

Only what Python programs read as the time of day is moved, by a launcher and without a change to the product: a
library that is put before the C library would need a compiler where the tests run. The monotonic clock is left alone,
as it is by every operator, time server and leap second.
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path

_time, _time_ns = time.time, time.time_ns


class JumpingDatetime(datetime.datetime):
    """Tells the time of the clock that jumps."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> JumpingDatetime:
        """As `datetime.now`."""
        return cls.fromtimestamp(time.time(), tz)


def main(offset: Path, *arguments: str) -> None:
    """Moves the clock and runs the command."""

    def ahead_s() -> float:
        return float(offset.read_text(encoding="ascii"))

    time.time = lambda: _time() + ahead_s()
    time.time_ns = lambda: _time_ns() + int(ahead_s() * 1e9)
    datetime.datetime = JumpingDatetime  # type: ignore[misc]  # which is the point
    sys.argv = ["gram", *arguments]
    from gram_plugin.cli import main as gram

    gram()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
