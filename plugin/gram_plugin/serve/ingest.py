"""Ingest: a catalogue file into an index — coded here, or by the sidecar it is sent to — resumable at any moment.

While one chunk is being delivered the next one is being coded. A chunk counts when OpenSearch has
answered for each of its documents; then the checkpoint moves.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gram_plugin.contract.catalogue import CatalogueReader, Product
from gram_plugin.errors import MappingError, SearchError
from gram_plugin.search.document import replacing
from gram_plugin.serve.checkpoint import CheckpointFile, Counts, Progress
from gram_plugin.serve.coding import Coder, utc_now
from gram_plugin.serve.deadletter import DeadLetter, DeadLetterFile
from gram_plugin.serve.delivery import Delivered, Delivery, Document, Refusal
from gram_plugin.serve.fields import FieldCheck, GramFields
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.preparing import fitting, with_gram


@dataclass(frozen=True)
class ChunkSize:
    """The bounds of one bulk: documents, and characters of JSON, a single larger document excepted."""

    documents: int = 500
    chars: int = 5_000_000


@dataclass(frozen=True)
class Report:
    """What became of a catalogue.

    Attributes:
        counts: of all products, those of an interrupted run before included.
        resumed_at: line of the catalogue after which this run began; 0 for the beginning.
        statuses: how many bulks a sidecar answered with which `x-gram-status`.
    """

    counts: Counts
    resumed_at: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chunk:
    """Documents that go out together, and how many of them have no codes."""

    documents: tuple[Document, ...]
    last_line: int
    coded: int = 0
    pending: int = 0


class Ingest:
    """Takes a catalogue to an index.

    Args:
        delivery: to the index.
        checkpoint: where progress is kept.
        dead_letters: takes what OpenSearch refuses; entered by the caller.
        coder: codes the products here; None sends them as they are.
        fields: what the index can take of the codes.
        size: of a chunk.
        clock: gives the time of a dead letter.
    """

    def __init__(
        self,
        delivery: Delivery,
        checkpoint: CheckpointFile,
        dead_letters: DeadLetterFile,
        *,
        coder: Coder | None,
        fields: GramFields,
        size: ChunkSize | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._delivery = delivery
        self._checkpoint = checkpoint
        self._dead_letters = dead_letters
        self._coder = coder
        self._fields = fields
        self._size = size or ChunkSize()
        self._clock = clock
        self._statuses: Counter[str] = Counter()

    async def run(self, catalogue: CatalogueReader, start: Progress, on_progress: Callable[[int], object]) -> Report:
        """Delivers every product after `start` and forgets the checkpoint.

        Args:
            catalogue: the products.
            start: where an interrupted run stopped, or the beginning.
            on_progress: told of each chunk's number of products once OpenSearch has answered for it.

        Raises:
            SearchError: OpenSearch stopped taking documents; the checkpoint stays for the next run.
            CatalogueError: a line is broken; the checkpoint stays.
        """
        progress = start
        chunks = chunks_of((product for product in catalogue if product.line > start.line), self._size)
        coming = asyncio.create_task(self._next(chunks))
        try:
            while chunk := await coming:
                coming = asyncio.create_task(self._next(chunks))
                delivered = await self._delivery.deliver(chunk.documents)
                if progress is start and not self._checkpoint.index_uuid:  # the first bulk may have made the index
                    self._checkpoint.name_index(await self._delivery.index_uuid())
                progress = self._settle(progress, chunk, delivered)
                on_progress(len(chunk.documents))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        self._checkpoint.remove()
        return Report(progress.counts, start.line, dict(self._statuses))

    async def _next(self, chunks: Iterator[list[Product]]) -> _Chunk | None:
        products = await asyncio.to_thread(next, chunks, None)
        if products is None:
            return None
        last_line = products[-1].line
        if self._coder is None:
            return _Chunk(tuple(Document(found.id, found.line, found.source) for found in products), last_line)
        coded = await self._coder.code_products([found.source for found in products])
        documents = (
            Document(found.id, found.line, with_gram(found.source, fitting(replacing(codes.gram), self._fields)))
            for found, codes in zip(products, coded, strict=True)
        )
        pending = sum(codes.reason is not None for codes in coded)
        return _Chunk(tuple(documents), last_line, len(coded) - pending, pending)

    def _settle(self, progress: Progress, chunk: _Chunk, delivered: Delivered) -> Progress:
        """Writes refusals first and the checkpoint after them, so that a kill between costs no document."""
        self._dead_letters.add([self._letter(refusal) for refusal in delivered.refusals])
        self._statuses.update(delivered.statuses)
        refused = len(delivered.refusals)
        counts = Counts(len(chunk.documents) - refused, chunk.coded, chunk.pending, refused)
        reached = Progress(chunk.last_line, self._dead_letters.size_bytes, progress.counts.plus(counts))
        self._checkpoint.save(reached)
        return reached

    def _letter(self, refusal: Refusal) -> DeadLetter:
        found = refusal.document
        at = self._clock().isoformat(timespec="seconds")
        return DeadLetter(found.id, found.line, refusal.status, refusal.type, refusal.reason, at, dict(found.source))


def chunks_of(products: Iterator[Product], size: ChunkSize) -> Iterator[list[Product]]:
    """Cuts a stream of products into chunks, in order."""
    chunk: list[Product] = []
    chars = 0
    for product in products:
        more = len(json.dumps(product.source))
        if chunk and (len(chunk) >= size.documents or chars + more > size.chars):
            yield chunk
            chunk, chars = [], 0
        chunk.append(product)
        chars += more
    if chunk:
        yield chunk


async def require_fields(check: FieldCheck, index: str, headers: Headers) -> GramFields:
    """What the index can take of codes.

    Raises:
        MappingError: nothing, because it lacks the fields.
        SearchError: OpenSearch did not say.
    """
    found = await check.of(index, headers)
    if found is GramFields.NONE:
        raise MappingError(
            f"the index {index!r} has no gram fields, or does not exist and no index template brings them",
            next_step=f"create it, then run `gram mapping apply {index}`",
        )
    if found in (GramFields.UNKNOWN, GramFields.AWAY):
        raise SearchError(
            f"the mapping of {index!r} could not be read",
            next_step="check the URL and the credentials (GRAM_OPENSEARCH_USERNAME, GRAM_OPENSEARCH_PASSWORD)",
        )
    return found
