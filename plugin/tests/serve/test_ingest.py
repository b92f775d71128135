"""Ingest against an OpenSearch of paper: retries, refusals, interruption at any place, and what is counted."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.contract.catalogue import Product, read_catalogue
from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering, source_hash
from gram_plugin.errors import CatalogueError, ConfigError, DecodeError, MappingError, SearchError
from gram_plugin.search.document import gram_object, pending_object, replacing
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.checkpoint import CheckpointFile, Counts, Job, Progress
from gram_plugin.serve.coding import Coder, CodingRules
from gram_plugin.serve.deadletter import DeadLetter, DeadLetterFile
from gram_plugin.serve.delivery import Delivery, Retrying
from gram_plugin.serve.fields import FieldCheck, GramFields
from gram_plugin.serve.http import Upstream
from gram_plugin.serve.ingest import ChunkSize, Ingest, Report, chunks_of, require_fields

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEYWORD = {"type": "keyword"}
GRAM = {
    "codes": KEYWORD,
    "model": KEYWORD,
    "source": KEYWORD,
    "at": {"type": "date"},
    "weights": {"type": "rank_features"},
}
PRODUCTS = [{"id": str(number), "title": f"shoe {number}"} for number in range(1, 8)]


@dataclass
class PaperOpenSearch:
    """Keeps documents; `script` holds a status for each of the next bulks.

    By id, `transient` holds a count of 429s and `failing` a status that never ends.
    """

    script: list[int] = field(default_factory=list)
    transient: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)
    largest: int = 1_000_000
    gram_status: str | None = None
    mappings: dict[str, Any] = field(default_factory=lambda: {"properties": {"gram": {"properties": GRAM}}})
    documents: dict[str, Any] = field(default_factory=dict)
    bulks: list[list[str]] = field(default_factory=list)
    uuids: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        """A mapping or a bulk."""
        if request.path.endswith("_mapping"):
            return web.json_response({"products": {"mappings": self.mappings}})
        if request.path.endswith("_settings/index.uuid"):
            found = {name: {"settings": {"index": {"uuid": uuid}}} for name, uuid in self.uuids.items()}
            return web.json_response(found, status=200 if found else 404)
        body = await request.read()
        if len(body) > self.largest:
            return web.Response(status=413)
        status = self.script.pop(0) if self.script else 200
        if status != 200:
            headers = {"Retry-After": "3"} if status == 429 else {}
            return web.json_response({"error": {"type": "trouble", "reason": "busy"}}, status=status, headers=headers)
        self.uuids = self.uuids or self.made
        lines = [json.loads(line) for line in body.splitlines()]
        names = [line["index"]["_id"] for line in lines[::2]]
        self.bulks.append(names)
        items = [self.item(name, document) for name, document in zip(names, lines[1::2], strict=True)]
        headers = {"x-gram-status": self.gram_status} if self.gram_status else {}
        return web.json_response({"items": items}, headers=headers)

    def item(self, name: str, document: Any) -> dict[str, Any]:
        """The result of one document."""
        if self.transient.get(name, 0):
            self.transient[name] -= 1
            return {"index": {"status": 429, "error": {"type": "rejected", "reason": "queue full"}}}
        if name in self.failing:
            error = {"type": "null_pointer_exception", "reason": "in the pipeline"}
            return {"index": {"status": self.failing[name], "error": error}}
        if name in self.refused:
            error = {"type": "mapper_parsing_exception", "reason": "failed", "caused_by": {"reason": "no number"}}
            return {"index": {"status": 400, "error": error}}
        self.documents[name] = document
        return {"index": {"status": 201}}


class WordGenerator:
    """One code for each distinct word; fails on `poison`."""

    generation = "g2"

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of the words, in order of the alphabet."""
        if any("poison" in text for text in texts):
            raise DecodeError("no")
        return [codes_of(text) for text in texts]


def codes_of(text: str) -> list[ScoredCode]:
    """The codes of the words of a text."""
    return [ScoredCode(Code.of([Attribute.of("type", word)]), 0.5) for word in sorted(set(text.split()))]


@dataclass
class Place:
    """A folder with a catalogue, and an ingest that runs in it against the paper OpenSearch."""

    folder: Path
    opensearch: PaperOpenSearch
    pauses: list[float] = field(default_factory=list)
    told: list[int] = field(default_factory=list)

    @property
    def letters(self) -> Path:
        """The dead-letter file."""
        return self.folder / "letters.jsonl"

    @property
    def checkpoint(self) -> CheckpointFile:
        """The checkpoint of the catalogue."""
        uuid = ",".join(self.opensearch.uuids.values())
        job = Job.of(
            self.folder / "products.jsonl",
            id_field="id",
            index="products",
            url="http://paper",
            generation=None,
            dead_letters=self.letters,
            index_uuid=uuid,
        )
        return CheckpointFile(self.folder / "checkpoint.json", job)

    def write(self, products: Sequence[Any]) -> None:
        """Makes the catalogue; bytes stand as they are."""
        lines = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in products)
        (self.folder / "products.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))

    async def run(self, *, coded: bool = False, size: int = 2, tries: int = 3) -> Report:
        """One `gram ingest` as far as it comes."""

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        retrying = Retrying(tries=tries, sleep=pause, chance=random.Random(7))
        start = self.checkpoint.load()
        letters = DeadLetterFile(self.letters, resume_at=start.dead_letter_bytes if start else None)
        batcher = Batcher(WordGenerator(), max_batch=4, max_wait_ms=0, max_queue=100)
        coder = Coder(batcher, CodingRules(Rendering(("title",))), clock=lambda: NOW) if coded else None
        await batcher.start()
        try:
            async with served(self.opensearch) as upstream:
                with letters:
                    ingest = Ingest(
                        Delivery(upstream, "products", [], retrying),
                        self.checkpoint,
                        letters,
                        coder=coder,
                        fields=GramFields.WEIGHTED,
                        size=ChunkSize(documents=size),
                        clock=lambda: NOW,
                    )
                    catalogue = read_catalogue(self.folder / "products.jsonl", id_field="id")
                    return await ingest.run(catalogue, start or Progress(), self.told.append)
        finally:
            await batcher.stop()


@asynccontextmanager
async def served(opensearch: PaperOpenSearch) -> AsyncIterator[Upstream]:
    """Connections to the paper OpenSearch."""
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", opensearch.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Upstream(f"http://127.0.0.1:{runner.addresses[0][1]}") as upstream:
            yield upstream
    finally:
        await runner.cleanup()


def read_letters(path: Path) -> list[DeadLetter]:
    """The letters of a file, in the order in which they were refused."""
    return [DeadLetter(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Seven products and an OpenSearch that takes them."""
    made = Place(tmp_path, PaperOpenSearch())
    made.write(PRODUCTS)
    return made


BY_ID = {product["id"]: product for product in PRODUCTS}


async def test_every_product_is_indexed_under_its_id(place: Place) -> None:
    """Without a model the documents go as they are, in bulks of the size asked for; the checkpoint is gone after."""
    assert await place.run() == Report(Counts(indexed=7))
    assert place.opensearch.documents == BY_ID
    assert (place.opensearch.bulks, place.told) == ([["1", "2"], ["3", "4"], ["5", "6"], ["7"]], [2, 2, 2, 1])
    assert [path.name for path in place.folder.iterdir()] == ["products.jsonl"]


async def test_with_a_model_documents_carry_codes_and_failures_are_pending(place: Place) -> None:
    """Each document has the codes of its text; one that the model fails on is indexed and counted as pending."""
    place.write([{"id": "1", "title": "Shoe", "gram": {"mine": 1}}, {"id": "2", "title": "poison"}])
    assert await place.run(coded=True) == Report(Counts(indexed=2, coded=1, pending=1))
    gram = gram_object(codes_of("shoe"), "g2", source_hash("shoe", "g2"), NOW)
    assert place.opensearch.documents == {
        "1": {"id": "1", "title": "Shoe", "gram": replacing(gram)},
        "2": {"id": "2", "title": "poison", "gram": replacing(pending_object(NOW))},
    }


async def test_overload_and_outages_are_waited_for(place: Place) -> None:
    """A bulk that met 429 or 503 is sent again after a pause that grows and honours Retry-After."""
    place.opensearch.script = [503, 429, 200]
    assert await place.run() == Report(Counts(indexed=7))
    first, second = place.pauses
    assert 0 <= first <= 0.5
    assert 3 <= second <= 4
    assert place.opensearch.documents == BY_ID


async def test_only_the_documents_that_met_overload_are_sent_again(place: Place) -> None:
    """Of a bulk that was taken in part, the rest is repeated alone."""
    place.opensearch.transient = {"2": 2}
    assert await place.run(size=3, tries=5) == Report(Counts(indexed=7))
    assert place.opensearch.bulks == [["1", "2", "3"], ["2"], ["2"], ["4", "5", "6"], ["7"]]


async def test_refused_documents_go_to_the_dead_letter_file_with_the_reason(place: Place) -> None:
    """What OpenSearch will never take is written with its line and what was said; the others are indexed."""
    place.opensearch.refused = {"3"}
    assert await place.run() == Report(Counts(indexed=6, dead_lettered=1))
    reason = "failed (no number)"
    letter = DeadLetter("3", 3, 400, "mapper_parsing_exception", reason, NOW.isoformat(), BY_ID["3"])
    assert read_letters(place.letters) == [letter]


@pytest.mark.parametrize("size", [1, 3])
async def test_a_document_that_opensearch_always_fails_on_is_dead_lettered(place: Place, size: int) -> None:
    """After as many tries as any other document has, so that the run ends; the others are indexed."""
    place.opensearch.failing = {"3": 500, "2": 500}
    assert await place.run(size=size) == Report(Counts(indexed=5, dead_lettered=2))
    found = [(letter.id, letter.status, letter.type) for letter in read_letters(place.letters)]
    assert found == [("2", 500, "null_pointer_exception"), ("3", 500, "null_pointer_exception")]
    assert place.opensearch.bulks.count(["2"] if size == 1 else ["2", "3"]) >= 2


@pytest.mark.parametrize("failing", [{"3": 503}, {"3": 429, "2": 500}, {"1": 500, "2": 500, "3": 500}])
async def test_documents_that_meet_an_outage_stop_the_run_and_are_kept(place: Place, failing: dict[str, int]) -> None:
    """A missing shard, overload, or a bulk of which nothing was taken is no fault of the documents."""
    place.opensearch.failing = failing
    with pytest.raises(SearchError, match="gave up after 3 tries: in the pipeline"):
        await place.run(size=3)
    assert not place.letters.exists()
    place.opensearch.failing = {}
    assert await place.run(size=3) == Report(Counts(indexed=7))


async def test_a_bulk_that_is_too_large_is_halved(place: Place) -> None:
    """413 halves the bulk; a single document that is too large is refused for good."""
    place.write([*PRODUCTS, {"id": "large", "title": "x" * 500}])
    place.opensearch.largest = 300
    assert await place.run(size=100) == Report(Counts(indexed=7, dead_lettered=1))
    assert [(letter.id, letter.status) for letter in read_letters(place.letters)] == [("large", 413)]
    assert place.opensearch.documents == BY_ID


async def test_an_outage_longer_than_the_budget_stops_and_the_next_run_goes_on(place: Place) -> None:
    """Nothing that OpenSearch had taken is sent again, and the counts are those of both runs."""
    place.opensearch.script = [200, 200, 503, 503, 503]
    with pytest.raises(SearchError, match="gave up after 3 tries") as caught:
        await place.run()
    assert "run the same command again" in caught.value.next_step
    assert await place.run() == Report(Counts(indexed=7), resumed_at=4)
    assert (place.opensearch.documents, place.opensearch.bulks[2:]) == (BY_ID, [["5", "6"], ["7"]])


async def test_a_server_that_takes_no_writes_of_ours_stops_at_once(place: Place) -> None:
    """Missing rights are no outage: nothing is repeated."""
    place.opensearch.script = [403]
    with pytest.raises(SearchError, match="403"):
        await place.run()
    assert place.pauses == []


async def test_a_changed_catalogue_begins_at_the_beginning(place: Place) -> None:
    """A checkpoint of another file is of no use."""
    place.opensearch.script = [200, 403]
    with pytest.raises(SearchError):
        await place.run()
    place.write([*PRODUCTS, {"id": "8"}])
    assert await place.run() == Report(Counts(indexed=8))


async def test_an_index_made_anew_begins_at_the_beginning(place: Place) -> None:
    """Under its old name it has none of the products that the checkpoint counts."""
    place.opensearch.script, place.opensearch.uuids = [200, 403], {"products": "a"}
    with pytest.raises(SearchError):
        await place.run()
    place.opensearch.documents, place.opensearch.uuids = {}, {"products": "b"}
    assert await place.run() == Report(Counts(indexed=7))
    assert place.opensearch.documents == BY_ID


@pytest.mark.parametrize(("uuids", "expected"), [({}, ""), ({"products": "a"}, "a"), ({"p2": "b", "p1": "a"}, "a,b")])
async def test_an_index_is_known_by_the_uuids_behind_its_name(uuids: dict[str, str], expected: str) -> None:
    """An index has one, an alias many, and one that does not exist none."""
    async with served(PaperOpenSearch(uuids=uuids)) as upstream:
        assert await Delivery(upstream, "products", [], Retrying()).index_uuid() == expected


async def test_an_index_that_the_first_bulk_makes_is_known_to_the_next_run(place: Place) -> None:
    """A template brings it into being, and the run that was interrupted in it goes on."""
    place.opensearch.script, place.opensearch.made = [200, 403], {"products": "a"}
    with pytest.raises(SearchError):
        await place.run()
    assert place.opensearch.uuids == {"products": "a"}
    assert await place.run() == Report(Counts(indexed=7), resumed_at=2)


async def test_a_broken_line_stops_after_what_was_read_and_keeps_the_checkpoint(place: Place) -> None:
    """The error names the line; the bulks before it are in the index, and the next run begins after them."""
    place.write([*PRODUCTS, b"{oops"])
    with pytest.raises(CatalogueError, match=r"products\.jsonl:8"):
        await place.run(size=2)
    assert place.opensearch.bulks == [["1", "2"], ["3", "4"], ["5", "6"]]
    assert place.checkpoint.load() == Progress(6, 0, Counts(indexed=6))


async def test_a_sidecars_status_is_counted(place: Place) -> None:
    """The report tells how many bulks went in without codes, and why."""
    place.opensearch.gram_status = "degraded; reason=timeout"
    report = await place.run(size=4)
    assert report == Report(Counts(indexed=7), statuses={"degraded; reason=timeout": 2})


@given(st.lists(st.integers(0, 3), max_size=6), st.sets(st.sampled_from([str(n) for n in range(1, 8)])))
@settings(max_examples=25)
def test_however_often_it_is_interrupted_nothing_is_lost_or_doubled(stops: list[int], refused: set[str]) -> None:
    """Whatever bulk each run dies at, in the end every product is indexed or dead-lettered, exactly once."""

    async def run(folder: Path) -> None:
        place = Place(folder, PaperOpenSearch(refused=refused))
        place.write(PRODUCTS)
        for bulks in stops:
            place.opensearch.script = [200] * bulks + [403]
            if (await asyncio.gather(place.run(), return_exceptions=True))[0] is None:
                break
        place.opensearch.script = []
        report = await place.run()
        letters = read_letters(place.letters) if refused else []
        assert [letter.id for letter in letters] == sorted(refused)
        assert place.opensearch.documents == {name: found for name, found in BY_ID.items() if name not in refused}
        assert report.counts == Counts(indexed=7 - len(refused), dead_lettered=len(refused))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_a_kill_between_dead_letters_and_checkpoint_doubles_no_letter(place: Place) -> None:
    """Letters written after the last checkpoint are taken back by the run that writes them again."""
    place.opensearch.refused = {"3"}
    place.opensearch.script = [200, 200, 403]
    with pytest.raises(SearchError):
        await place.run()
    earlier = Progress(2, 0, Counts(indexed=2))
    place.checkpoint.save(earlier)
    place.opensearch.script = []
    assert await place.run() == Report(Counts(indexed=6, dead_lettered=1), resumed_at=2)
    assert [letter.id for letter in read_letters(place.letters)] == ["3"]


async def test_without_the_letters_of_the_interrupted_run_nothing_is_sent(place: Place) -> None:
    """Going on would leave refused documents in no file; the error says what to do."""
    place.opensearch.refused, place.opensearch.script = {"1"}, [200, 403]
    with pytest.raises(SearchError):
        await place.run()
    place.letters.unlink()
    with pytest.raises(ConfigError, match="has 0 bytes") as caught:
        await place.run()
    assert "remove the checkpoint" in caught.value.next_step
    assert len(place.opensearch.bulks) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"job": 1}', '{"job": {}, "progress": {}}'])
def test_a_damaged_checkpoint_is_none(place: Place, content: str) -> None:
    """Ids make a run from the beginning right as well."""
    place.checkpoint.path.write_text(content)
    assert place.checkpoint.load() is None


async def test_an_index_without_the_fields_is_refused_with_the_command_to_run() -> None:
    """Before anything is sent, the error names `gram mapping apply`."""
    async with served(PaperOpenSearch(mappings={})) as upstream:
        with pytest.raises(MappingError) as caught:
            await require_fields(FieldCheck(upstream, max_age_s=1), "products", [])
    assert "gram mapping apply products" in caught.value.next_step


async def test_an_index_with_the_fields_is_taken() -> None:
    """The check says whether weights are mapped."""
    async with served(PaperOpenSearch()) as upstream:
        assert await require_fields(FieldCheck(upstream, max_age_s=1), "products", []) is GramFields.WEIGHTED


def test_chunks_are_bounded_by_documents_and_by_characters() -> None:
    """In order, none empty; a document beyond the bound stands alone."""
    products = [Product(str(n), {"t": "x" * size}, n) for n, size in enumerate([1, 1, 1, 100, 1])]
    chunks = list(chunks_of(iter(products), ChunkSize(documents=2, chars=50)))
    assert [[product.id for product in chunk] for chunk in chunks] == [["0", "1"], ["2"], ["3"], ["4"]]
