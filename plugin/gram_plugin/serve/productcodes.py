"""Product codes: the rules and the batcher by which sidecar, `gram ingest` and `gram backfill` code products.

Whatever decides which codes a product gets stands here, so that it gets the same on every way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from gram_plugin.contract.codes import Generator
from gram_plugin.contract.text import Rendering
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.session import Seq2SeqSession
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.coding import Coder, CodingRules, Patience
from gram_plugin.serve.settings import SidecarSettings


def product_rules(generator: OnnxGenerator | None, settings: SidecarSettings) -> CodingRules:
    """What is read, by the bundle, and what is kept of its codes, by the settings."""
    return CodingRules(
        generator.manifest.rendering if generator else Rendering(()),
        tags=generator.tags.codes_of if generator else None,
        reads=_read_fields(generator) if generator else None,
        min_probability=settings.min_probability,
        max_codes=settings.max_codes,
        cache_entries=settings.cache_entries,
    )


def _read_fields(generator: OnnxGenerator) -> tuple[str, ...]:
    tagger = generator.tags.tagger
    return (*generator.manifest.rendering.fields, *tagger.text, *tagger.types)


def product_batcher(generator: Generator, rules: CodingRules, settings: SidecarSettings) -> Batcher:
    """A batcher, not started yet, that asks the model for as many codes as the rules may keep.

    The coder hands it at most `concurrency` texts, so its own queue never overflows. Of `threads` cores each reads
    its own texts: two cores that share one small text wait for each other more than they help.
    """
    if isinstance(generator, OnnxGenerator):
        generator = replace(generator, max_batch_tokens=settings.max_batch_tokens)
    return Batcher(
        generator,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_ms,
        max_queue=rules.concurrency,
        limit=rules.max_codes,
        twins=twins_of(generator, settings.threads - 1),
    )


def twins_of(generator: Generator, number: int) -> list[Generator]:
    """The same model so many times more: sessions of their own, everything that is only read in common.

    Raises:
        BundleError: a graph cannot be opened again.
    """
    if not isinstance(generator, OnnxGenerator):
        return []
    return [replace(generator, session=Seq2SeqSession.open(generator.bundle, threads=1)) for _ in range(number)]


@asynccontextmanager
async def coder_in_process(
    generator: OnnxGenerator, settings: SidecarSettings, patience: Patience
) -> AsyncIterator[Coder]:
    """A coder without a server, by the rules that a sidecar of these settings has; its model ends with it."""
    rules = product_rules(generator, settings)
    batcher = product_batcher(generator, rules, settings)
    await batcher.start()
    try:
        yield Coder(batcher, rules, patience)
    finally:
        await batcher.stop()
