"""One search request with OpenSearch: enriched first, lexical when that is refused, a second time to rescue."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import Histogram
from starlette.requests import Request

from gram_plugin.errors import SearchError
from gram_plugin.search.explaining import POINTS_PARAMETER
from gram_plugin.search.query import needs_rescue
from gram_plugin.serve.bodies import RequestBody, beside_others
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.enriching import Decision, Enricher
from gram_plugin.serve.http import Upstream, UpstreamStream, header, inflated, raw_target
from gram_plugin.serve.outgoing import Body, Headers
from gram_plugin.serve.searches import Item, Kind, Search, render_items
from gram_plugin.serve.status import Reason, Status, degraded, off

MAX_CHECKED_BYTES = 4_000_000
"""Largest answer that is looked into; a larger one goes on unseen."""

# What an added clause can cause. 429, 401, 503 and the like would meet the lexical search as well.
_REFUSALS = frozenset({400, 413, 500})
_FAILED_SHARDS = re.compile(rb'"_shards"\s*:\s*\{[^{}\[\]]*"failed"\s*:\s*[1-9]')
_TROUBLE = re.compile(rb'"error"|"failed"\s*:\s*[1-9]')
_LOOKED_AT = frozenset({"responses", "hits", "total", "value", "timed_out", "error", "_shards", "failed"})


@dataclass(frozen=True)
class Route:
    """The way to OpenSearch, and how long it took until it began to answer."""

    upstream: Upstream
    seconds: Histogram


@dataclass(frozen=True)
class Exchanged:
    """The answer that the client gets, and what became of each search."""

    stream: UpstreamStream
    decisions: list[Decision]


@dataclass(frozen=True)
class Asked:
    """One client's search request.

    Attributes:
        request: method, URL and headers.
        kind: its endpoint.
        original: its body as it came over the wire.
        text: its body unzipped.
        arrived_s: when it was there, in seconds of the clock; budgets run from then.
    """

    request: Request
    kind: Kind
    original: RequestBody
    text: bytes
    arrived_s: float


class Exchange:
    """What is sent to OpenSearch for one request, and what comes back."""

    def __init__(self, route: Route, enricher: Enricher, asked: Asked, clock: Clock = time.monotonic) -> None:
        self._route = route
        self._enricher = enricher
        self._asked = asked
        self._headers = asked.request.headers.raw
        self._clock = clock
        self._opened: list[UpstreamStream] = []
        self._explains = False
        self._asks_points = False

    async def run(self, items: Sequence[Item], rescue_below: int) -> Exchanged:
        """Sends the searches and falls back to the lexical ones wherever codes would do harm.

        Raises:
            SearchError: OpenSearch gave no answer.
        """
        self._explains = not self._asked.kind.is_multi and items[0].explain
        self._asks_points = self._explains and not self._asked.kind.is_template  # which gives no points
        try:
            return await self._run(items, rescue_below)
        except BaseException:  # a hang-up too: no answer may be left open
            for stream in self._opened:
                stream.close()
            raise

    async def _run(self, items: Sequence[Item], rescue_below: int) -> Exchanged:
        decisions = await self._enricher.decide(items, self._headers, self._asked.arrived_s)
        stream = await self._send(items, decisions)
        answered_s = self._clock()
        if await self._is_refused(stream, decisions):
            stream.close()
            self._enricher.refused([item for item, found in zip(items, decisions, strict=True) if found.enriched])
            decisions = [_refused(decision, also=decision.rescue) for decision in decisions]
            return Exchanged(await self._send(items, decisions), decisions)
        if any(decision.rescue for decision in decisions):
            return await self._rescue(items, Exchanged(stream, decisions), rescue_below, answered_s)
        return Exchanged(stream, decisions)

    async def _rescue(self, items: Sequence[Item], first: Exchanged, below: int, since_s: float) -> Exchanged:
        """Searches again with codes for what was found too rarely; the first answer stays when that fails."""
        try:
            async with asyncio.timeout(self._patience(items, since_s).remaining_s):
                answers = await self._answers(first.stream, len(items))
        except TimeoutError:
            return _given_up(first, degraded(Reason.LATE))
        if answers is None:
            return _given_up(first, off(Reason.UNREADABLE))
        thin = [
            at for at, decision in enumerate(first.decisions) if decision.rescue and needs_rescue(answers[at], below)
        ]
        found = await self._enricher.rescue([items[at] for at in thin], self._headers, since_s)
        decisions = list(first.decisions)
        for at, decision in zip(thin, found, strict=True):
            decisions[at] = decision
        if not any(decision.enriched for decision in found):
            return Exchanged(first.stream, decisions)
        return await self._second(items, first.stream, decisions)

    def _patience(self, items: Sequence[Item], since_s: float) -> Deadline:
        """Until when lexical answers may be looked into: the largest budget of all."""
        budgets = [item.wanted.budget_ms for item in items if isinstance(item.wanted, Search)]
        return Deadline(since_s + max(budgets, default=0) / 1000, self._clock)

    async def _second(self, items: Sequence[Item], first: UpstreamStream, decisions: list[Decision]) -> Exchanged:
        try:
            second = await self._send(items, decisions)
            refused = second.status != 200 or await self._is_refused(second, decisions)
        except SearchError:
            return Exchanged(first, [_refused(decision) for decision in decisions])
        kept, dropped = (first, second) if refused else (second, first)
        dropped.close()
        return Exchanged(kept, [_refused(decision) for decision in decisions] if refused else decisions)

    async def _send(self, items: Sequence[Item], decisions: Sequence[Decision]) -> UpstreamStream:
        pairs = zip(items, decisions, strict=True)
        bodies = [item.carrying(found.enriched) if found.enriched else item.lexical for item, found in pairs]
        content = render_items(items, bodies, self._asked.kind)
        headers = self._headers
        body: Body = content
        if content == self._asked.text:
            body = self._asked.original.untouched
        else:
            headers = [pair for pair in headers if pair[0] != b"content-encoding"]
        if not (self._asks_points and any(decision.enriched for decision in decisions)):
            return await self._open(headers, body)
        stream = await self._open(headers, body, POINTS_PARAMETER)
        if stream.status == 400 and POINTS_PARAMETER.encode() in await stream.peek():
            self._asks_points = False  # an OpenSearch older than 2.12; which codes a hit has it tells all the same
            stream.close()
            stream = await self._open(headers, body)
        return stream

    async def _open(self, headers: Headers, body: Body, parameter: str = "") -> UpstreamStream:
        request = self._asked.request
        target = raw_target(request)
        if self._explains:  # an answer that is added to must be readable
            headers = [pair for pair in headers if pair[0].lower() != b"accept-encoding"]
        if parameter and parameter.encode() not in target:
            target += (b"&" if b"?" in target else b"?") + f"{parameter}=true".encode()
        with self._route.seconds.time():
            stream = await self._route.upstream.open(request.method, target, headers, body)
        self._opened.append(stream)
        return stream

    async def _is_refused(self, stream: UpstreamStream, decisions: Sequence[Decision]) -> bool:
        """Whether OpenSearch could not run a search as it was enriched."""
        enriched = [at for at, decision in enumerate(decisions) if decision.enriched]
        if not enriched or stream.status != 200:
            return bool(enriched) and stream.status in _REFUSALS
        encoding = header(stream.headers, b"content-encoding")
        if not self._asked.kind.is_multi:
            start = inflated(encoding, (await stream.peek())[:4096], 1 << 20)
            return start is not None and _FAILED_SHARDS.search(start[:4096]) is not None
        answers = await self._answers(stream, len(decisions), only_if=_has_trouble)
        return answers is not None and any(_failed(answers[at]) for at in enriched)

    async def _answers(
        self, stream: UpstreamStream, count: int, only_if: Callable[[bytes], bool] = bool
    ) -> list[dict[str, Any]] | None:
        """The answers to `count` searches in order; None when they are too large, unreadable or not wanted."""
        body = await stream.gather(MAX_CHECKED_BYTES) if stream.status == 200 else None
        if body is None:
            return None
        encoding = header(stream.headers, b"content-encoding")
        size = len(body) * (8 if encoding else 1)  # about what JSON unzips to
        answers = await beside_others(size, lambda: _read_answers(body, encoding, self._asked.kind, only_if))
        return answers if answers is not None and len(answers) == count else None


def _read_answers(
    body: bytes, encoding: bytes | None, kind: Kind, only_if: Callable[[bytes], bool]
) -> list[dict[str, Any]] | None:
    """What is looked at of each answer in a body; None when it is too large, unreadable or not wanted."""
    text = inflated(encoding, body, MAX_CHECKED_BYTES)
    if text is None or not only_if(text):
        return None
    try:
        document = json.loads(text, object_pairs_hook=_looked_at)
    except (ValueError, RecursionError):
        return None
    answers = _responses(document) if kind.is_multi else [document]
    return answers if all(isinstance(answer, dict) for answer in answers) else None


def _looked_at(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key in _LOOKED_AT}


def _responses(document: Any) -> list[Any]:
    found = document.get("responses") if isinstance(document, dict) else None
    return found if isinstance(found, list) else []


def _has_trouble(text: bytes) -> bool:
    return _TROUBLE.search(text) is not None


def _failed(answer: dict[str, Any]) -> bool:
    shards = answer.get("_shards")
    return "error" in answer or (isinstance(shards, dict) and shards.get("failed", 0) != 0)


def _refused(decision: Decision, *, also: bool = False) -> Decision:
    return Decision(degraded(Reason.REFUSED)) if decision.enriched or also else decision


def _given_up(first: Exchanged, status: Status) -> Exchanged:
    """The first answer, whose hits could not be counted."""
    return replace(first, decisions=[Decision(status) if found.rescue else found for found in first.decisions])
