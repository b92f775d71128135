"""The dead-letter file: documents that OpenSearch will never take, each with its reason, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gram_plugin.errors import ConfigError


@dataclass(frozen=True)
class DeadLetter:
    """A refused document: where it stands in the catalogue, what OpenSearch said, and the document as sent."""

    id: str
    line: int
    status: int
    type: str
    reason: str
    at: str
    document: dict[str, Any]


class DeadLetterFile:
    """Appends letters and knows how many bytes it holds, so that a resumed run can go back to a checkpoint.

    The file comes into being with the first letter. A new run puts an older one aside as `NAME.previous`.

    Args:
        path: the file.
        resume_at: bytes that an interrupted run had written when its checkpoint was made; None for a new run.
    """

    def __init__(self, path: Path, *, resume_at: int | None = None) -> None:
        self.path = path
        self._resume_at = resume_at
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Prepares the file.

        Raises:
            ConfigError: it cannot be written, or it has not the letters of the interrupted run.
        """
        if self._resume_at is not None and self.size_bytes < self._resume_at:
            found = f"has {self.size_bytes} bytes, the interrupted run wrote {self._resume_at}"
            raise ConfigError(
                f"the dead-letter file {self.path} {found}",
                next_step="put the file back, or remove the checkpoint to begin at the beginning",
            )
        try:
            if self._resume_at is None and self.path.exists():
                os.replace(self.path, self.path.with_name(self.path.name + ".previous"))
            elif self._resume_at is not None and self.path.exists():
                os.truncate(self.path, self._resume_at)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream:
            self._stream.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the letters so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Writes letters through to the disk.

        Raises:
            ConfigError: the file cannot be written.
        """
        if not letters:
            return
        lines = "".join(json.dumps(asdict(letter)) + "\n" for letter in letters)
        try:
            self._stream = self._stream or self.path.open("ab")
            self._stream.write(lines.encode())
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"the dead-letter file {self.path} cannot be written: {error.strerror}", next_step=_STEP)


_STEP = "name another file with --dead-letters"
