"""One search request with OpenSearch: enriched first, lexical when that is refused, a second time to rescue."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import Histogram
from starlette.requests import Request

from gram_plugin.errors import SearchError
from gram_plugin.search.query import needs_rescue
from gram_plugin.serve.bodies import RequestBody
from gram_plugin.serve.enriching import Decision, Enricher
from gram_plugin.serve.http import Body, Upstream, UpstreamStream, header, inflated, raw_target
from gram_plugin.serve.searches import Item, Kind, render_items
from gram_plugin.serve.status import Reason, degraded, off

MAX_CHECKED_BYTES = 4_000_000
"""Largest answer that is looked into; a larger one goes on unseen."""

# What an added clause can cause. 429, 401, 503 and the like would meet the lexical search as well.
_REFUSALS = frozenset({400, 413, 500})
_FAILED_SHARDS = re.compile(rb'"_shards"\s*:\s*\{[^{}\[\]]*"failed"\s*:\s*[1-9]')
_TROUBLE = re.compile(rb'"error"|"failed"\s*:\s*[1-9]')


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


class Exchange:
    """One client's search request. `text` is its body unzipped, `original` what came over the wire."""

    def __init__(
        self,
        route: Route,
        enricher: Enricher,
        request: Request,
        kind: Kind,
        original: RequestBody,
        text: bytes,
    ) -> None:
        self._route = route
        self._enricher = enricher
        self._request = request
        self._kind = kind
        self._original = original
        self._text = text
        self._opened: list[UpstreamStream] = []

    async def run(self, items: Sequence[Item], rescue_below: int) -> Exchanged:
        """Sends the searches and falls back to the lexical ones wherever codes would do harm.

        Raises:
            SearchError: OpenSearch gave no answer.
        """
        try:
            return await self._run(items, rescue_below)
        except BaseException:  # a hang-up too: no answer may be left open
            for stream in self._opened:
                stream.close()
            raise

    async def _run(self, items: Sequence[Item], rescue_below: int) -> Exchanged:
        decisions = await self._enricher.decide(items, self._request.headers.raw)
        stream = await self._send(items, decisions)
        if await self._is_refused(stream, decisions):
            stream.close()
            decisions = [_refused(decision, also=decision.rescue) for decision in decisions]
            return Exchanged(await self._send(items, decisions), decisions)
        if any(decision.rescue for decision in decisions):
            return await self._rescue(items, Exchanged(stream, decisions), rescue_below)
        return Exchanged(stream, decisions)

    async def _rescue(self, items: Sequence[Item], first: Exchanged, below: int) -> Exchanged:
        """Searches again with codes for what was found too rarely; the first answer stays when that fails."""
        answers = await self._answers(first.stream, len(items))
        if answers is None:
            return replace(first, decisions=[_unreadable(decision) for decision in first.decisions])
        thin = [
            at for at, decision in enumerate(first.decisions) if decision.rescue and needs_rescue(answers[at], below)
        ]
        found = await self._enricher.rescue([items[at] for at in thin], self._request.headers.raw)
        decisions = list(first.decisions)
        for at, decision in zip(thin, found, strict=True):
            decisions[at] = decision
        if not any(decision.enriched for decision in found):
            return Exchanged(first.stream, decisions)
        return await self._second(items, first.stream, decisions)

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
        bodies = [decision.enriched or item.lexical for item, decision in zip(items, decisions, strict=True)]
        content = render_items(items, bodies, self._kind)
        headers, target = self._request.headers.raw, raw_target(self._request)
        body: Body = content
        if content == self._text:
            body = self._original.untouched
        else:
            headers = [pair for pair in headers if pair[0] != b"content-encoding"]
        with self._route.seconds.time():
            stream = await self._route.upstream.open(self._request.method, target, headers, body)
        self._opened.append(stream)
        return stream

    async def _is_refused(self, stream: UpstreamStream, decisions: Sequence[Decision]) -> bool:
        """Whether OpenSearch could not run a search as it was enriched."""
        enriched = [at for at, decision in enumerate(decisions) if decision.enriched]
        if not enriched or stream.status != 200:
            return bool(enriched) and stream.status in _REFUSALS
        encoding = header(stream.headers, b"content-encoding")
        if self._kind is Kind.SEARCH:
            start = inflated(encoding, (await stream.peek())[:4096], 1 << 20)
            return start is not None and _FAILED_SHARDS.search(start[:4096]) is not None
        answers = await self._answers(stream, len(decisions), only_if=_has_trouble)
        return answers is not None and any(_failed(answers[at]) for at in enriched)

    async def _answers(
        self, stream: UpstreamStream, count: int, only_if: Callable[[bytes], bool] = bool
    ) -> list[dict[str, Any]] | None:
        """The answers to `count` searches in order; None when they are too large, unreadable or not wanted."""
        body = await stream.gather(MAX_CHECKED_BYTES) if stream.status == 200 else None
        text = None if body is None else inflated(header(stream.headers, b"content-encoding"), body, MAX_CHECKED_BYTES)
        if text is None or not only_if(text):
            return None
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return None
        answers = [document] if self._kind is Kind.SEARCH else _responses(document)
        fits = len(answers) == count and all(isinstance(answer, dict) for answer in answers)
        return answers if fits else None


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


def _unreadable(decision: Decision) -> Decision:
    return Decision(off(Reason.UNREADABLE)) if decision.rescue else decision
