"""The sidecar's dead letters: documents that the model itself could not take, each with its reason, one JSON a line.

They are in the index without codes, marked pending; the file tells which they are, and what was said of them.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from gram_plugin.errors import ConfigError
from gram_plugin.serve.coding import utc_now
from gram_plugin.serve.deadletter import DeadLetter
from gram_plugin.serve.preparing import Poison

_log = logging.getLogger(__name__)

_SENT_ON = 0  # the status of a letter: of OpenSearch there is none, the document was sent on to it


class PoisonFile:
    """Appends letters over restarts, up to a size; a kill costs at most the letter that was being written.

    Args:
        path: the file; it comes into being with the first letter.
        max_bytes: a letter that would make it larger is left out.
        clock: gives the time of a letter.

    Raises:
        ConfigError: the file can never be written, so that nobody learns of it with the first letter only.
    """

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], datetime] = utc_now) -> None:
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ConfigError(
                f"the dead letters cannot be written to {path}: it is a folder, or its folder is not there or not ours",
                next_step="set GRAM_DEAD_LETTERS to a file in a folder that exists and can be written",
            )
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()

    def add(self, found: Sequence[Poison], routing: str | None = None) -> int:
        """Writes what has room and a form in JSON, and gives the number of those letters; called from any thread.

        Args:
            found: the documents.
            routing: of the request, for those whose own line names none.

        Raises:
            OSError: the file cannot be written.
        """
        at, written = self._clock().isoformat(timespec="seconds"), 0
        with self._lock, self._path.open("ab+") as stream:
            room = self._max_bytes - stream.tell()
            start = b"" if _is_whole(stream.tell(), self._path) else b"\n"
            for poison in found:
                letter = _line_of(_letter(poison, at, routing))
                if letter is None or len(start + letter) > room:
                    continue
                line = start + letter
                stream.write(line)
                room, start, written = room - len(line), b"", written + 1
        return written


def _is_whole(size: int, path: Path) -> bool:
    """Whether the last letter has its end; it has not when a process died in the middle."""
    if not size:
        return True
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read() == b"\n"


def _line_of(letter: DeadLetter) -> bytes | None:
    """None for a document that cannot be written; it costs its neighbours nothing."""
    try:
        # Not `asdict`, which goes down into the document in Python and ends at half the depth that JSON is read to.
        return json.dumps(vars(letter)).encode() + b"\n"
    except (ValueError, RecursionError) as error:
        _log.warning("a dead letter cannot be written: %r", error)
        return None


def _letter(poison: Poison, at: str, routing: str | None) -> DeadLetter:
    item = poison.item
    document = {"_index": poison.index, "_routing": item.metadata.get("routing", routing), "source": item.source}
    name = item.metadata.get("_id")
    return DeadLetter(
        "" if name is None else str(name), item.line, _SENT_ON, str(poison.reason), poison.said, at, document
    )
