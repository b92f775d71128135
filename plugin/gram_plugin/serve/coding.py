"""Coding: products → rendered texts → codes → the `gram` objects of their documents.

The sidecar and `gram ingest` share it, so a product gets the same codes on either way. A product
without any text to read is coded with no codes: that is an answer, and nothing to do again.
"""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from gram_plugin.contract.codes import MAX_PRODUCT_CODES, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering
from gram_plugin.errors import GramError, OverloadError
from gram_plugin.search.bulk import json_bytes
from gram_plugin.search.document import gram_object, pending_object, replacing
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.breaker import Breaker
from gram_plugin.serve.cache import LatestCache
from gram_plugin.serve.reading import Reader, Tags, Text, Unreadable


class Reason(StrEnum):
    """Why a document went in without codes; the value stands in headers, metrics and logs."""

    TIMEOUT = "timeout"
    OVERLOAD = "overload"
    MODEL = "model-error"
    UNREADABLE = "unreadable"
    NO_MODEL = "no-model"
    BREAKER = "breaker-open"
    UPDATE = "partial-update"
    SCRIPT = "script"
    UNMARKED = "script-unmarked"
    NO_MAPPING = "no-mapping"
    UNKNOWN_MAPPING = "unknown-mapping"
    MALFORMED = "malformed-body"
    CONTENT_TYPE = "content-type"


@dataclass(frozen=True)
class CodingRules:
    """What is written of the codes that a model gives.

    Args:
        rendering: the fields that are read, from the bundle's manifest.
        tags: the codes that a document surely has; None where only the model is asked.
        reads: paths of all fields that `rendering` and `tags` read; None where that is not known.
        min_probability: least P(code given product) that is stored, 0 to 1.
        max_codes: most codes per document.
        cache_entries: most texts whose codes are remembered; 0 switches the cache off.
        concurrency: most texts that wait for the model at once, over all callers.
    """

    rendering: Rendering
    tags: Tags | None = None
    reads: tuple[str, ...] | None = None
    min_probability: float = 0.02
    max_codes: int = MAX_PRODUCT_CODES
    cache_entries: int = 50_000
    concurrency: int = 128

    @property
    def read(self) -> tuple[str, ...] | None:
        """Paths of all fields that a product's codes depend on; None where that is not known."""
        return self.rendering.fields if self.reads is None and self.tags is None else self.reads


@dataclass(frozen=True)
class Patience:
    """How long products wait for a model that is slow, and how soon one that is down is left alone.

    Args:
        total_s: longest that one call waits, in seconds; None waits as long as codes come.
        stall_s: time in seconds without a single code from the model after which waiting ends.
        failures: calls in a row without a single code, where the model is to blame, that open the breaker.
        pause_s: time in seconds until an open breaker tries the model again.
    """

    total_s: float | None = 30.0
    stall_s: float = 5.0
    failures: int = 3
    pause_s: float = 5.0


@dataclass(frozen=True)
class Coded:
    """The `gram` object of one document; `reason` says why it has no codes, None where it was coded.

    `said` is what the model, or the rendering, said of the document itself; empty where it is not to blame.
    `text` is what `replacing` makes of `gram`, as JSON, for whoever writes it; empty where it was not made.
    """

    gram: Mapping[str, Any]
    reason: Reason | None = None
    said: str = ""
    text: bytes = field(default=b"", compare=False)


@dataclass(frozen=True)
class Reading:
    """What a product would be coded from: hash of its text, whether there is any, and the codes that it surely has."""

    hash: str
    has_text: bool
    sure: tuple[Code, ...]


@dataclass(frozen=True)
class _Failure:
    """Why a text has no codes, and what the model said of it."""

    reason: Reason
    said: str = ""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A product that was coded before: hash of its text, whether that has words, and its `gram` object as JSON."""

    hash: str
    has_words: bool
    text: bytes


Codes = tuple[ScoredCode, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    """The codes that the model wrote for a text, likeliest first, how likely they are, and when that was."""

    found: tuple[Code, ...]
    likely: array[float]
    at: datetime

    @classmethod
    def of(cls, codes: Codes, at: datetime) -> _Written:
        """As little of the codes as has to be remembered for each of many texts."""
        return cls(tuple(item.code for item in codes), array("d", (item.probability for item in codes)), at)

    @property
    def codes(self) -> Codes:
        """The codes with their probabilities."""
        return tuple(map(ScoredCode, self.found, self.likely))


Answer = _Written | _Failure


class How(StrEnum):
    """Where the codes of a text came from; `JOINED` are those of an equal text of the same request."""

    CACHED = "cached"
    JOINED = "joined"
    DECODED = "decoded"


def utc_now() -> datetime:
    """The time that `gram.at` gets."""
    return datetime.now(UTC)


class Coder:
    """Codes products through a batcher; never raises for one product, marks it pending instead.

    Args:
        batcher: the running batcher of the model; None where there is no model, so every product is pending.
        rules: what is rendered and what is kept.
        patience: how long to wait for the model.
        clock: gives the time for `gram.at`.
        count: told of each call how many of its texts got codes, by where these came from.
    """

    def __init__(
        self,
        batcher: Batcher | None,
        rules: CodingRules,
        patience: Patience | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        count: Callable[[How, int], object] = lambda how, number: None,
    ) -> None:
        self._batcher = batcher
        self._rules = rules
        self._patience = patience or Patience()
        self._clock = clock
        self._count = count
        self._ready: LatestCache[bytes, _Ready] = LatestCache(rules.cache_entries)
        self._reader = Reader(rules.rendering, rules.tags, rules.read, rules.cache_entries)
        self._cache: LatestCache[str, _Written] = LatestCache(rules.cache_entries)
        self._places = asyncio.Semaphore(rules.concurrency)
        self._breaker = Breaker(self._patience.failures, self._patience.pause_s)
        self._answered_at = 0.0
        self._last_failed: str | None = None  # hash of the text that failed last, None where a code came since

    @property
    def rendering(self) -> Rendering:
        """The fields that are read."""
        return self._rules.rendering

    @property
    def names(self) -> tuple[str, ...] | None:
        """The keys of a document below which something is read; None where that is not known."""
        return self._reader.names

    def pending(self) -> Mapping[str, Any]:
        """The `gram` object of a document that has to be indexed again for its codes."""
        return pending_object(self._clock())

    async def code_products(self, sources: Sequence[Mapping[str, Any]]) -> list[Coded]:
        """One `gram` object per product, in order; equal texts ask the model once, known texts never."""
        batcher = self._batcher
        if batcher is None:
            return [Coded(self.pending(), Reason.NO_MODEL) for _ in sources]
        found = await asyncio.to_thread(self._look, sources, batcher.generation)
        ready = [product for product in found if isinstance(product, _Ready)]
        texts = [text for text in found if isinstance(text, Text)]
        known = {text.hash: codes for text in texts if (codes := self._cache.get(text.hash)) is not None}
        missing = {text.hash: text for text in texts if text.hash not in known}
        has_codes = {*known, *(product.hash for product in ready if product.has_words)}
        answers = {**known, **await self._ask(missing, batcher, known=len(has_codes))}
        self._tell(ready, texts, known.keys(), answers)
        return [self._coded(product, answers, batcher.generation) for product in found]

    async def read_products(self, sources: Sequence[Mapping[str, Any]]) -> list[Reading | None]:
        """What `code_products` would read of each product, in order; None for one that it cannot. Asks no model."""
        generation = self._batcher.generation if self._batcher else ""
        texts = await asyncio.to_thread(self._read, sources, generation)
        return [
            Reading(text.hash, bool(text.rendered), text.tags) if isinstance(text, Text) else None for text in texts
        ]

    def _tell(
        self, ready: Sequence[_Ready], texts: Sequence[Text], cached: Collection[str], answers: Mapping[str, Answer]
    ) -> None:
        """Counts where the codes of texts came from; what has no words needs none."""
        hashes = [text.hash for text in texts if text.rendered and not isinstance(answers[text.hash], _Failure)]
        hits = sum(key in cached for key in hashes)
        decoded = len(set(hashes) - set(cached))
        joined = len(hashes) - hits - decoded
        hits += sum(product.has_words for product in ready)
        for how, number in ((How.CACHED, hits), (How.DECODED, decoded), (How.JOINED, joined)):
            self._count(how, number)

    def _look(self, sources: Sequence[Mapping[str, Any]], generation: str) -> list[_Ready | Text | Unreadable]:
        at = self._clock()
        return [self._found(source, generation, at) for source in sources]

    def _found(self, source: Mapping[str, Any], generation: str, at: datetime) -> _Ready | Text | Unreadable:
        key = self._reader.key_of(source)
        ready = None if key is None else self._ready.get(key)
        return ready or self._reader.read(source, generation, at, key)

    def _read(self, sources: Sequence[Mapping[str, Any]], generation: str) -> list[Text | Unreadable]:
        at = self._clock()
        return [self._reader.read(source, generation, at, self._reader.key_of(source)) for source in sources]

    async def _ask(self, missing: Mapping[str, Text], batcher: Batcher, *, known: int) -> dict[str, Answer]:
        """Codes, or the reason why there are none, by source hash; the request has `known` further texts with codes."""
        empty: dict[str, Answer] = {key: _Written.of((), text.at) for key, text in missing.items() if not text.rendered}
        asked = {key: text for key, text in missing.items() if text.rendered}
        if not asked:
            return empty
        if not self._breaker.allows():
            return {**empty, **dict.fromkeys(asked, _Failure(Reason.BREAKER))}
        answers: dict[str, Answer] = {}
        texts = iter(asked.values())
        # One large bulk takes at most a share of the places, so that a single document gets one beside it.
        share = min(len(asked), max(1, self._rules.concurrency // 4))
        workers = [asyncio.create_task(self._work(texts, batcher, answers)) for _ in range(share)]
        try:
            await self._wait(workers)
        finally:
            for worker in workers:
                worker.cancel()  # a finished task does not mind
            await asyncio.gather(*workers, return_exceptions=True)
            answers = {**dict.fromkeys(asked, _Failure(Reason.TIMEOUT)), **answers}
            is_outage = _is_outage(answers.values(), known)
            self._judge(answers, known, is_outage=is_outage)
            answers = _without_blame(answers) if is_outage else answers
        for worker in workers:
            if not worker.cancelled():
                worker.result()  # a defect of ours is not taken for a slow model
        return {**empty, **answers}

    async def _work(self, texts: Iterator[Text], batcher: Batcher, answers: dict[str, Answer]) -> None:
        """Asks the model for one text after another of those that its colleagues leave."""
        for text in texts:
            answers[text.hash] = await self._codes_of(text, batcher)

    async def _wait(self, workers: Iterable[asyncio.Task[None]]) -> None:
        """Until all have ended, or the total is up, or the model has not given a code for a while."""
        loop = asyncio.get_running_loop()
        started, total_s = loop.time(), self._patience.total_s
        waiting = set(workers)
        while waiting:
            stalled_at = max(started, self._answered_at) + self._patience.stall_s
            end = stalled_at if total_s is None else min(stalled_at, started + total_s)
            if loop.time() >= end:
                return
            _, waiting = await asyncio.wait(waiting, timeout=end - loop.time())

    def _judge(self, answers: Mapping[str, Answer], known: int, *, is_outage: bool) -> None:
        """Tells the breaker: one code is a success, and silence is a failure, even because the caller left.

        Errors are one where texts cannot be to blame: on most of a request, or on one text after another alone.
        """
        failed = {key for key, answer in answers.items() if _reason_of(answer) is Reason.MODEL}
        in_a_row = self._last_failed is not None and not known and bool(failed - {self._last_failed})
        if any(not isinstance(answer, _Failure) for answer in answers.values()):
            self._last_failed = None
            self._breaker.succeeded()
            return
        if is_outage or in_a_row or any(_reason_of(answer) is Reason.TIMEOUT for answer in answers.values()):
            self._breaker.failed()
        else:
            self._breaker.abandoned()
        self._last_failed = next(iter(failed), self._last_failed)

    async def _codes_of(self, text: Text, batcher: Batcher) -> Answer:
        try:
            async with self._places:
                scored = await batcher.codes(text.rendered, Role.PRODUCT)
        except OverloadError:
            return _Failure(Reason.OVERLOAD)
        except GramError as error:
            return _Failure(Reason.MODEL, str(error))
        self._answered_at = asyncio.get_running_loop().time()
        written = _Written.of(select_codes(scored, self._rules), self._clock())
        self._cache.put(text.hash, written)
        return written

    def _coded(self, found: _Ready | Text | Unreadable, answers: Mapping[str, Answer], generation: str) -> Coded:
        if isinstance(found, Unreadable):
            return self._failed(_Failure(Reason.UNREADABLE, found.said))
        if isinstance(found, _Ready):
            return Coded(_gram_of(found.text), text=found.text)
        answer = answers[found.hash]
        if isinstance(answer, _Failure):
            return self._failed(answer)
        codes = combined(found.tags, answer.codes, self._rules.max_codes)
        # The same codes get the same time, so that OpenSearch finds nothing new in an update that is sent again.
        gram = gram_object(codes, generation, found.hash, max(found.at, answer.at))
        text = json_bytes(replacing(gram))
        if found.key is not None:
            self._ready.put(found.key, _Ready(found.hash, bool(found.rendered), text))
        return Coded(gram, text=text)

    def _failed(self, failure: _Failure) -> Coded:
        return Coded(self.pending(), failure.reason, failure.said)


def _reason_of(answer: Answer) -> Reason | None:
    return answer.reason if isinstance(answer, _Failure) else None


def _is_outage(answers: Collection[Answer], known: int) -> bool:
    """Whether the model is to blame: it failed on all of several texts, and they are most of those of their request.

    Where most have codes from earlier, the few that are left over are those that it never could take.
    """
    reasons = {_reason_of(answer) for answer in answers}
    return len(answers) > max(1, known) and None not in reasons and Reason.MODEL in reasons


def _without_blame(answers: Mapping[str, Answer]) -> dict[str, Answer]:
    return {key: _Failure(found.reason) if isinstance(found, _Failure) else found for key, found in answers.items()}


def _gram_of(text: bytes) -> Mapping[str, Any]:
    """What `gram_object` had made: the inverse of `replacing`."""
    whole: dict[str, Any] = json.loads(text)
    weights = whole.pop("weights")
    return {**whole, "weights": weights[0]} if weights else whole


def combined(tags: Sequence[Code], written: Sequence[ScoredCode], most: int) -> Codes:
    """The codes that a product surely has, with weight 1, and those that the model adds; at most `most`.

    Where there are more, those that it surely has come first, and among them those that the model finds likeliest.
    """
    likely = {item.code: item.probability for item in written}
    sure = set(tags)
    ranked = sorted(likely.keys() | sure, key=lambda code: (code not in sure, -likely.get(code, 0.0), code.text))
    return tuple(ScoredCode(code, 1.0 if code in sure else likely[code]) for code in ranked[:most])


def select_codes(scored: Sequence[ScoredCode], rules: CodingRules) -> Codes:
    """The codes that are stored: likely enough, the likeliest first, each once, at most `max_codes`."""
    likely = {item.code: item for item in reversed(scored) if item.probability >= max(rules.min_probability, 1e-6)}
    ranked = sorted(likely.values(), key=lambda item: (-item.probability, item.code.text))
    return tuple(ranked[: rules.max_codes])
