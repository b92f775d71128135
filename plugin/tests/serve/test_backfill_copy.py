"""Copying to a new index: which version stays, whatever was there before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering, source_hash
from gram_plugin.errors import DecodeError, SearchError
from gram_plugin.search.backfill import Stored, Written
from gram_plugin.search.document import gram_object, pending_object
from gram_plugin.search.productstore import ProductStore, Write
from gram_plugin.search.requests import Requests
from gram_plugin.serve.backfill_checkpoint import Tally
from gram_plugin.serve.backfill_copy import Copying, delete_surplus, is_copy
from gram_plugin.serve.backfill_page import Clerk, Rules
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.coding import Coder, CodingRules

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class WordGenerator:
    """One code for each distinct word; fails on `poison`."""

    generation = "g2"

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of the words, in order of the alphabet."""
        if any("poison" in text for text in texts):
            raise DecodeError("no")
        return [codes_of(text) for text in texts]


def codes_of(text: str, probability: float = 0.5) -> list[ScoredCode]:
    """The codes of the words of a text."""
    words = sorted(set(text.split()))
    return [ScoredCode(Code.of([Attribute.of("type", word)]), probability) for word in words]


def coded(title: str, probability: float = 0.5) -> dict[str, Any]:
    """A product as it is in the new index."""
    gram = gram_object(codes_of(title, probability), "g2", source_hash(title, "g2"), NOW)
    return {"title": title, "gram": gram}


def product(name: str, title: str, version: int = 1, gram: Any = None) -> Stored:
    """A product of the source."""
    source = {"title": title} if gram is None else {"title": title, "gram": gram}
    return Stored("old", name, source, 7, 1, version)


@dataclass
class Target:
    """A new index of paper: external versions, and writes to one very copy."""

    documents: dict[str, Stored] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    lost_answers: int = 0
    others: Mapping[str, Stored] = field(default_factory=dict)

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Takes or refuses, in order; a bulk whose answer is lost is sent again, and others write before the last."""
        if self.lost_answers and any("if_seq_no" in write.lines for write in writes):
            self.lost_answers -= 1
            for write in writes:
                self._take(write.lines)
            self.documents.update(self.others)
        return [self._take(write.lines) for write in writes]

    def _take(self, lines: str) -> Written:
        ((action, place),) = json.loads(lines.splitlines()[0]).items()
        name = place["_id"]
        known = self.documents.get(name)
        if name in self.refused:
            return Written(400, "mapper_parsing_exception", "failed")
        if "version" in place and known and known.version >= place["version"]:
            return Written(409, "version_conflict_engine_exception", "conflict")
        if "if_seq_no" in place and (known is None or known.seq_no != place["if_seq_no"]):
            return Written(409, "version_conflict_engine_exception", "conflict")
        if action == "delete":
            del self.documents[name]
            return Written(200)
        version = place.get("version", known.version + 1 if known else 1)
        seq_no = known.seq_no + 1 if known else 0
        self.documents[name] = Stored("new", name, json.loads(lines.splitlines()[1]), seq_no, 1, version)
        return Written(201)

    async def read_again(self, products: Sequence[Stored]) -> list[Stored | None]:
        """The copies, by id."""
        return [self.documents.get(found.id) for found in products]

    async def everything(self, limits: Any = None) -> Any:
        """All copies on one page."""
        yield list(self.documents.values())


async def settle(target: Target, *products: Stored, is_live: bool = False) -> Tally:
    """Copies one page."""
    batcher = Batcher(WordGenerator(), max_batch=4, max_wait_ms=0, max_queue=100)
    await batcher.start()
    try:
        coder = Coder(batcher, CodingRules(Rendering(("title",))), clock=lambda: NOW)
        clerk = Clerk(coder, Rules("g2", 10), clock=lambda: NOW)
        page = await Copying(target, "new", clerk, is_live=is_live).settle(products)  # type: ignore[arg-type]
        assert len(page.letters) == page.counts["failed"]
        return page.tally(0)
    finally:
        await batcher.stop()


def sources(target: Target) -> dict[str, Any]:
    """What the new index has."""
    return {name: found.source for name, found in target.documents.items()}


async def test_products_are_copied_with_codes_and_version() -> None:
    """New codes where there were none or old ones, the same where they were fresh, a mark where the model fails."""
    target = Target()
    fresh = coded("red boot", 0.25)["gram"]
    products = [
        product("none", "shoe", 3),
        product("old", "clog", 1, {"model": "g1", "codes": ["g1/type=x"]}),
        product("fresh", "red boot", 2, fresh),
        product("poison", "poison", 4),
    ]
    assert await settle(target, *products) == Tally(read=4, fresh=1, coded=2, pending=1, by_codes={1: 2})
    assert sources(target) == {
        "none": coded("shoe"),
        "old": coded("clog"),
        "fresh": coded("red boot", 0.25),
        "poison": {"title": "poison", "gram": pending_object(NOW)},
    }
    assert {name: found.version for name, found in target.documents.items()} == {
        "none": 3,
        "old": 1,
        "fresh": 2,
        "poison": 4,
    }


async def test_codes_of_an_index_without_weights_are_made_anew() -> None:
    """Else the clause would never find them by their weights."""
    gram = {key: value for key, value in coded("boot")["gram"].items() if key != "weights"}
    target = Target()
    assert (await settle(target, product("a", "boot", 1, gram))).coded == 1
    assert sources(target) == {"a": coded("boot")}


async def test_a_page_copied_twice_changes_nothing() -> None:
    """Not even the version, when the model gives other last digits: a later version of the source must win."""
    target = Target({"a": Stored("new", "a", coded("shoe", 0.4999), 5, 1, 3)})
    before = dict(target.documents)
    assert await settle(target, product("a", "shoe", 3)) == Tally(read=1, fresh=1)
    assert target.documents == before
    assert (await settle(target, product("a", "boot", 4), is_live=True)).coded == 1
    assert sources(target) == {"a": coded("boot")}


async def test_a_pending_copy_stays_while_the_model_fails() -> None:
    """It counts as pending again, and is not written."""
    target = Target()
    await settle(target, product("a", "poison", 3))
    before = dict(target.documents)
    assert await settle(target, product("a", "poison", 3)) == Tally(read=1, pending=1)
    assert target.documents == before


async def test_a_product_deleted_and_made_anew_in_the_source_replaces_its_copy() -> None:
    """Its version began anew below that of the copy."""
    target = Target({"a": Stored("new", "a", coded("shoe"), 5, 1, 9)})
    assert (await settle(target, product("a", "boot", 1))).coded == 1
    assert sources(target) == {"a": coded("boot")}


async def test_a_bulk_whose_answer_was_lost_is_no_failure() -> None:
    """Sent again it meets its own writes; only what somebody else has written meanwhile is a dead letter."""
    names, fresh = ("a", "b", "p", "busy"), coded("red boot", 0.25)
    copies = {name: Stored("new", name, {**coded("clog")}, 5, 1, 9) for name in names}
    other = {"busy": Stored("new", "busy", {"title": "sandal"}, 9, 1, 11)}
    target = Target(copies, lost_answers=1, others=other)
    products = [
        product("a", "boot"),
        product("b", "red boot", 1, fresh["gram"]),
        product("p", "poison"),
        product("busy", "shoe"),
    ]
    assert await settle(target, *products) == Tally(read=4, fresh=1, coded=1, pending=1, failed=1, by_codes={1: 1})
    pending = {"title": "poison", "gram": pending_object(NOW)}
    assert sources(target) == {"a": coded("boot"), "b": fresh, "p": pending, "busy": {"title": "sandal"}}


async def test_what_clients_wrote_to_the_new_index_wins_once_it_is_live() -> None:
    """The source's versions are of before the swap."""
    target = Target({"a": Stored("new", "a", {"title": "clog"}, 5, 1, 3)})
    assert await settle(target, product("a", "boot", 3), is_live=True) == Tally(read=1, fresh=1)
    assert sources(target) == {"a": {"title": "clog"}}


async def test_what_the_new_index_refuses_is_a_dead_letter() -> None:
    """The others are copied."""
    target = Target(refused={"a"})
    assert await settle(target, product("a", "boot"), product("b", "shoe")) == Tally(
        read=2, coded=1, failed=1, by_codes={1: 1}
    )
    assert sources(target) == {"b": coded("shoe")}


async def test_what_the_source_has_no_more_is_deleted_from_the_copy() -> None:
    """And nothing else."""
    names = ("a", "b", "c")
    target = Target({name: Stored("new", name, coded("shoe"), 1, 1, 1) for name in names})
    source = Target({"b": product("b", "shoe")})
    assert await delete_surplus(source, "old", target) == 2  # type: ignore[arg-type]
    assert list(target.documents) == ["b"]


class Unanswering:
    """An OpenSearch of which the shard with `b` does not answer; a client with its own transport and budget."""

    hosts: tuple[Any, ...] = ({"host": "paper"},)
    tries = 3

    @property
    def transport(self) -> Unanswering:
        """The client and its transport in one."""
        return self

    async def pause(self, tried: int, retry_after_s: float) -> None:
        """Waits for nothing."""

    async def perform_request(self, method: str, path: str, params: Any = None, body: Any = None) -> Any:
        """The answer of `_mget`: status 200, and an error in the place of one product."""
        return {
            "docs": [
                {**wanted, "error": {"type": "no_shard_available_action_exception", "reason": "no"}}
                if wanted["_id"] == "b"
                else {**wanted, "found": False}
                for wanted in body["docs"]
            ]
        }


async def test_nothing_is_deleted_while_a_shard_of_the_source_does_not_answer() -> None:
    """A product that could not be read is not one that is gone."""
    target = Target({name: Stored("new", name, coded("shoe"), 1, 1, 1) for name in ("a", "b")})
    client = Unanswering()
    source = ProductStore(Requests(client, client), "old")  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="gave up after 3 tries"):
        await delete_surplus(source, "old", target)  # type: ignore[arg-type]
    assert list(target.documents) == ["a", "b"]


@pytest.mark.parametrize(
    ("copied", "expected"),
    [
        ({"title": "x", "gram": {"model": "g1"}}, True),
        ({"title": "x", "gram.model": "g1"}, True),
        ({"title": "x", "grammar": 1}, False),
        ({"title": "y", "gram": {"model": "g2"}}, False),
    ],
)
def test_a_copy_is_the_same_but_for_its_codes(copied: dict[str, Any], expected: bool) -> None:
    """Whatever stands under `gram` is ours."""
    assert is_copy({"title": "x", "gram": {"model": "g2"}}, copied) is expected
