"""The checkpoint of a backfill: up to which sequence number of which shard everything is settled, and of which job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gram_plugin.errors import ConfigError
from gram_plugin.serve.checkpoint import write_checkpoint


@dataclass(frozen=True)
class Job:
    """What is coded, and by which rules; a checkpoint of another job is refused.

    Attributes:
        indices: the UUID of each concrete index, which tells it from one made later under its name.
        into: the new index that products are copied to; empty in place.
        alias: the name that moves there; empty in place.
    """

    url: str
    index: str
    indices: Mapping[str, str]
    generation: str
    min_probability: float
    max_codes: int
    slice: str
    dead_letters: str
    into: str = ""
    alias: str = ""


@dataclass(frozen=True)
class Tally:
    """What became of the products that were read.

    Attributes:
        read: all of them.
        fresh: had their codes already.
        coded: got codes; those without any text to read count as coded with no codes.
        pending: the model could not read them; they are marked.
        failed: OpenSearch refused the write; they are in the dead-letter file.
        gone: were deleted between reading and writing.
        again: written by somebody else meanwhile, so read and coded again.
        by_codes: products that got codes, by how many each got.
    """

    read: int = 0
    fresh: int = 0
    coded: int = 0
    pending: int = 0
    failed: int = 0
    gone: int = 0
    again: int = 0
    by_codes: Mapping[int, int] = field(default_factory=dict)

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.read + other.read,
            self.fresh + other.fresh,
            self.coded + other.coded,
            self.pending + other.pending,
            self.failed + other.failed,
            self.gone + other.gone,
            self.again + other.again,
            dict(sorted((Counter(self.by_codes) + Counter(other.by_codes)).items())),
        )

    @property
    def codes_per_product(self) -> float:
        """Mean number of codes of those that got some or none now; 0 when there were none."""
        products = sum(self.by_codes.values())
        return sum(number * count for number, count in self.by_codes.items()) / products if products else 0.0


@dataclass(frozen=True)
class Reach:
    """Of one shard, everything written last up to `after` is settled; the round ends at `until`."""

    after: int
    until: int


@dataclass(frozen=True)
class Position:
    """How far a backfill has come.

    Attributes:
        round: 0 reads everything, each further one what was written since the one before began.
        shards: by the shard's key.
        dead_letter_bytes: the letters that belong to it.
        copied: the last sequence number of each shard of a new index before its alias moved: what has a higher one
            is of clients.
    """

    round: int = 0
    shards: Mapping[str, Reach] = field(default_factory=dict)
    dead_letter_bytes: int = 0
    tally: Tally = field(default_factory=Tally)
    copied: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether a round has begun and not ended."""
        return any(reach.after < reach.until for reach in self.shards.values())


class BackfillCheckpoint:
    """One small JSON file, replaced whole after each page and removed at the end."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        self._job = job

    def load(self) -> Position | None:
        """How far an interrupted run of the same job came; None where there was none.

        Raises:
            ConfigError: the file is of another job, or is damaged.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            job, position = document["job"], _position_of(document["position"])
            self._refuse_other(job)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"the checkpoint {self.path} cannot be read: {error!r}",
                next_step="remove it to begin at the beginning, or name another with --checkpoint",
            ) from error
        return position

    def _refuse_other(self, job: Mapping[str, Any]) -> None:
        ours = asdict(self._job)
        changed = [
            f"{name} was {job.get(name)!r}, is {ours.get(name)!r}"
            for name in ours.keys() | job.keys()
            if not (_agree(job[name], ours[name]) if name == "indices" else job.get(name) == ours.get(name))
        ]
        if changed:
            raise ConfigError(
                f"the checkpoint {self.path} is of another backfill: {'; '.join(sorted(changed))}",
                next_step="use the arguments of the interrupted run, remove the file to begin anew, "
                "or name another with --checkpoint",
            )

    def save(self, position: Position) -> None:
        """Keeps the position.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_checkpoint(self.path, {"job": asdict(self._job), "position": asdict(position)})

    def remove(self) -> None:
        """Forgets the job: it is done."""
        self.path.unlink(missing_ok=True)


def _agree(earlier: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether no index was made anew under its name; indices come and go behind an alias that rolls over."""
    return all(earlier[name] == now[name] for name in earlier.keys() & now.keys())


def _position_of(document: Mapping[str, Any]) -> Position:
    found = dict(document["tally"])
    found["by_codes"] = {int(number): int(count) for number, count in found["by_codes"].items()}
    shards = {str(key): Reach(int(reach["after"]), int(reach["until"])) for key, reach in document["shards"].items()}
    copied = {str(key): int(reached) for key, reached in document.get("copied", {}).items()}
    return Position(int(document["round"]), shards, int(document["dead_letter_bytes"]), Tally(**found), copied)
