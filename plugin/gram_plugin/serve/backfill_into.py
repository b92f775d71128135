"""The backfill into a new index as a program: copy, catch up, compare, swap the alias, catch up once more; clean up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.console import Console

from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import ConfigError
from gram_plugin.progress import Progress, reporting
from gram_plugin.search.backfill import uuids_of
from gram_plugin.search.client import Address, address
from gram_plugin.search.newindex import (
    Mark,
    NewIndex,
    find_own,
    own_name,
    read_mark,
    removable,
    remove,
    unfinished,
)
from gram_plugin.search.productstore import ProductStore
from gram_plugin.search.requests import Requests
from gram_plugin.serve.backfill import Backfill, Report
from gram_plugin.serve.backfill_checkpoint import BackfillCheckpoint, Job, Position
from gram_plugin.serve.backfill_copy import Copying
from gram_plugin.serve.backfill_move import Move
from gram_plugin.serve.backfill_page import Clerk, Pacer, Rules
from gram_plugin.serve.backfill_program import (
    Done,
    Meter,
    Wish,
    coder_of,
    fields_of_index,
    page_of,
    requests_to,
    settings_of,
    stopping,
)
from gram_plugin.serve.coding import Coder, utc_now
from gram_plugin.serve.deadletter import DeadLetterFile
from gram_plugin.serve.settings import SidecarSettings

AUTO = "auto"
"""In the place of a name: one that tells alias, generation and time, which `gram clean-up` knows as our own."""


def backfill_into(wish: Wish, console: Console) -> Done:
    """Copies an index with codes into a new one and moves the alias there; resumable until the end.

    Raises:
        GramError: names, bundle or OpenSearch are unusable, or the counts differ; what was done is kept.
    """
    found = address(wish.url, ca_file=wish.ca_file)
    generator = OnnxGenerator.open(wish.bundle)
    with reporting(console) as progress:
        return asyncio.run(_run(wish, found, generator, progress))


async def _run(wish: Wish, found: Address, generator: OnnxGenerator, progress: Progress) -> Done:
    settings = settings_of(wish, found)
    async with requests_to(found) as requests, coder_of(generator, settings) as coder:
        new = await _new_index(requests, wish, generator.generation)
        interrupted = await asyncio.to_thread(wish.checkpoint.exists)
        if await new.is_swapped() and not interrupted:
            report = Report(Position().tally)
        else:
            report = await _copy(wish, found, new, requests, coder, settings, progress)
        target = ProductStore(requests, new.name)
        return Done(report, await target.census(generator.generation), generator.generation, new.name)


async def _new_index(requests: Requests, wish: Wish, generation: str) -> NewIndex:
    """The index to be made, or that an interrupted run has made; not made here.

    When its alias was moved already, the name that was given leads to the new index, and its mark names the source.

    Raises:
        ConfigError: the name leads to several indices, or the new index is the source.
    """
    uuids = uuids_of(await ProductStore(requests, wish.index).settings())
    if len(uuids) != 1:
        raise ConfigError(
            f"{wish.index} leads to {len(uuids)} indices: {', '.join(uuids)}",
            next_step="name one of them, and an alias that leads to it alone",
        )
    ((source, uuid),) = uuids.items()
    alias, made = wish.alias or "", await read_mark(requests, source)
    is_done = made is not None and (made.alias, made.generation) == (alias, generation)
    if made and is_done and wish.into in (AUTO, source) and wish.index != source:
        return NewIndex(requests, source, made)
    if source == wish.into:
        raise ConfigError(f"{source} is both source and new index", next_step="name another one with --into")
    mark = Mark(source, uuid, generation, alias)
    if wish.into != AUTO:
        return NewIndex(requests, wish.into or "", mark)
    begun = unfinished(await find_own(requests, alias), mark)
    return NewIndex(requests, begun or own_name(alias, generation, utc_now()), mark)


async def _copy(
    wish: Wish,
    found: Address,
    new: NewIndex,
    requests: Requests,
    coder: Coder,
    settings: SidecarSettings,
    progress: Progress,
) -> Report:
    source = ProductStore(requests, new.mark.source, page=page_of(wish))
    target = ProductStore(requests, new.name, page=page_of(wish))
    checkpoint = BackfillCheckpoint(wish.checkpoint, _job(wish, found, new, settings))
    start = resumed(checkpoint.load(), is_swapped=await new.is_swapped())
    await source.require_sources()
    await new.make()
    fields = await asyncio.to_thread(fields_of_index, found, new.name)
    clerk = Clerk(coder, Rules(new.mark.generation, settings.max_codes, fields), Pacer(wish.rate))
    letters = DeadLetterFile(wish.dead_letters, resume_at=start.dead_letter_bytes if start else None)
    listener = Meter(progress, "backfill").listener
    with letters, stopping() as stop:

        def program(*, is_live: bool) -> Backfill:
            desk = Copying(target, new.name, clerk, is_live=is_live)
            return Backfill(source, desk, checkpoint, letters, stop=stop, listener=listener)

        move = Move(new, source, target, program(is_live=False), program(is_live=True), checkpoint, stop)
        position = await move.run(start or Position())
        return Report(position.tally, resumed=start is not None, stopped=stop.is_set())


def resumed(start: Position | None, *, is_swapped: bool) -> Position | None:
    """Where to go on; at the beginning where everything was settled but for products that were refused.

    What was copied is only compared then, and what was refused gets another chance. Once the alias has moved it is too
    late for that: everything would be copied again, and with it what clients have deleted from the new index.
    """
    return None if start and start.round > 1 and start.tally.failed and not is_swapped else start


def _job(wish: Wish, found: Address, new: NewIndex, settings: SidecarSettings) -> Job:
    return Job(
        url=found.url,
        index=wish.index,
        indices={new.mark.source: new.mark.uuid},
        generation=new.mark.generation,
        min_probability=settings.min_probability,
        max_codes=settings.max_codes,
        slice=str(wish.part),
        dead_letters=str(wish.dead_letters.resolve()),
        into=new.name,
        alias=new.mark.alias,
    )


def clean_up(url: str, alias: str, ca_file: str | None, *, delete: bool) -> Sequence[str]:
    """The indices that a backfill made for an alias and that carry none any more; deletes them when told so.

    Raises:
        ConfigError: the name is none.
        SearchError: OpenSearch could not be asked, or refused it.
    """
    return asyncio.run(_clean_up(address(url, ca_file=ca_file), alias, delete=delete))


async def _clean_up(found: Address, alias: str, *, delete: bool) -> Sequence[str]:
    if not alias or set("*?,") & set(alias):
        raise ConfigError(f"{alias!r} is no name of an alias", next_step="give one name, without wildcards")
    async with requests_to(found) as requests:
        names = removable(await find_own(requests, alias), alias)
        return [name for name in names if not delete or await remove(requests, name, alias)]
