"""The survey before a backfill: what it would do, how long it would take, and a sample of codes; nothing is written."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gram_plugin.search.backfill import WHOLE, Slice, Span, State, Stored, state_of
from gram_plugin.search.productstore import ProductStore
from gram_plugin.serve.backfill import ahead
from gram_plugin.serve.backfill_page import Rules, current_of, refuse_silence
from gram_plugin.serve.coding import Coded, Coder

SAMPLE = 200
_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """A product of the sample and the codes that it would get."""

    id: str
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """What a backfill would find now.

    Attributes:
        states: products by what their codes are worth.
        without_text: stale products that would get no codes of the model, as there is no text to read.
        unreadable: products that cannot be read; they would be marked as pending.
        sampled: stale products that were coded for the estimate, chosen at random.
        sampled_pending: those of them that the model could not read.
        sample_s: seconds that this took.
        examples: some of them with their codes.
    """

    states: Mapping[State, int] = field(default_factory=dict)
    without_text: int = 0
    unreadable: int = 0
    sampled: int = 0
    sampled_pending: int = 0
    sample_s: float = 0.0
    examples: tuple[Example, ...] = ()

    @property
    def products(self) -> int:
        """All that were read."""
        return sum(self.states.values())

    @property
    def stale(self) -> int:
        """Those that would be coded."""
        return self.products - self.states.get(State.FRESH, 0)

    @property
    def estimated_s(self) -> float:
        """Seconds of coding on this machine, by the speed of the sample; writing takes place besides."""
        return self.sample_s / self.sampled * self.stale if self.sampled else 0.0


class Surveyor:
    """Reads every product once and codes a sample of the stale ones.

    Args:
        store: the products.
        coder: the same that the backfill has.
        rules: what a fresh product has.
        part: of the index.
        clock: seconds that never run backwards.
        chance: draws the sample.
    """

    def __init__(
        self,
        store: ProductStore,
        coder: Coder,
        rules: Rules,
        *,
        part: Slice = WHOLE,
        clock: Callable[[], float] = time.perf_counter,
        chance: random.Random | None = None,
    ) -> None:
        self._store = store
        self._coder = coder
        self._rules = rules
        self._part = part
        self._clock = clock
        self._chance = chance or random.Random(0)
        self._states: Counter[State] = Counter()
        self._without_text = 0
        self._unreadable = 0
        self._sample: list[Stored] = []

    async def run(self, on_total: Callable[[int], object], on_progress: Callable[[int], object]) -> Survey:
        """What a backfill would find now.

        Raises:
            SearchError: OpenSearch does not answer.
            DecodeError: the model gives no codes.
        """
        spans = [Span(shard, -1, shard.reached, self._part) for shard in await self._store.shards()]
        on_total(sum([await self._store.count(span) for span in spans]))
        for span in spans:
            async for products in ahead(self._store.pages(span)):
                await self._read(products)
                on_progress(len(products))
        began = self._clock()
        coded = await self._coder.code_products([product.source for product in self._sample])
        refuse_silence(coded)
        return self._survey(coded, self._clock() - began)

    async def _read(self, products: Sequence[Stored]) -> None:
        readings = await self._coder.read_products([product.source for product in products])
        for product, reading in zip(products, readings, strict=True):
            state = state_of(product.source, current_of(reading, self._rules))
            self._states[state] += 1
            self._unreadable += reading is None
            if state is not State.FRESH:
                self._without_text += reading is not None and not reading.has_text
                self._draw(product)

    def _draw(self, product: Stored) -> None:
        """Keeps each stale product with the same chance (algorithm R: Vitter, Random sampling with a reservoir)."""
        seen = sum(self._states.values()) - self._states[State.FRESH]
        if len(self._sample) < SAMPLE:
            self._sample.append(product)
        elif (place := self._chance.randrange(seen)) < SAMPLE:
            self._sample[place] = product

    def _survey(self, coded: Sequence[Coded], seconds: float) -> Survey:
        examples = (
            Example(product.id, tuple(codes.gram["codes"]))
            for product, codes in zip(self._sample[:_SHOWN], coded, strict=False)
        )
        return Survey(
            states=dict(self._states),
            without_text=self._without_text,
            unreadable=self._unreadable,
            sampled=len(coded),
            sampled_pending=sum(codes.reason is not None for codes in coded),
            sample_s=seconds,
            examples=tuple(examples),
        )
