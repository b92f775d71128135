"""Running: the sidecar as a server and an ingest as a program, from what a person asked for to the end."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from gram_plugin.contract.catalogue import CatalogueReader, read_catalogue
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import BundleError, DecodeError
from gram_plugin.progress import Progress, reporting
from gram_plugin.search.client import Address, address
from gram_plugin.serve import checkpoint
from gram_plugin.serve.coding import Coder, Patience
from gram_plugin.serve.deadletter import DeadLetterFile
from gram_plugin.serve.delivery import Delivery, Retrying
from gram_plugin.serve.fields import FieldCheck
from gram_plugin.serve.http import Upstream
from gram_plugin.serve.ingest import ChunkSize, Ingest, Report, require_fields
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.productcodes import coder_in_process, product_rules
from gram_plugin.serve.program import log_json_lines, run_program
from gram_plugin.serve.settings import SidecarSettings, variable
from gram_plugin.serve.sidecar import create_sidecar

_log = logging.getLogger(__name__)

_DEFAULT_ID = "id"
_MODEL_SILENCE_S = 300.0
_ANSWER_S = 120.0


def serve_sidecar(settings: SidecarSettings, console: Console) -> None:
    """Serves until SIGINT or SIGTERM; without a usable bundle documents go in without codes.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    for line in settings.lines():
        console.print(line)
    log_json_lines()
    generator = _open_generator(settings)
    rules = product_rules(generator, settings)
    run_program(create_sidecar(settings, generator, rules), settings, console.print)


def _open_generator(settings: SidecarSettings) -> OnnxGenerator | None:
    """The model, or None: a bundle that cannot be used must not stop indexing, but everybody is told."""
    if settings.bundle is None:
        _log.warning("no bundle: every document goes in without codes — set GRAM_BUNDLE, then index them again")
        return None
    try:
        return OnnxGenerator.open(settings.bundle)
    except (BundleError, DecodeError) as error:
        _log.error("every document goes in without codes and has to be indexed again later: %s", error)
        return None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person asked `gram ingest` for: the options of the verb, and the environment with `GRAM_` variables."""

    catalogue: Path
    index: str
    url: str
    checkpoint: Path
    dead_letters: Path
    ca_file: str | None = None
    bundle: Path | None = None
    id_field: str | None = None
    skip_invalid: bool = False
    bulk: int = 500
    threads: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The end of an ingest."""

    report: Report
    skipped: int


def ingest(wish: Wish, console: Console) -> Done:
    """Puts a catalogue into an index, with a progress bar; a broken last line is found before anything is sent.

    Raises:
        GramError: the catalogue, the bundle, the index or OpenSearch are unusable; what was done is kept.
    """
    found = address(wish.url, ca_file=wish.ca_file)
    generator = OnnxGenerator.open(wish.bundle) if wish.bundle else None
    id_field = wish.id_field or (generator.manifest.id_field if generator else _DEFAULT_ID)
    catalogue = read_catalogue(wish.catalogue, id_field=id_field, skip_invalid=wish.skip_invalid)
    with console.status("checking the catalogue"):
        products = sum(1 for _ in catalogue)
    with reporting(console) as progress:
        advance = _counting(progress, products)
        report = asyncio.run(_ingest(wish, found, generator, catalogue, id_field, advance))
    return Done(report, len(catalogue.skipped))


async def _ingest(
    wish: Wish,
    found: Address,
    generator: OnnxGenerator | None,
    catalogue: CatalogueReader,
    id_field: str,
    advance: Callable[[int], None],
) -> Report:
    headers = credentials(found)
    authority = Path(found.ca_file) if found.ca_file else None
    async with Upstream(found.url, request_timeout_s=_ANSWER_S, ca_file=authority) as upstream:
        fields = await require_fields(FieldCheck(upstream, max_age_s=60), wish.index, headers)
        delivery = Delivery(upstream, wish.index, headers, Retrying())
        job = checkpoint.Job.of(
            wish.catalogue,
            id_field=id_field,
            index=wish.index,
            url=found.url,
            generation=generator.generation if generator else None,
            dead_letters=wish.dead_letters,
            index_uuid=await delivery.index_uuid(),
        )
        kept = checkpoint.CheckpointFile(wish.checkpoint, job)
        start = kept.load()
        begun = start or checkpoint.Progress()
        letters = DeadLetterFile(wish.dead_letters, resume_at=start.dead_letter_bytes if start else None)
        size = ChunkSize(documents=wish.bulk)
        async with _coder(generator, wish, found.url) as coder:
            advance(begun.counts.indexed + begun.counts.dead_lettered)
            with letters:
                program = Ingest(delivery, kept, letters, coder=coder, fields=fields, size=size)
                return await program.run(catalogue, begun, advance)


@asynccontextmanager
async def _coder(generator: OnnxGenerator | None, wish: Wish, url: str) -> AsyncIterator[Coder | None]:
    """Codes in this process, if there is a model, by the settings that a sidecar of so many threads would have here."""
    if generator is None:
        yield None
        return
    own = {variable("upstream_url"): url, variable("threads"): str(wish.threads)}
    settings = SidecarSettings.from_mapping({**wish.environment, **own})
    async with coder_in_process(generator, settings, Patience(total_s=None, stall_s=_MODEL_SILENCE_S)) as coder:
        yield coder


def credentials(found: Address) -> Headers:
    """The header that carries user name and password, if there are any."""
    if found.username is None:
        return []
    pair = f"{found.username}:{found.password}".encode()
    return [(b"authorization", b"Basic " + base64.b64encode(pair))]


def report_lines(done: Done, wish: Wish) -> list[str]:
    """What became of the catalogue, for a person."""
    counts, report = done.report.counts, done.report
    lines = [f"{counts.indexed} products indexed, {counts.dead_lettered} refused, {done.skipped} lines skipped"]
    if report.resumed_at:
        lines.append(f"resumed after line {report.resumed_at}")
    if wish.bundle:
        lines.append(f"{counts.coded} coded, {counts.pending} pending")
        if counts.pending:
            lines.append("pending products have no codes: run the same command again, it codes them anew")
    elif report.statuses:
        lines.extend(f"{number} bulks {status}" for status, number in sorted(report.statuses.items()))
    else:
        lines.append("no codes: the address is no sidecar, and there was no --bundle")
    if counts.dead_lettered:
        lines.append(f"refused documents and the reasons are in {wish.dead_letters}")
    return lines


def _counting(progress: Progress, products: int) -> Callable[[int], None]:
    """Takes the number of products done since the last call; `progress` is told of all."""
    done = 0

    def advance(number: int) -> None:
        nonlocal done
        done += number
        progress("ingest", done, products)

    return advance
