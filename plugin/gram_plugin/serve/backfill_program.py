"""The backfill as a program: from what a person asked for to the end, with its signals, its progress and its report."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import ConfigError
from gram_plugin.progress import Progress, reporting, spelled
from gram_plugin.search.backfill import WHOLE, Slice, State, uuids_of
from gram_plugin.search.client import Address, address, connect, connect_async
from gram_plugin.search.mappings import check_index
from gram_plugin.search.productstore import Census, ProductStore
from gram_plugin.search.requests import Requests
from gram_plugin.serve.backfill import Backfill, Listener, Report, plain_start
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Job
from gram_plugin.serve.backfill_inplace import InPlace
from gram_plugin.serve.backfill_page import Clerk, Pacer, Rules
from gram_plugin.serve.backfill_survey import Survey, Surveyor
from gram_plugin.serve.coding import Coder, Patience
from gram_plugin.serve.deadletter import DeadLetterFile
from gram_plugin.serve.delivery import Retrying
from gram_plugin.serve.fields import GramFields
from gram_plugin.serve.productcodes import coder_in_process
from gram_plugin.serve.settings import SidecarSettings, variable

_ANSWER_S = 120.0
_TRIES = 20  # more than three minutes: a node that is restarted is back by then
_MODEL_SILENCE_S = 300.0
_CACHE_ENTRIES = "1000"  # equal texts come close together, if at all; the sidecar's 50,000 take some 300 MB
_NEVER = 1 << 62  # the breaker stays closed: a page full of texts that the model cannot read is no outage


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person asked `gram backfill` for: the options of the verb, and the environment with `GRAM_` variables."""

    index: str
    url: str
    bundle: Path
    checkpoint: Path
    dead_letters: Path
    ca_file: str | None = None
    part: Slice = WHOLE
    rate: float = 0.0
    follow_s: float | None = None
    into: str | None = None
    alias: str | None = None
    bulk: int = 500
    threads: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The end of a backfill, and what the index has now; `into` is the new one, if there is one."""

    report: Report
    census: Census
    generation: str
    into: str = ""


def slice_of(text: str) -> Slice:
    """A part as a person writes it, such as `0/8`.

    Raises:
        ConfigError: it is none.
    """
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of) <= 1024):
        raise ConfigError(
            f"--slice is {text!r}: expected part/parts, parts from 0 and at most 1024 of them",
            next_step="for two processes pass --slice 0/2 to one and --slice 1/2 to the other",
        )
    return Slice(int(number), int(of))


def backfill(wish: Wish, console: Console) -> Done:
    """Codes the stale products of an index, with progress; SIGINT and SIGTERM end it after the page at hand.

    Raises:
        GramError: the bundle, the index or OpenSearch are unusable; what was done is kept.
    """
    found = address(wish.url, ca_file=wish.ca_file)
    fields = _fields_once_there(wish, found)
    generator = OnnxGenerator.open(wish.bundle)
    with reporting(console) as progress:
        return asyncio.run(_backfill(wish, found, generator, fields, progress))


def survey(wish: Wish, console: Console) -> Survey:
    """Says what a backfill would do, and writes nothing anywhere.

    Raises:
        GramError: the bundle, the index or OpenSearch are unusable.
    """
    found = address(wish.url, ca_file=wish.ca_file)
    fields = GramFields.WEIGHTED if wish.into else _fields_once_there(wish, found)
    generator = OnnxGenerator.open(wish.bundle)
    with reporting(console) as progress:
        return asyncio.run(_survey(wish, found, generator, fields, progress))


async def _survey(
    wish: Wish, found: Address, generator: OnnxGenerator, fields: GramFields, progress: Progress
) -> Survey:
    settings = settings_of(wish, found)
    meter = Meter(progress, "survey")
    async with store_of(wish, found) as store, coder_of(generator, settings) as coder:
        rules = Rules(generator.generation, settings.max_codes, fields)
        return await Surveyor(store, coder, rules, part=wish.part).run(meter.expect, meter.advance)


def settings_of(wish: Wish, found: Address) -> SidecarSettings:
    """The settings that a sidecar of so many threads would have here, with a cache for products that are read once."""
    own = {variable("upstream_url"): found.url, variable("threads"): str(wish.threads)}
    return SidecarSettings.from_mapping({variable("cache_entries"): _CACHE_ENTRIES, **wish.environment, **own})


def _fields_once_there(wish: Wish, found: Address) -> GramFields:
    """What the index can take; a server that is away at the start is waited for as long as one that goes away later."""
    asyncio.run(_await_answer(wish, found))
    return fields_of_index(found, wish.index)


async def _await_answer(wish: Wish, found: Address) -> None:
    async with store_of(wish, found) as store:
        await store.await_answer()


def fields_of_index(found: Address, index: str) -> GramFields:
    """What an index can take of codes.

    Raises:
        MappingError: there is no such index, or it lacks the fields.
        SearchError: OpenSearch could not be asked.
    """
    with connect(found.url, username=found.username, password=found.password, ca_file=found.ca_file) as client:
        return GramFields.WEIGHTED if check_index(client, index).weighted else GramFields.PLAIN


async def _backfill(
    wish: Wish, found: Address, generator: OnnxGenerator, fields: GramFields, progress: Progress
) -> Done:
    settings = settings_of(wish, found)
    async with store_of(wish, found) as store, coder_of(generator, settings) as coder:
        await store.require_sources()
        checkpoint = BackfillCheckpoint(wish.checkpoint, await _job(wish, found, generator, settings, store))
        loaded = checkpoint.load()
        start = plain_start(loaded) if wish.follow_s is None else loaded
        letters = DeadLetterFile(wish.dead_letters, resume_at=start.dead_letter_bytes if start else None)
        rules = Rules(generator.generation, settings.max_codes, fields)
        desk = InPlace(store, Clerk(coder, rules, Pacer(wish.rate)))
        listener = Meter(progress, "backfill").listener
        with letters, stopping() as stop:
            program = Backfill(store, desk, checkpoint, letters, part=wish.part, stop=stop, listener=listener)
            follow_s = wish.follow_s
            report = await (program.run(start) if follow_s is None else program.follow(start, follow_s))
        return Done(report, await store.census(generator.generation), generator.generation)


async def _job(
    wish: Wish, found: Address, generator: OnnxGenerator, settings: SidecarSettings, store: ProductStore
) -> Job:
    return Job(
        url=found.url,
        index=wish.index,
        indices=uuids_of(await store.settings()),
        generation=generator.generation,
        min_probability=settings.min_probability,
        max_codes=settings.max_codes,
        slice=str(wish.part),
        dead_letters=str(wish.dead_letters.resolve()),
    )


@asynccontextmanager
async def store_of(wish: Wish, found: Address) -> AsyncIterator[ProductStore]:
    """The products of the index, over connections that are closed at the end."""
    async with requests_to(found) as requests:
        yield ProductStore(requests, wish.index, page=page_of(wish))


def page_of(wish: Wish) -> int:
    """Most products in a page: no more than a second's worth, so that the rate is even and a signal is heeded soon."""
    return min(wish.bulk, max(1, int(wish.rate))) if wish.rate else wish.bulk


@asynccontextmanager
async def requests_to(found: Address) -> AsyncIterator[Requests]:
    """Requests over connections that are closed at the end."""
    client = connect_async(
        found.url, timeout_s=_ANSWER_S, username=found.username, password=found.password, ca_file=found.ca_file
    )
    try:
        yield Requests(client, Retrying(tries=_TRIES))
    finally:
        await client.close()


@asynccontextmanager
async def coder_of(generator: OnnxGenerator, settings: SidecarSettings) -> AsyncIterator[Coder]:
    """Codes in this process by the rules of the sidecar, for as long as the model gives any."""
    patience = Patience(total_s=None, stall_s=_MODEL_SILENCE_S, failures=_NEVER)
    async with coder_in_process(generator, settings, patience) as coder:
        yield coder


@contextmanager
def stopping() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; the second one of a kind ends the process as it always does."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def heed(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, heed, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class Meter:
    """Tells the progress of reading everything; rounds after the first are not counted."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress = progress
        self._stage = stage
        self._total = 0
        self._done = 0

    @property
    def listener(self) -> Listener:
        """Whom a backfill tells."""
        return Listener(self.expect, self.advance)

    def expect(self, total: int) -> None:
        """Takes the number of products to read."""
        self._total = total
        self._progress(self._stage, 0, total)

    def advance(self, number: int) -> None:
        """Takes the number of products settled since the last call."""
        self._done += number
        if self._done <= self._total:
            self._progress(self._stage, self._done, self._total)


def report_lines(done: Done, wish: Wish) -> list[str]:
    """What became of the index, for a person."""
    tally, census = done.report.tally, done.census
    lines = [
        f"{tally.read} products read: {tally.fresh} had their codes, {tally.coded} coded, {tally.pending} pending, "
        f"{tally.failed} failed, {tally.gone} gone",
    ]
    if done.report.resumed:
        lines.append("with those of the interrupted run")
    if tally.again:
        lines.append(f"{tally.again} times a product was written meanwhile and read again")
    if tally.by_codes:
        spread = ", ".join(f"{count} with {number}" for number, count in tally.by_codes.items())
        lines.append(f"{tally.codes_per_product:.2f} codes per coded product: {spread}")
    if tally.pending:
        lines.append("the model could not read the pending products: the log has the reasons")
    if tally.failed:
        lines.append(f"what failed and why is in {wish.dead_letters}")
    others = census.products - census.coded - census.pending
    if done.into and not done.report.stopped:
        lines.append(f"the alias {wish.alias} leads to {done.into}")
    lines.append(
        f"{done.into or wish.index} has {census.products} products: {census.coded} with {done.generation}, "
        f"{census.pending} pending, {others} others"
    )
    return lines


def report_document(done: Done) -> dict[str, Any]:
    """The same for a program."""
    tally = done.report.tally
    return {
        "generation": done.generation,
        "into": done.into or None,
        **asdict(tally),
        "by_codes": {str(number): count for number, count in tally.by_codes.items()},
        "codes_per_product": round(tally.codes_per_product, 4),
        "resumed": done.report.resumed,
        "stopped": done.report.stopped,
        "index": asdict(done.census),
    }


def survey_lines(found: Survey, wish: Wish) -> list[str]:
    """What a backfill would do, for a person."""
    named = ", ".join(f"{count} {state}" for state, count in sorted(found.states.items()))
    lines = [f"{found.products} products: {found.stale} to be coded ({named or 'none'})"]
    if found.without_text:
        lines.append(f"{found.without_text} of them have no text to read")
    if found.unreadable:
        lines.append(f"{found.unreadable} cannot be read and would be marked as pending")
    if found.sampled:
        speed = found.sampled / found.sample_s if found.sample_s else 0.0
        lines.append(
            f"about {spelled(found.estimated_s)} of coding: {found.sampled} of them took {found.sample_s:.1f} s here, "
            f"{speed:.0f} a second; the model could not read {found.sampled_pending}"
        )
    lines.extend(f"{example.id}: {' '.join(example.codes) or 'no codes'}" for example in found.examples)
    lines.append(f"nothing was written to {wish.index}")
    return lines


def survey_document(found: Survey) -> dict[str, Any]:
    """The same for a program."""
    return {
        "products": found.products,
        "stale": found.stale,
        "states": {state.value: found.states.get(state, 0) for state in State},
        "without_text": found.without_text,
        "unreadable": found.unreadable,
        "sampled": found.sampled,
        "sampled_pending": found.sampled_pending,
        "sample_s": round(found.sample_s, 3),
        "estimated_s": round(found.estimated_s, 3),
        "examples": {example.id: list(example.codes) for example in found.examples},
    }
