"""What the shim knows of the indices that a search names: their model generation and λ, read from their mappings.

Promise 5: a look-up is made with the credentials of the caller whose search needs it. What is kept are numbers, a
generation and the names of fields that hold titles; a caller without rights is refused by OpenSearch itself when the
search arrives there, and one who is to be told what they give must have looked them up himself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gram_plugin.errors import SearchError
from gram_plugin.search.titles import title_keywords
from gram_plugin.serve.bodies import beside_others, read_plainly
from gram_plugin.serve.cache import AgedCache
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.http import Upstream, UpstreamAnswer
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.status import NEXT_STEPS, NotEnriched, Reason, Status, degraded, off

LOG = logging.getLogger(__name__)

LOOKUP_TIMEOUT_S = 10.0
MAX_MAPPING_BYTES = 16_000_000
MAX_NEGATIVE_AGE_S = 5.0
"""A finding that an operator is about to change (`gram calibrate`) is not kept longer than this."""
MAX_INDICES = 4096
TOLD_AGE_S = 3600.0
"""How long the log is silent about a command that it has named; an index is looked up every few seconds."""

_CREDENTIALS = frozenset({b"authorization", b"cookie", b"x-amz-security-token", b"x-proxy-user", b"x-proxy-roles"})
"""By these OpenSearch knows who asks, the last two behind a proxy that it trusts."""

_NOT_FOR_LOOKUPS = frozenset({b"accept", b"accept-encoding", b"range", b"if-none-match", b"if-modified-since"})


@dataclass(frozen=True)
class IndexTerms:
    """On what terms codes join a search.

    Attributes:
        generation: of the codes.
        points: λ in points of the lexical score, > 0.
        weighted: whether weights are mapped.
        titles: fields that hold a product's title as one keyword.
    """

    generation: str
    points: float
    weighted: bool
    titles: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexNames:
    """The indices of a search as its client named them: percent-encoded expression, and how to resolve it."""

    expression: str
    options: str = ""


Finding = IndexTerms | Status


@dataclass(frozen=True)
class _Question:
    """What is looked up, and on whose behalf; `caller` empty for all.

    `generation` is the one that the indices are to fit, `title` the field of products that holds their title.
    """

    names: IndexNames
    generation: str
    title: str
    caller: str

    def of_all(self) -> _Question:
        """The same for every caller."""
        return replace(self, caller="")


class Indices:
    """Terms of indices, looked up when first needed and again when they are old, never twice at one time.

    Terms that one caller found serve all; that there are none answers only the caller who was told so. Where the
    caller himself is told what follows from the terms, only those count that he was given.

    Args:
        upstream: where the mappings are.
        age_s: age at which terms are read again; until twice that age the old ones serve meanwhile.
        clock: seconds that never run backwards.
    """

    def __init__(self, upstream: Upstream, age_s: float, clock: Clock = time.monotonic) -> None:
        self._upstream = upstream
        self._age_s = age_s
        self._clock = clock
        self._shared: AgedCache[_Question, IndexTerms] = AgedCache(MAX_INDICES, clock)
        self._own: AgedCache[_Question, Finding] = AgedCache(MAX_INDICES, clock)
        self._flights: dict[_Question, asyncio.Task[Finding]] = {}
        self._told: AgedCache[tuple[IndexNames, Status], bool] = AgedCache(MAX_INDICES, clock)

    async def terms(
        self,
        names: IndexNames,
        generation: str,
        headers: Headers,
        deadline: Deadline,
        *,
        title: str = "",
        told: bool = False,
    ) -> IndexTerms:
        """Terms on which codes of a model generation join a search of these indices.

        Args:
            names: the indices.
            generation: of the model.
            headers: of the caller, with his credentials.
            deadline: until when a look-up is waited for.
            title: the field of products that holds their title; empty where it is not known.
            told: the caller will see what follows from the terms, so that only his own look-up counts.

        Raises:
            NotEnriched: there are none, or they are not known at the deadline.
        """
        question = _Question(names, generation, title, _caller(headers))
        finding = self._known_to_caller(question, headers) if told else self._known(question, headers)
        if finding is None:
            finding = await self._wait(self._look_up(question, headers), deadline)
        if isinstance(finding, Status):
            raise NotEnriched(finding)
        return finding

    async def close(self) -> None:
        """Cancels running look-ups."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _known(self, question: _Question, headers: Headers) -> Finding | None:
        shared, own = self._shared.get(question.of_all()), self._own.get(question)
        if shared is None:
            return own.value if own else None
        refused = own is not None and isinstance(own.value, Status)
        if not refused and shared.until_s - self._clock() < self._age_s:
            self._look_up(question, headers)  # still good, and refreshed for those who come after
        return shared.value

    def _known_to_caller(self, question: _Question, headers: Headers) -> Finding | None:
        own = self._own.get(question)
        if own is None:
            return None
        if isinstance(own.value, IndexTerms) and own.until_s - self._clock() < self._age_s:
            self._look_up(question, headers)
        return own.value

    def _look_up(self, question: _Question, headers: Headers) -> asyncio.Task[Finding]:
        """The running look-up of this caller, or a new one: what one may not see must not answer others."""
        if question not in self._flights:
            self._flights[question] = asyncio.create_task(self._read(question, headers))
        return self._flights[question]

    async def _wait(self, task: asyncio.Task[Finding], deadline: Deadline) -> Finding:
        try:
            async with asyncio.timeout(deadline.remaining_s):
                return await asyncio.shield(task)
        except TimeoutError:
            return degraded(Reason.LOOKUP_LATE)

    async def _read(self, question: _Question, headers: Headers) -> Finding:
        try:
            finding = await self._ask(question, headers)
        finally:
            del self._flights[question]
        if isinstance(finding, IndexTerms):
            self._shared.put(question.of_all(), finding, 2 * self._age_s)
            self._own.put(question, finding, 2 * self._age_s)
        else:
            # Field- and document-level security hide parts of a mapping: what one caller misses others may see.
            self._own.put(question, finding, min(self._age_s, MAX_NEGATIVE_AGE_S))
            self._tell(question.names, finding)
        return finding

    def _tell(self, names: IndexNames, status: Status) -> None:
        """Names in the log the command that would end this, now and then."""
        if status.reason not in NEXT_STEPS or self._told.get((names, status)):
            return
        self._told.put((names, status), True, TOLD_AGE_S)
        index, command = names.expression or "INDEX", NEXT_STEPS[status.reason]
        LOG.warning("searches of %s stay lexical, %s: run `%s %s`", index, status.reason, command, index)

    async def _ask(self, question: _Question, headers: Headers) -> Finding:
        names = question.names
        path = f"/{names.expression}/_mapping" if names.expression else "/_mapping"
        sent = [(name, value) for name, value in headers if is_for_lookup(name.lower())]
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                answer = await self._upstream.send("GET", path, names.options, sent, None, max_bytes=MAX_MAPPING_BYTES)
            return await beside_others(
                len(answer.body), lambda: finding_of(answer, question.generation, question.title)
            )
        except (SearchError, TimeoutError, ValueError, RecursionError) as error:
            LOG.warning("the mapping of %r could not be read: %r", names.expression, error)
            return degraded(Reason.LOOKUP_FAILED)


def finding_of(answer: UpstreamAnswer, generation: str, title: str = "") -> Finding:
    """Terms that hold for every index of a mapping answer, or why there are none.

    Indices with different λ share the smallest: codes then weigh too little in some, never too much.

    Raises:
        ValueError: a successful answer is no JSON object.
    """
    if answer.status in (401, 403):
        return off(Reason.FORBIDDEN)
    if answer.status >= 500 or answer.status == 429:
        return degraded(Reason.LOOKUP_FAILED)
    indices = read_plainly(answer.body) if answer.status == 200 else {}
    if not isinstance(indices, dict):
        raise ValueError("a mapping answer is no object")
    mappings = [_at(index, "mappings") for index in indices.values()]
    found = [_of_index(one, generation) for one in mappings]
    terms = [item for item in found if isinstance(item, IndexTerms)]
    if not found:
        return off(Reason.NO_MAPPING)
    if len(terms) < len(found):
        return off(Reason.MIXED) if terms else next(item for item in found if isinstance(item, Status))
    points, weighted = min(item.points for item in terms), all(item.weighted for item in terms)
    return IndexTerms(generation, points, weighted, title_keywords(mappings, title))


def _of_index(mappings: Any, generation: str) -> Finding:
    fields = _at(mappings, "properties", "gram", "properties")
    if _at(fields, "codes", "type") != "keyword":
        return off(Reason.NO_MAPPING)
    calibration = _at(mappings, "_meta", "gram", "calibration")
    points = _points(calibration)
    if points is None:
        return off(Reason.UNCALIBRATED)
    if _at(calibration, "generation") != generation:
        return off(Reason.GENERATION)
    return IndexTerms(generation, points, _at(fields, "weights", "type") == "rank_features")


def _points(calibration: Any) -> float | None:
    strength, scale = _at(calibration, "strength"), _at(calibration, "score_scale")
    if not (isinstance(strength, int | float) and isinstance(scale, int | float)):
        return None
    points = float(strength) * float(scale)
    return points if math.isfinite(points) and points > 0 else None


def _at(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _caller(headers: Headers) -> str:
    """A digest by which look-ups of different callers are told apart; credentials themselves are not kept."""
    credentials = sorted((name.lower(), value) for name, value in headers if name.lower() in _CREDENTIALS)
    return hashlib.blake2b(repr(credentials).encode(), digest_size=16).hexdigest()


def is_for_lookup(name: bytes) -> bool:
    """Whether a header of the caller, by lower-case name, goes with a question of ours on his behalf."""
    return name not in _NOT_FOR_LOOKUPS and not name.startswith((b"content-", b"if-"))
