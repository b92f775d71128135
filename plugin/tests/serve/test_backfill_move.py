"""Moving an alias to a new index: what the numbers of products hide, and what clients do around the swap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gram_plugin.errors import SearchError
from gram_plugin.search.backfill import Shard, Stored, Written
from gram_plugin.search.newindex import Counts, Mark, unequal
from gram_plugin.search.productstore import Write
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Job, Position, Reach, Tally
from gram_plugin.serve.backfill_move import Move

JOB = Job("http://paper", "old", {"old": "u"}, "g2", 0.02, 10, "0/1", "letters", "new", "shop")


@dataclass
class Shelf:
    """The products of an index of one shard."""

    index: str
    documents: dict[str, Stored] = field(default_factory=dict)
    reached: int = -1

    def put(self, name: str, title: str) -> None:
        """Somebody's write."""
        self.reached += 1
        self.documents[name] = Stored(self.index, name, {"title": title}, self.reached, 1, 1)

    def delete(self, name: str) -> None:
        """Somebody's deletion."""
        self.reached += 1
        del self.documents[name]

    @property
    def titles(self) -> dict[str, str]:
        """What is there."""
        return {name: found.source["title"] for name, found in sorted(self.documents.items())}

    async def shards(self) -> list[Shard]:
        """The only one."""
        return [Shard(self.index, 0, self.reached)]

    async def everything(self, limits: Mapping[str, int] | None = None) -> AsyncIterator[list[Stored]]:
        """All on one page."""
        until = self.reached if limits is None else limits.get(f"{self.index}/0", -1)
        yield [found for found in self.documents.values() if found.seq_no <= until]

    async def read_again(self, products: Sequence[Stored]) -> list[Stored | None]:
        """By id."""
        return [self.documents.get(found.id) for found in products]

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Deletes very copies."""
        return [self._delete(json.loads(write.lines)["delete"]) for write in writes]

    def _delete(self, place: Mapping[str, int | str]) -> Written:
        found = self.documents.get(str(place["_id"]))
        if found is None or found.seq_no != place["if_seq_no"]:
            return Written(409)
        self.delete(found.id)
        return Written(200)


@dataclass
class Alias:
    """The alias `shop`, which leads to the one shelf or the other; clients act before and after it moves."""

    source: Shelf
    target: Shelf
    closes: bool = True
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    name: str = "new"
    mark: Mark = Mark("old", "u", "g2", "shop")  # noqa: RUF009 - frozen
    moved: int = 0

    async def is_swapped(self) -> bool:
        """Whether it has moved."""
        return self.moved > 0

    async def counts(self) -> Counts:
        """Products of both."""
        return Counts(len(self.source.documents), len(self.target.documents))

    async def swap(self) -> None:
        """Moves once the numbers are equal."""
        self.before()
        counts = await self.counts()
        if not counts.are_equal:
            raise unequal("old", "new", counts)
        self.moved += 1
        self.after()

    async def close_source(self) -> bool:
        """Whether writers came through the alias."""
        return self.closes


@dataclass
class Copier:
    """Copies what the new index has not, unless it refuses it; fails as often as it is told."""

    source: Shelf
    target: Shelf
    refused: str = ""
    after: Callable[[], object] = lambda: None
    failures: int = 0

    async def settle_all(self, position: Position) -> Position:
        """All that is there."""
        while position.round < 2:
            position = await self.round(position)
        return position

    async def round(self, position: Position) -> Position:
        """All that is missing."""
        if self.failures:
            self.failures -= 1
            raise SearchError("away", next_step="wait")
        missing = self.source.documents.keys() - self.target.documents.keys()
        for name in sorted(missing - {self.refused}):
            self.target.put(name, self.source.titles[name])
        after, self.after = self.after, lambda: None
        after()
        failed = position.tally.failed + (self.refused in missing)
        return replace(position, round=position.round + 1, shards={}, tally=Tally(failed=failed))


@dataclass
class Place:
    """A source of three products, an empty copy, an alias, and a checkpoint."""

    path: Path
    source: Shelf = field(default_factory=lambda: Shelf("old"))
    target: Shelf = field(default_factory=lambda: Shelf("new"))

    def __post_init__(self) -> None:
        for name in ("a", "b", "c"):
            self.source.put(name, f"shoe {name}")
        self.alias = Alias(self.source, self.target)
        self.copier = Copier(self.source, self.target)
        self.live = Copier(self.source, self.target)
        self.checkpoint = BackfillCheckpoint(self.path, JOB)

    async def run(self) -> Position:
        """One move as far as it comes."""
        move = Move(
            self.alias,  # type: ignore[arg-type]
            self.source,  # type: ignore[arg-type]
            self.target,  # type: ignore[arg-type]
            self.copier,
            self.live,
            self.checkpoint,
            asyncio.Event(),
        )
        return await move.run(self.checkpoint.load() or Position())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Three products that wait for their new index."""
    return Place(tmp_path / "checkpoint.json")


async def test_equal_numbers_of_other_products_move_no_alias(place: Place) -> None:
    """One was refused and another one was deleted: the copy has neither what is missing nor what is gone."""
    place.copier.refused = "b"
    place.copier.after = lambda: place.source.delete("c")
    with pytest.raises(SearchError, match="old has 2 products, new has 1"):
        await place.run()
    assert (place.alias.moved, place.target.titles) == (0, {"a": "shoe a"})


def write_before_the_swap(place: Place) -> None:
    """What clients do after the last round: the numbers stay equal."""
    place.source.delete("a")
    place.source.delete("c")
    place.source.put("x", "boot x")
    place.source.put("y", "boot y")


def write_after_the_swap(place: Place) -> None:
    """What clients do in the new index: make a product anew that had been deleted, another one, and delete one."""
    place.target.put("c", "clog c")
    place.target.put("z", "clog z")
    place.target.put("w", "clog w")
    place.target.delete("w")


async def test_what_was_deleted_after_the_last_round_is_gone_after_the_move(place: Place) -> None:
    """What clients have written to the new index stays, though the source has it no more or never had it."""
    place.alias.before = lambda: write_before_the_swap(place)
    place.alias.after = lambda: write_after_the_swap(place)
    await place.run()
    expected = {"b": "shoe b", "c": "clog c", "x": "boot x", "y": "boot y", "z": "clog z"}
    assert (place.target.titles, place.checkpoint.load(), place.alias.moved) == (expected, None, 1)


async def test_a_run_that_is_interrupted_after_the_swap_knows_what_clients_wrote_since(place: Place) -> None:
    """The checkpoint has the numbers from before the swap."""
    place.alias.before = lambda: write_before_the_swap(place)
    place.live.failures = 1
    with pytest.raises(SearchError, match="away"):
        await place.run()
    write_after_the_swap(place)
    assert place.checkpoint.load() == Position(3, copied={"new/0": 2})
    await place.run()
    expected = {"b": "shoe b", "c": "clog c", "x": "boot x", "y": "boot y", "z": "clog z"}
    assert (place.target.titles, place.checkpoint.load(), place.alias.moved) == (expected, None, 1)


@pytest.mark.parametrize(("reach", "rounds"), [(Reach(2, 2), 2), (Reach(1, 2), 3)])
async def test_numbers_are_compared_after_a_round_of_this_run(place: Place, reach: Reach, rounds: int) -> None:
    """One that an interrupted run left open is ended first: it knows nothing of what was written since."""
    place.checkpoint.save(Position(3, {"old/0": reach}))
    assert (await place.run()).round == 3 + rounds


async def test_deletions_in_a_source_that_stays_open_are_left_alone(place: Place) -> None:
    """Writers go on there: what they delete after the swap is no business of the new index."""
    place.alias.closes = False
    place.alias.after = lambda: place.source.delete("a")
    await place.run()
    assert place.target.titles == {"a": "shoe a", "b": "shoe b", "c": "shoe c"}
