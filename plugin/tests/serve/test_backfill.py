"""The backfill against an index of paper: what is coded, what is left, and what survives faults and other writers."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opensearchpy import exceptions as client_errors

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering, source_hash
from gram_plugin.errors import ConfigError, DecodeError, SearchError
from gram_plugin.search.backfill import WHOLE, Slice, State
from gram_plugin.search.document import gram_object, pending_object, replacing
from gram_plugin.search.productstore import Census, ProductStore
from gram_plugin.search.requests import Requests
from gram_plugin.serve.backfill import Backfill, Listener, Report
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Job, Position, Reach, Tally
from gram_plugin.serve.backfill_inplace import InPlace
from gram_plugin.serve.backfill_page import Clerk, Pacer, Rules
from gram_plugin.serve.backfill_survey import Example, Survey, Surveyor
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.coding import Coder, CodingRules
from gram_plugin.serve.deadletter import DeadLetterFile
from gram_plugin.serve.delivery import Retrying
from gram_plugin.serve.fields import GramFields

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SHARDS = 2
TITLES = {f"p{number}": f"shoe {number}" for number in range(9)}
JOB = Job("http://paper", "shop", {"shop": "u"}, "g2", 0.02, 10, "0/1", "letters")


@dataclass
class Kept:
    """A document of the paper index."""

    source: dict[str, Any]
    seq_no: int
    version: int = 1


@dataclass
class PaperIndex:
    """An index of two shards behind the client's transport; it counts, keeps order, and fails as it is told.

    `faults` holds what happens to each of the next requests of a kind (`search`, `bulk`, `pit`, `mapping`): an error
    to raise, or None. `unanswered` says how many of the next `_mget` fail on a product. `refused` gives the status of
    updates by id, `largest` bounds a bulk, `meddle` acts before each bulk and is told of its ids.
    """

    documents: dict[str, Kept] = field(default_factory=dict)
    faults: dict[str, list[Exception | None]] = field(default_factory=dict)
    unanswered: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    largest: int = 1_000_000
    meddle: Callable[[list[str]], object] = lambda _: None
    bulks: list[list[str]] = field(default_factory=list)
    hosts: tuple[Mapping[str, Any], ...] = ({"host": "paper"},)
    _pits: dict[str, dict[str, Kept]] = field(default_factory=dict)
    _next: list[int] = field(default_factory=lambda: [0] * SHARDS)

    @property
    def transport(self) -> PaperIndex:
        """The client and its transport in one."""
        return self

    @property
    def open_pits(self) -> int:
        """Points in time that nobody has closed."""
        return len(self._pits)

    @property
    def reached(self) -> list[int]:
        """The last sequence number of each shard."""
        return [following - 1 for following in self._next]

    def put(self, name: str, source: Mapping[str, Any]) -> None:
        """Another writer's write."""
        known = self.documents.get(name)
        self.documents[name] = Kept(dict(source), self._number(name), known.version + 1 if known else 1)

    def _number(self, name: str) -> int:
        shard = shard_of(name)
        self._next[shard] += 1
        return self._next[shard] - 1

    async def perform_request(
        self, method: str, path: str, params: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        """Answers as OpenSearch does."""
        kind = {
            "/_search": "search",
            "/_bulk": "bulk",
            "/shop/_search/point_in_time": "pit",
            "/shop/_mapping": "mapping",
        }.get(path, "")
        fault = self.faults[kind].pop(0) if self.faults.get(kind) else None
        if fault:
            raise fault
        answers = {
            "/shop/_settings": self._settings,
            "/shop/_mapping": lambda: {"shop": {"mappings": {}}},
            "/shop/_stats/docs": self._stats,
            "/shop/_search/point_in_time": lambda: self._open(params or {}),
            "/shop/_refresh": dict,
            "/shop/_count": lambda: self._count(body["query"]),
            "/_mget": lambda: {"docs": [self._found(found["_id"]) for found in body["docs"]]},
            "/_bulk": lambda: self._bulk(body),
            "/_search": lambda: self._search(body),
        }
        if method == "DELETE":
            self._pits.pop(body["pit_id"][0], None)
            return {}
        return answers[path]()

    def _settings(self) -> Any:
        return {"shop": {"settings": {"index": {"uuid": "u", "number_of_shards": str(SHARDS)}}}}

    def _stats(self) -> Any:
        shards = {
            str(shard): [{"routing": {"primary": True}, "seq_no": {"global_checkpoint": reached}}]
            for shard, reached in enumerate(self.reached)
        }
        return {"indices": {"shop": {"shards": shards}}}

    def _open(self, params: Mapping[str, Any]) -> Any:
        shard = int(params["preference"].removeprefix("_shards:"))
        name = f"pit{random.random()}"
        self._pits[name] = {
            found: copy.deepcopy(kept) for found, kept in self.documents.items() if shard_of(found) == shard
        }
        return {"pit_id": name}

    def _count(self, query: Mapping[str, Any]) -> Any:
        model = query.get("term", {}).get("gram.model")
        grams = [kept.source.get("gram", {}) for kept in self.documents.values()]
        return {"count": sum(model is None or gram.get("model") == model for gram in grams)}

    def _search(self, body: Mapping[str, Any]) -> Any:
        if body["pit"]["id"] not in self._pits:
            raise client_errors.NotFoundError(404, "search_phase_execution_exception", {})
        (limits,) = body["query"]["bool"]["filter"]
        low, high = limits["range"]["_seq_no"]["gt"], limits["range"]["_seq_no"]["lte"]
        part, of = body.get("slice", {}).get("id", 0), body.get("slice", {}).get("max", 1)
        found = sorted(self._pits[body["pit"]["id"]].items(), key=lambda pair: pair[1].seq_no)
        fitting = [
            (name, kept)
            for name, kept in found
            if max(low, body.get("search_after", [-1])[0]) < kept.seq_no <= high
            and zlib.crc32(name.encode()[::-1]) % of == part
        ]
        hits = [{**self._hit(name, kept), "sort": [kept.seq_no]} for name, kept in fitting[: body["size"]]]
        return {"hits": {"total": {"value": len(fitting)}, "hits": hits}, "_shards": {"failed": 0}}

    def _hit(self, name: str, kept: Kept) -> dict[str, Any]:
        source = copy.deepcopy(kept.source)
        place = {"_index": "shop", "_id": name, "_seq_no": kept.seq_no, "_primary_term": 1, "_version": kept.version}
        return {**place, "_source": source}

    def _found(self, name: str) -> dict[str, Any]:
        if self.unanswered.get(name):
            self.unanswered[name] -= 1
            reason = {"type": "no_shard_available_action_exception", "reason": "No shard available"}
            return {"_index": "shop", "_id": name, "error": reason}
        kept = self.documents.get(name)
        return (
            {"_index": "shop", "_id": name, "found": False} if kept is None else {**self._hit(name, kept), "found": 1}
        )

    def _bulk(self, body: str) -> Any:
        if len(body) > self.largest:
            raise client_errors.TransportError(413, "content_too_long", {})
        lines = [json.loads(line) for line in body.splitlines()]
        self.bulks.append([line["update"]["_id"] for line in lines[::2]])
        self.meddle(self.bulks[-1])
        pairs = zip(lines[::2], lines[1::2], strict=True)
        return {"items": [{"update": self._update(line["update"], found["doc"])} for line, found in pairs]}

    def _update(self, place: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
        kept = self.documents.get(place["_id"])
        if kept is None:
            return {"status": 404, "error": {"type": "document_missing_exception", "reason": "missing"}}
        if kept.seq_no != place["if_seq_no"]:
            return {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "conflict"}}
        if place["_id"] in self.refused:
            error = {"type": "mapper_parsing_exception", "reason": "failed", "caused_by": {"reason": "no number"}}
            return {"status": self.refused[place["_id"]], "error": error}
        self.put(place["_id"], merged(kept.source, document))
        return {"status": 200}


def shard_of(name: str) -> int:
    """The shard of a document."""
    return zlib.crc32(name.encode()) % SHARDS


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a partial update makes: objects merge, all else is replaced."""
    both = {**old, **new}
    for key in old.keys() & new.keys():
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            both[key] = merged(old[key], new[key])
    return both


class WordGenerator:
    """One code for each distinct word; fails on `poison`."""

    generation = "g2"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of the words, in order of the alphabet."""
        self.texts += texts
        if any("poison" in text for text in texts):
            raise DecodeError("no")
        return [codes_of(text) for text in texts]


def codes_of(text: str) -> list[ScoredCode]:
    """The codes of the words of a text."""
    return [ScoredCode(Code.of([Attribute.of("type", word)]), 0.5) for word in sorted(set(text.split()))]


def coded(title: str) -> dict[str, Any]:
    """A product as it is in the index once it has its codes."""
    return {"title": title, "gram": replacing(gram_object(codes_of(title), "g2", source_hash(title, "g2"), NOW))}


@dataclass
class Place:
    """A folder, an index of paper, and a backfill that runs in the one on the other."""

    folder: Path
    index: PaperIndex = field(default_factory=PaperIndex)
    generator: WordGenerator = field(default_factory=WordGenerator)
    job: Job = JOB
    pauses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, title in TITLES.items():
            self.index.put(name, {"title": title})

    @property
    def checkpoint(self) -> BackfillCheckpoint:
        """The checkpoint of this job."""
        return BackfillCheckpoint(self.folder / "checkpoint.json", self.job)

    @property
    def letters(self) -> list[dict[str, Any]]:
        """What failed, in the order in which it did."""
        path = self.folder / "letters.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Every document by id."""
        return {name: kept.source for name, kept in self.index.documents.items()}

    @property
    def versions(self) -> dict[str, int]:
        """The version of each document."""
        return {name: kept.version for name, kept in self.index.documents.items()}

    async def run(
        self,
        *,
        tries: int = 3,
        page: int = 2,
        part: Slice = WHOLE,
        pacer: Pacer | None = None,
        rules: Rules = Rules("g2", 10),  # noqa: B008 - frozen
        follow_s: float | None = None,
        stop: asyncio.Event | None = None,
        listener: Listener | None = None,
    ) -> Report:
        """One backfill as far as it comes."""
        start = self.checkpoint.load()
        letters = DeadLetterFile(self.folder / "letters.jsonl", resume_at=start.dead_letter_bytes if start else None)
        store = self.store(tries, page)
        async with self.coding() as coder:
            desk = InPlace(store, Clerk(coder, rules, pacer, clock=lambda: NOW))
            with letters:
                program = Backfill(store, desk, self.checkpoint, letters, part=part, stop=stop, listener=listener)
                return await (program.run(start) if follow_s is None else program.follow(start, follow_s))

    def store(self, tries: int = 3, page: int = 2) -> ProductStore:
        """The products, through a client that waits for nothing."""

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        retrying = Retrying(tries=tries, sleep=pause, chance=random.Random(7))
        return ProductStore(Requests(self.index, retrying), "shop", page=page)  # type: ignore[arg-type]

    @asynccontextmanager
    async def coding(self) -> AsyncIterator[Coder]:
        """The coder of the sidecar with a model of words."""
        batcher = Batcher(self.generator, max_batch=4, max_wait_ms=0, max_queue=100)
        await batcher.start()
        try:
            yield Coder(batcher, CodingRules(Rendering(("title",))), clock=lambda: NOW)
        finally:
            await batcher.stop()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Nine products without codes."""
    return Place(tmp_path)


EXPECTED = {name: coded(title) for name, title in TITLES.items()}


async def test_every_product_without_codes_gets_them(place: Place) -> None:
    """Once each; the checkpoint is gone and no point in time is left open."""
    totals: list[int] = []
    told: list[int] = []
    report = await place.run(listener=Listener(totals.append, told.append))
    assert report == Report(Tally(read=9, coded=9, by_codes={2: 9}))
    assert place.sources == EXPECTED
    assert set(place.versions.values()) == {2}
    assert (totals, sum(told[:5])) == ([9], 9)
    assert (place.index.open_pits, list(place.folder.iterdir())) == (0, [])


async def test_the_same_run_again_writes_nothing(place: Place) -> None:
    """Fresh products are read and left alone; the model is not asked."""
    await place.run()
    versions, asked = place.versions, len(place.generator.texts)
    assert await place.run() == Report(Tally(read=9, fresh=9))
    assert (place.versions, len(place.generator.texts)) == (versions, asked)


async def test_only_what_is_stale_is_coded(place: Place) -> None:
    """Another text, another generation, pending and no gram object at all; a changed price is none of our business."""
    await place.run()
    place.index.put("p0", {**place.sources["p0"], "title": "boot"})
    place.index.put("p1", {**place.sources["p1"], "gram": {"model": "g1", "codes": ["g1/type=x"]}})
    place.index.put("p2", {**place.sources["p2"], "gram": pending_object(NOW)})
    place.index.put("p3", {"title": "shoe 3"})
    place.index.put("p4", {**place.sources["p4"], "price": 7})
    assert await place.run() == Report(Tally(read=9, fresh=5, coded=4, by_codes={1: 1, 2: 3}))
    assert place.sources == {**EXPECTED, "p0": coded("boot"), "p4": {**EXPECTED["p4"], "price": 7}}


async def test_a_concurrent_writer_is_never_overwritten(place: Place) -> None:
    """What he writes between our reading and our writing stays, and gets the codes of his text."""
    others = {"p0", "p5"}

    def meddle(names: list[str]) -> None:
        for name in others.intersection(names):
            others.remove(name)
            place.index.put(name, {"title": f"boot {name}", "price": 5})

    place.index.meddle = meddle
    report = await place.run(page=9)
    expected = {name: {**coded(f"boot {name}"), "price": 5} for name in ("p0", "p5")}
    assert place.sources == {**EXPECTED, **expected}
    assert report == Report(Tally(read=9, coded=9, again=2, by_codes={2: 9}))


async def test_a_product_that_others_never_leave_alone_is_a_dead_letter(place: Place) -> None:
    """Tries are bounded; the rest is coded."""
    place.index.meddle = lambda names: "p3" in names and place.index.put("p3", {"title": "busy"})
    report = await place.run(page=9)
    assert [(letter["id"], letter["status"]) for letter in place.letters] == [("p3", 409)] * 2
    assert (report.tally.failed, report.tally.coded) == (2, 8)
    assert {name: found for name, found in place.sources.items() if name != "p3"} == {
        name: found for name, found in EXPECTED.items() if name != "p3"
    }


async def test_a_product_deleted_meanwhile_is_gone(place: Place) -> None:
    """It is counted, and is neither made anew nor a failure."""
    place.index.meddle = lambda names: "p3" in names and place.index.documents.pop("p3")
    report = await place.run(page=9)
    assert (report.tally.coded, report.tally.gone, report.tally.failed) == (8, 1, 0)
    assert "p3" not in place.sources


async def test_a_product_whose_shard_does_not_answer_is_not_gone(place: Place) -> None:
    """It is asked for again, and coded; where it never answers the run stops instead of leaving the product out."""
    others = {"p3"}
    place.index.meddle = lambda names: others & set(names) and place.index.put(others.pop(), {"title": "boot"})
    place.index.unanswered = {"p3": 2}
    assert await place.run(page=9) == Report(Tally(read=9, coded=9, again=1, by_codes={1: 1, 2: 8}))
    assert place.sources == {**EXPECTED, "p3": coded("boot")}
    products = [found async for page in place.store().everything() for found in page]
    place.index.unanswered = {"p3": 3}
    with pytest.raises(SearchError, match=r"gave up after 3 tries.*no_shard_available_action_exception"):
        await place.store(tries=3).read_again(products)


def error(status: int) -> Exception:
    """What the client raises for an answer of this status."""
    return client_errors.TransportError(status, "trouble", {"error": {"type": "trouble", "reason": "busy"}})


TIMEOUT = client_errors.ConnectionTimeout("TIMEOUT", "read", Exception("slow"))


@pytest.mark.parametrize("kind", ["search", "bulk", "pit"])
@pytest.mark.parametrize("faults", [[error(429)], [error(503), error(502)], [TIMEOUT, None, error(500)]])
async def test_overload_and_outages_are_waited_for(place: Place, kind: str, faults: list[Exception | None]) -> None:
    """Reading and writing are tried again after a pause, and nothing is left out."""
    place.index.faults = {kind: list(faults)}
    assert (await place.run(tries=4)).tally == Tally(read=9, coded=9, by_codes={2: 9})
    assert place.sources == EXPECTED
    assert len(place.pauses) == len([fault for fault in faults if fault])


AWAY = client_errors.ConnectionError("N/A", "refused", Exception("refused"))


async def test_a_server_that_is_away_at_the_start_is_waited_for(place: Place) -> None:
    """By the same budget as later; a server that has no such index is there."""
    place.index.faults = {"mapping": [AWAY, error(503), TIMEOUT, None, error(404)]}
    await place.store(tries=4).await_answer()
    assert len(place.pauses) == 3
    await place.store().await_answer()
    assert len(place.pauses) == 3


async def test_a_server_that_stays_away_ends_the_start_with_what_was_tried(place: Place) -> None:
    """The message has address, purpose and number of tries."""
    place.index.faults = {"mapping": [AWAY] * 3}
    with pytest.raises(
        SearchError, match="gave up after 3 tries: http://paper:9200: reading the mapping of shop failed"
    ):
        await place.store().await_answer()
    assert len(place.pauses) == 2


@pytest.mark.parametrize("fault", [error(401), error(403), client_errors.SSLError("N/A", "tls", Exception("tls"))])
async def test_what_waiting_cannot_mend_ends_the_start_at_once(place: Place, fault: Exception) -> None:
    """Rights and certificates do not come back by themselves."""
    place.index.faults = {"mapping": [fault]}
    with pytest.raises(SearchError, match="reading the mapping of shop failed"):
        await place.store().await_answer()
    assert place.pauses == []


async def test_a_lost_point_in_time_is_opened_again(place: Place) -> None:
    """Reading goes on after the last page; nothing is read twice or left out."""
    gone = client_errors.NotFoundError(404, "search_context_missing_exception", {})
    place.index.faults = {"search": [gone, None, None, gone, None, gone, gone]}
    assert (await place.run()).tally == Tally(read=9, coded=9, by_codes={2: 9})
    assert (place.sources, place.index.open_pits) == (EXPECTED, 0)


async def test_an_outage_longer_than_the_budget_stops_and_the_next_run_goes_on(place: Place) -> None:
    """The error says what to do; the report of the second run counts both."""
    place.index.faults = {"bulk": [None, error(503), error(503), error(503)]}
    with pytest.raises(SearchError, match="gave up after 3 tries") as caught:
        await place.run()
    assert "run the same command again" in caught.value.next_step
    asked = len(place.generator.texts)
    report = await place.run()
    assert report == Report(Tally(read=9, coded=9, by_codes={2: 9}), resumed=True)
    assert (place.sources, asked < 9) == (EXPECTED, True)


async def test_missing_rights_stop_at_once(place: Place) -> None:
    """No product is blamed for a user who may not write."""
    place.index.faults = {"bulk": [error(403)]}
    with pytest.raises(SearchError, match="403"):
        await place.run()
    assert (place.pauses, place.letters) == ([], [])


async def test_a_blocked_index_stops_at_once(place: Place) -> None:
    """An item that says 403 says something about the index, not about its product."""
    place.index.refused = {"p0": 403}
    with pytest.raises(SearchError, match="403"):
        await place.run()
    assert place.letters == []


@pytest.mark.parametrize("status", [400, 413, 500])
async def test_what_opensearch_refuses_is_a_dead_letter(place: Place, status: int) -> None:
    """With place and reason; the others are coded, and the product stays as it is."""
    place.index.refused = {"p4": status}
    report = await place.run(page=9)
    assert report.tally == Tally(read=9, coded=8, failed=1, by_codes={2: 8})
    (letter,) = place.letters
    gram = gram_object(codes_of("shoe 4"), "g2", source_hash("shoe 4", "g2"), NOW)
    assert letter == {
        "id": "p4",
        "line": 0,
        "status": status,
        "type": "mapper_parsing_exception",
        "reason": "failed (no number)",
        "at": NOW.isoformat(),
        "document": {"_index": "shop", "_routing": None, "gram": gram},
    }
    assert place.sources["p4"] == {"title": "shoe 4"}


async def test_a_bulk_that_is_too_large_is_halved(place: Place) -> None:
    """Down to single products."""
    place.index.largest = 600
    assert (await place.run(page=9)).tally == Tally(read=9, coded=9, by_codes={2: 9})
    assert place.sources == EXPECTED
    assert max(map(len, place.index.bulks)) < 4


async def test_a_text_that_the_model_fails_on_is_marked_and_left(place: Place) -> None:
    """Old codes of another text must not stay; a second run finds the mark and writes nothing."""
    place.index.put("p0", {**coded("shoe 0"), "title": "poison"})
    assert (await place.run()).tally == Tally(read=9, coded=8, pending=1, by_codes={2: 8})
    assert place.sources["p0"] == {"title": "poison", "gram": replacing(pending_object(NOW))}
    versions = place.versions
    assert (await place.run()).tally == Tally(read=9, fresh=8, pending=1)
    assert place.versions == versions


async def test_a_model_that_is_down_stops_the_run_and_marks_nothing(place: Place) -> None:
    """An index full of marks would be the worse state; the checkpoint stays for the next run."""
    async with place.coding() as coder:
        pass  # its batcher has stopped
    letters = DeadLetterFile(place.folder / "letters.jsonl")
    with letters, pytest.raises(DecodeError, match="no codes any more") as caught:
        await Backfill(
            place.store(), InPlace(place.store(), Clerk(coder, Rules("g2", 10))), place.checkpoint, letters
        ).run()
    assert "run the same command again" in caught.value.next_step
    assert place.sources == {name: {"title": title} for name, title in TITLES.items()}
    assert (await place.run()).tally.coded == 9


async def test_an_index_without_weights_gets_none(place: Place) -> None:
    """What the mapping has no field for would refuse the product."""
    rules = Rules("g2", 10, GramFields.PLAIN)
    for fresh in (0, 9):
        assert (await place.run(rules=rules)).tally.fresh == fresh
    expected = {key: value for key, value in EXPECTED["p1"]["gram"].items() if key != "weights"}
    assert place.sources["p1"]["gram"] == expected


@pytest.mark.parametrize("of", [1, 2, 5])
async def test_slices_share_the_work(place: Place, tmp_path: Path, of: int) -> None:
    """Each product is coded by exactly one of them."""
    tallies = []
    for number in range(of):
        folder = tmp_path / str(number)
        folder.mkdir()
        shared = Place(folder, copy.deepcopy(place.index), job=replace(JOB, slice=f"{number}/{of}"))
        shared.index = place.index
        tallies.append((await shared.run(part=Slice(number, of))).tally)
    assert sum(tally.read for tally in tallies) == sum(tally.coded for tally in tallies) == 9
    assert place.sources == EXPECTED
    assert set(place.versions.values()) == {2}


async def test_follow_codes_what_is_written_later_until_it_is_told_to_stop(place: Place) -> None:
    """New products and changed texts are found by their sequence numbers; the position stays for the next start."""
    stop, writes = asyncio.Event(), iter([("p1", "boot"), ("new", "sandal"), ("p1", "shoe 1")])

    def told(_: int) -> None:
        """Another writer, who writes the next product when everything has its codes."""
        if any("gram" not in found or found != coded(found["title"]) for found in place.sources.values()):
            return
        name, title = next(writes, ("", ""))
        if name:
            place.index.put(name, {**place.sources.get(name, {}), "title": title})
        else:
            stop.set()

    async with asyncio.timeout(30):
        report = await place.run(follow_s=0.0, stop=stop, listener=Listener(settled=told))
    assert report == Report(Tally(read=9, coded=12, by_codes={1: 2, 2: 10}), stopped=True)
    assert place.sources == {**EXPECTED, "new": coded("sandal")}
    read: list[int] = []
    again = asyncio.Event()
    again.set()
    assert (await place.run(follow_s=0.0, stop=again, listener=Listener(settled=read.append))).resumed
    assert read == []


async def test_an_index_that_leaves_within_its_span_holds_nothing_up(place: Place) -> None:
    """Neither a run nor a follower waits for the end of a round in an index that a policy has removed."""
    await place.run()
    reaches = {f"shop/{shard}": Reach(until, until) for shard, until in enumerate(place.index.reached)}
    left = {"shop-1/0": Reach(10, 100)}
    for follow_s in (None, 0.0):
        place.checkpoint.save(Position(1, {**left, **reaches}, 0, Tally(read=9, coded=9, by_codes={2: 9})))
        place.index.put("new", {"title": "boot"})
        stop = asyncio.Event()
        codes = Listener(settled=lambda _, stop=stop: place.sources["new"] == coded("boot") and stop.set())
        async with asyncio.timeout(30):
            await place.run(follow_s=follow_s, stop=stop, listener=codes)
        assert place.sources == {**EXPECTED, "new": coded("boot")}


@pytest.mark.parametrize("behind", [0, 1])
async def test_a_run_after_a_follower_reads_everything(place: Place, behind: int) -> None:
    """The checkpoint of `--follow` says what it has settled, not that nothing was written since; nor what is pending.

    Whether the follower was stopped between two rounds or within one.
    """
    place.index.put("p0", {"title": "poison"})
    await place.run()
    reaches = {f"shop/{shard}": Reach(until - behind, until) for shard, until in enumerate(place.index.reached)}
    place.checkpoint.save(Position(2, reaches, 0, Tally(read=9, pending=1, coded=8, by_codes={2: 8})))
    place.index.put("new", {"title": "boot"})
    assert await place.run() == Report(Tally(read=10, fresh=8, coded=1, pending=1, by_codes={1: 1}))
    poison = {"title": "poison", "gram": replacing(pending_object(NOW))}
    assert place.sources == {**EXPECTED, "p0": poison, "new": coded("boot")}
    assert place.checkpoint.load() is None


async def test_a_run_that_was_interrupted_in_its_last_round_reads_what_was_written_since(place: Place) -> None:
    """That round ends where the index was when it began, which may be days ago."""
    await place.run()
    reaches = {f"shop/{shard}": Reach(until - 1, until) for shard, until in enumerate(place.index.reached)}
    place.checkpoint.save(Position(1, reaches, 0, Tally(read=9, coded=9, by_codes={2: 9})))
    place.index.put("new", {"title": "boot"})
    assert await place.run() == Report(Tally(read=9, coded=10, by_codes={1: 1, 2: 9}), resumed=True)
    assert place.sources == {**EXPECTED, "new": coded("boot")}


async def test_a_run_that_is_told_to_stop_ends_after_its_page(place: Place) -> None:
    """What was settled stays settled, and the next run does the rest."""
    stop = asyncio.Event()
    report = await place.run(stop=stop, listener=Listener(settled=lambda _: stop.set()))
    assert (report.stopped, report.tally.read) == (True, 2)
    assert await place.run() == Report(Tally(read=9, coded=9, by_codes={2: 9}), resumed=True)


async def test_the_rate_bounds_products_that_are_coded(place: Place) -> None:
    """Two in a second: a page waits until the products before it have had their time; fresh ones cost none."""
    now, slept = [0.0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    await place.run(pacer=Pacer(2.0, clock=lambda: now[0], sleep=sleep))
    assert (now[0] >= 3.5, max(slept) <= 1.0) == (True, True)
    slept.clear()
    await place.run(pacer=Pacer(2.0, clock=lambda: now[0], sleep=sleep))
    assert slept == []


@given(
    st.lists(st.integers(0, 4), max_size=5),
    st.lists(st.tuples(st.sampled_from(sorted(TITLES)), st.sampled_from(["boot", "clog", None])), max_size=6),
    st.integers(1, 9),
)
@settings(max_examples=40)
def test_however_often_it_is_interrupted_every_product_ends_with_its_own_codes(
    stops: list[int], writes: list[tuple[str, str | None]], page: int
) -> None:
    """Whatever bulk each run dies at and whatever others write and delete meanwhile."""

    async def run(folder: Path) -> None:
        place = Place(folder)
        others = iter(writes)

        def meddle(_: object) -> None:
            name, title = next(others, (None, None))
            if name and title:
                place.index.put(name, {"title": title, "price": 5})
            elif name:
                place.index.documents.pop(name, None)

        place.index.meddle = meddle
        for bulks in stops:
            place.index.faults = {"bulk": [None] * bulks + [error(403)]}
            await asyncio.gather(place.run(page=page), return_exceptions=True)
        place.index.faults = {}
        await place.run(page=page)
        place.index.meddle = lambda _: None  # what is written while the last round runs is for the next run
        await place.run(page=page)
        titles = {name: found["title"] for name, found in place.sources.items()}
        grams = {name: found["gram"] for name, found in place.sources.items()}
        assert grams == {name: coded(title)["gram"] for name, title in titles.items()}
        assert all(("price" in found) == (not found["title"].startswith("shoe")) for found in place.sources.values())
        assert place.letters == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_a_kill_between_letters_and_checkpoint_doubles_no_letter(place: Place) -> None:
    """Letters written after the last checkpoint are taken back by the run that writes them again."""
    place.index.refused = dict.fromkeys(TITLES, 400)
    stop = asyncio.Event()
    await place.run(stop=stop, listener=Listener(settled=lambda _: stop.set()))
    kept = place.checkpoint.path.read_bytes()
    second = asyncio.Event()
    await place.run(stop=second, listener=Listener(settled=lambda _: second.set()))
    place.checkpoint.path.write_bytes(kept)
    report = await place.run()
    assert (report.tally.failed, sorted(letter["id"] for letter in place.letters)) == (9, sorted(TITLES))


def test_a_checkpoint_of_another_job_is_refused_and_the_difference_named(place: Place) -> None:
    """Going on with other arguments would leave products with codes of other rules."""
    place.checkpoint.save(Position(1, {"shop/0": Reach(3, 5)}, 7, Tally(read=4, by_codes={2: 4})))
    assert place.checkpoint.load() == Position(1, {"shop/0": Reach(3, 5)}, 7, Tally(read=4, by_codes={2: 4}))
    other = BackfillCheckpoint(place.checkpoint.path, replace(JOB, generation="g3", indices={"shop": "v"}))
    with pytest.raises(ConfigError) as caught:
        other.load()
    assert "generation was 'g2', is 'g3'; indices was {'shop': 'u'}, is {'shop': 'v'}" in caught.value.message
    assert "--checkpoint" in caught.value.next_step


def test_indices_may_come_and_go_behind_an_alias(place: Place) -> None:
    """A rollover or a deleted old index is no other job; one made anew under its name is."""
    place.checkpoint.save(Position(1, {}, 0, Tally()))
    for indices, is_same in [({"shop": "u", "shop-2": "v"}, True), ({"shop-2": "v"}, True), ({"shop": "w"}, False)]:
        other = BackfillCheckpoint(place.checkpoint.path, replace(JOB, indices=indices))
        if is_same:
            assert other.load() == Position(1, {}, 0, Tally())
        else:
            with pytest.raises(ConfigError, match="indices was"):
                other.load()


async def test_everything_can_end_at_a_number_of_each_shard(place: Place) -> None:
    """What was written later is left out, and so is a shard that is not named."""
    place.index.put("p0", {"title": "boot"})
    limits = {f"shop/{shard}": reached for shard, reached in enumerate(place.index.reached)}
    place.index.put("p1", {"title": "boot"})
    found = [product.id for limit in (limits, {}) async for page in place.store().everything(limit) for product in page]
    assert sorted(found) == sorted(TITLES.keys() - {"p1"})


async def test_a_position_keeps_where_a_new_index_was_before_its_alias_moved(place: Place) -> None:
    """Through pages, rounds and restarts; a checkpoint of before knows nothing of it."""
    copied = {"new/0": 7, "new/1": -1}
    place.checkpoint.save(Position(1, copied=copied))
    stop = asyncio.Event()
    await place.run(stop=stop, listener=Listener(settled=lambda _: stop.set()))
    found = place.checkpoint.load()
    assert found is not None
    assert found.copied == copied
    document = json.loads(place.checkpoint.path.read_text())
    del document["position"]["copied"]
    place.checkpoint.path.write_text(json.dumps(document))
    assert place.checkpoint.load() == replace(found, copied={})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"job": 1}', '{"job": {}, "position": {}}'])
def test_a_damaged_checkpoint_is_refused(place: Place, content: str) -> None:
    """It is not taken for the beginning: who looks after a long run wants to know."""
    place.checkpoint.path.write_text(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        place.checkpoint.load()


async def test_a_survey_counts_estimates_and_writes_nothing(place: Place) -> None:
    """What a backfill would do, the time by a sample of it, and codes of some products."""
    place.index.put("p0", coded("shoe 0"))
    place.index.put("p1", {**coded("shoe 1"), "title": "boot"})
    place.index.put("p2", {"title": "poison", "gram": pending_object(NOW)})
    place.index.put("p3", {"price": 1})
    versions, ticks = place.versions, iter([10.0, 14.0])
    async with place.coding() as coder:
        found = await Surveyor(place.store(), coder, Rules("g2", 10), clock=lambda: next(ticks)).run(int, int)
    assert replace(found, examples=()) == Survey(
        states={State.FRESH: 1, State.TEXT: 1, State.PENDING: 1, State.MISSING: 6},
        without_text=1,
        sampled=8,
        sampled_pending=1,
        sample_s=4.0,
    )
    assert (found.products, found.stale, found.estimated_s) == (9, 8, 4.0)
    codes = {"p1": ("g2/type=boot",), "p2": (), "p3": ()}
    expected = {name: codes.get(name, ("g2/type=" + name[1:], "g2/type=shoe")) for name in TITLES}
    assert len(found.examples) == 5
    assert all(example == Example(example.id, expected[example.id]) for example in found.examples)
    assert (place.versions, place.index.bulks, list(place.folder.iterdir())) == (versions, [], [])


async def test_a_census_tells_what_the_index_has(place: Place) -> None:
    """Products of this generation, pending ones, and all."""
    place.index.put("p0", coded("shoe 0"))
    place.index.put("p2", {"title": "x", "gram": pending_object(NOW)})
    assert await place.store().census("g2") == Census(9, 1, 1)
