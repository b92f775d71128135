"""The checkpoint of an ingest: how far OpenSearch has everything, so that a run can be interrupted at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gram_plugin.contract.bundle import write_json
from gram_plugin.errors import ConfigError


def write_checkpoint(path: Path, document: Mapping[str, Any]) -> None:
    """Keeps a document whole, or leaves the one from before.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        write_json(path, document)
    except OSError as error:
        raise ConfigError(
            f"the checkpoint {path} cannot be written: {error.strerror}",
            next_step="name another file with --checkpoint",
        ) from error


@dataclass(frozen=True)
class Job:
    """What is ingested into what; a checkpoint of another job is of no use.

    Attributes:
        index_uuid: tells the index from one that was deleted and made anew under its name; empty if not known.
    """

    catalogue: str
    size_bytes: int
    modified_ns: int
    id_field: str
    index: str
    url: str
    generation: str | None
    dead_letters: str
    index_uuid: str = ""

    @classmethod
    def of(
        cls,
        catalogue: Path,
        *,
        id_field: str,
        index: str,
        url: str,
        generation: str | None,
        dead_letters: Path,
        index_uuid: str = "",
    ) -> Job:
        """The job that reads a catalogue as it is now."""
        found = catalogue.stat()
        return cls(
            catalogue=str(catalogue.resolve()),
            size_bytes=found.st_size,
            modified_ns=found.st_mtime_ns,
            id_field=id_field,
            index=index,
            url=url,
            generation=generation,
            dead_letters=str(dead_letters.resolve()),
            index_uuid=index_uuid,
        )


@dataclass(frozen=True)
class Counts:
    """What became of the products so far."""

    indexed: int = 0
    coded: int = 0
    pending: int = 0
    dead_lettered: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.indexed + other.indexed,
            self.coded + other.coded,
            self.pending + other.pending,
            self.dead_lettered + other.dead_lettered,
        )


@dataclass(frozen=True)
class Progress:
    """Every product up to `line` of the catalogue is in the index or in the first bytes of the dead-letter file."""

    line: int = 0
    dead_letter_bytes: int = 0
    counts: Counts = Counts()


class CheckpointFile:
    """One small JSON file, replaced whole after each bulk and removed at the end."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        self._job = job

    @property
    def index_uuid(self) -> str:
        """Of the job's index; empty if not known."""
        return self._job.index_uuid

    def name_index(self, index_uuid: str) -> None:
        """Tells which index the job is about, once it exists."""
        self._job = replace(self._job, index_uuid=index_uuid)

    def load(self) -> Progress | None:
        """How far an interrupted run of the same job came; None where there was none."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["job"] != asdict(self._job):
                return None
            found = document["progress"]
            return Progress(int(found["line"]), int(found["dead_letter_bytes"]), Counts(**found["counts"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def save(self, progress: Progress) -> None:
        """Keeps the progress.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_checkpoint(self.path, {"job": asdict(self._job), "progress": asdict(progress)})

    def remove(self) -> None:
        """Forgets the job: it is done."""
        self.path.unlink(missing_ok=True)
