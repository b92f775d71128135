"""The switch: whether a shim is a plain proxy now, by a file that is there or by a signal that came."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from gram_plugin.errors import ConfigError

LOG = logging.getLogger(__name__)

_FOLDER = "name a file in a folder that is there and that may be written, the same that the shim knows"


class Switch:
    """Off while the file exists, or from one signal to the next; asked with every search, so it acts at once.

    The file outlives a restart, the signal does not. A change is in the log when it is first noticed.

    Args:
        off_file: the file; None leaves the signals alone.
    """

    def __init__(self, off_file: Path | None = None) -> None:
        self._off_file = off_file
        self._signalled = False
        self._noticed = False
        self._there = False

    @property
    def is_off(self) -> bool:
        """Whether searches are to pass untouched."""
        by_file = self._by_file()
        found = by_file or self._signalled
        if found != self._noticed:
            self._noticed = found
            self._tell(by_file)
        return found

    def off(self) -> None:
        """From now on a plain proxy."""
        self._signalled = True

    def on(self) -> None:
        """No longer off by a signal; the file, where there is one, still counts."""
        self._signalled = False

    def _by_file(self) -> bool:
        try:
            self._there = self._off_file is not None and self._off_file.exists()
        except OSError:  # a folder that cannot be looked into: what held before still holds
            LOG.debug("the switch file %s cannot be looked for", self._off_file)
        return self._there

    def _tell(self, by_file: bool) -> None:
        by = f"file {self._off_file}" if by_file else "signal"
        fields = {"event": "switch", "off": self._noticed, **({"by": by} if self._noticed else {})}
        LOG.warning("codes are %s", "off, searches pass untouched" if self._noticed else "on", extra={"fields": fields})


def turn_off(off_file: Path) -> bool:
    """Makes the file, so that the shims that know it are plain proxies; False if it was there already.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        with off_file.open("x", encoding="utf-8") as stream:
            stream.write(f"codes switched off at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(f"{off_file} cannot be made: {error.strerror or error}", next_step=_FOLDER) from error
    return True


def turn_on(off_file: Path) -> bool:
    """Removes the file; False if it was not there.

    Raises:
        ConfigError: it cannot be removed.
    """
    try:
        off_file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{off_file} cannot be removed: {error.strerror or error}", next_step=_FOLDER) from error
    return True
