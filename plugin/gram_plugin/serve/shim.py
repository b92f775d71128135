"""The query shim: an ASGI app that stands before OpenSearch and adds codes to its searches.

What is no search goes through byte for byte. A search goes through too, with or without codes, and the
header `x-gram-status` tells which.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gram_plugin.contract.codes import Generator
from gram_plugin.errors import GramError, SearchError
from gram_plugin.serve.bodies import RequestBody, beside_others, in_time, read_body, readable
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.enriching import Decision, Enricher
from gram_plugin.serve.exchange import Asked, Exchange, Route
from gram_plugin.serve.explaining import explained
from gram_plugin.serve.hangup import CancelOnHangup
from gram_plugin.serve.health import Health, ShimMetrics
from gram_plugin.serve.http import RelayedResponse, Upstream, raw_target, upstream_error
from gram_plugin.serve.indices import Indices
from gram_plugin.serve.model import Model, Serving
from gram_plugin.serve.renewal import Renewal, Source, Trace
from gram_plugin.serve.rewriting import Rewriter
from gram_plugin.serve.searches import (
    Item,
    Search,
    Target,
    items_of,
    may_hold_gram,
    target_of,
    wishes_of,
)
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.status import HEADER, NotEnriched, Outcome, Reason, Status, degraded, off, summary
from gram_plugin.serve.switch import Switch
from gram_plugin.serve.templates import Templates

LOG = logging.getLogger(__name__)

CODES_HEADER = b"x-gram-codes"
MAX_CODES_HEADER_BYTES = 2000
"""A proxy in front makes a 502 of headers that are larger than its buffer; `ext.gram` has every code."""


@dataclass(frozen=True)
class Parts:
    """What one shim is made of; nothing of it is global."""

    settings: ShimSettings
    upstream: Upstream
    serving: Serving
    indices: Indices
    enricher: Enricher
    switch: Switch
    metrics: ShimMetrics
    health: Health
    clock: Clock


def create_shim(
    settings: ShimSettings,
    generator: Generator | None,
    *,
    reopen: Callable[[], Generator] | None = None,
    opened: Trace | None = None,
    clock: Clock = time.monotonic,
) -> Starlette:
    """The shim as an ASGI app; without a generator it is a proxy that says `degraded; reason=no-model`.

    Args:
        settings: where OpenSearch is, and the bounds.
        generator: the model, called from one thread at a time.
        reopen: opens the bundle of the settings again when it has changed; without it the model stays.
        opened: trace of the bundle from before `generator` was opened, so that a change since then is noticed.
        clock: seconds that never run backwards.
    """
    parts = _parts(settings, generator, clock)
    shim, renewal = Shim(parts), _renewal(parts, reopen, opened)
    rewriter = Rewriter(settings, parts.enricher, lambda: parts.switch.is_off, parts.metrics, clock)
    app = Starlette(
        routes=[*parts.health.routes(), rewriter.route()],
        middleware=[Middleware(CancelOnHangup)],
        lifespan=lambda _: _running(parts, renewal),
    )
    app.state.on_signal = _on_signal(parts.switch, renewal)
    app.router.redirect_slashes = False
    app.router.default = shim
    return app


HEEDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a shim answers to: a new bundle, off, on."""


def _on_signal(switch: Switch, renewal: Renewal | None) -> Mapping[signal.Signals, Callable[[], None]]:
    """What signals to the process do; a bundle that is not watched is told of in the log."""
    reload = renewal.ask if renewal else lambda: LOG.warning("SIGHUP: no bundle is set, nothing to open again")
    return dict(zip(HEEDED, (reload, switch.off, switch.on), strict=True))


class Shim:
    """Everything but the shim's own endpoints: searches are enriched, all else is relayed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request as ASGI."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        target = target_of(request.method, raw_target(request).partition(b"?")[0], request.scope["query_string"])
        if target is None:
            return await self._parts.upstream.forward(request)
        body = await read_body(request, self._settings.max_body_bytes)
        arrived_s = self._parts.clock()
        try:
            text = self._text(request, body)
            items = await self._items(request, target, text, arrived_s)
        except NotEnriched as end:
            return await self._untouched(request, target, body, end.status)
        return await self._search(Asked(request, target.kind, body, text, arrived_s), target, items)

    async def _items(self, request: Request, target: Target, text: bytes, arrived_s: float) -> list[Item]:
        wishes = wishes_of(request.headers, self._settings)
        if target.kind.is_template and not self._parts.switch.is_off:
            has_model = bool(self._parts.serving.model.generation)
            templates = Templates(self._parts.upstream, self._parts.clock, has_model=has_model)
            return await templates.items_of(text, target, wishes, request.headers.raw, arrived_s)
        deadline = Deadline(arrived_s + wishes.budget_ms / 1000, self._parts.clock)
        if may_hold_gram(text):  # which is to be taken out, however long that takes
            return await beside_others(len(text), lambda: items_of(text, target, wishes, deadline))
        try:
            return await in_time(len(text), lambda: items_of(text, target, wishes, deadline), deadline)
        except TimeoutError:
            raise NotEnriched(degraded(Reason.LATE)) from None

    def _text(self, request: Request, body: RequestBody) -> bytes:
        """The body as JSON text, or why this request stays untouched."""
        if body.content is None:
            raise NotEnriched(off(Reason.TOO_LARGE))
        return readable(body.content, request.headers, self._settings.max_body_bytes)

    async def _untouched(self, request: Request, target: Target, body: RequestBody, status: Status) -> Response:
        self._record(target, [Decision(status)], status, [])
        return await self._parts.upstream.forward(
            request, body=body.untouched, extra_response_headers=[(HEADER, status.header())]
        )

    async def _search(self, asked: Asked, target: Target, items: list[Item]) -> Response:
        if self._parts.switch.is_off:
            items = [replace(item, wanted=off(Reason.SWITCH)) for item in items]
        route = Route(self._parts.upstream, self._parts.metrics.upstream)
        exchange = Exchange(route, self._parts.enricher, asked, self._parts.clock)
        try:
            done = await exchange.run(items, self._settings.rescue_below)
        except SearchError as error:
            status = degraded(Reason.UPSTREAM)
            self._record(target, [Decision(status)] * len(items), status, items)
            return upstream_error(error, [(HEADER, status.header())])
        status = summary([decision.status for decision in done.decisions])
        self._record(target, done.decisions, status, items)
        headers = _headers(status, items, done.decisions, with_codes=done.stream.status == 200)
        if not target.kind.is_multi and items[0].explain:
            return await explained(done, items[0], target, headers)
        return RelayedResponse(done.stream, headers)

    def _record(self, target: Target, decisions: Sequence[Decision], status: Status, items: Sequence[Item]) -> None:
        """Counts every search and writes one log line for the request."""
        for decision in decisions:
            self._parts.metrics.count(decision.status)
        if LOG.isEnabledFor(logging.INFO):
            fields = _line(target, decisions, status, items, self._settings.log_queries)
            LOG.info("search %s", status.outcome, extra={"fields": fields})


def _headers(
    status: Status, items: Sequence[Item], decisions: Sequence[Decision], *, with_codes: bool
) -> list[tuple[bytes, bytes]]:
    """Headers of ours; codes go only with an answer that shows that the caller was let in."""
    applied = sum(decision.status.outcome is Outcome.APPLIED for decision in decisions)
    counts = f"{applied}/{len(items)}" if len(items) > 1 else ""
    headers = [(HEADER, status.header(counts))]
    if with_codes and len(items) == 1 and items[0].explain:
        headers.append((CODES_HEADER, _shown_codes(decisions[0])))
    return headers


def _shown_codes(decision: Decision) -> bytes:
    """`type=sofa|colour=red;p=0.930, type=sofa;p=0.800`, percent-encoded where ASCII ends; the best that have room."""
    shown = b""
    for scored in decision.codes:
        code = f"{quote(scored.code.text, safe='=|%')};p={scored.probability:.3f}".encode("ascii")
        longer = b", ".join([shown, code]) if shown else code
        if len(longer) > MAX_CODES_HEADER_BYTES:
            break
        shown = longer
    return shown


def _line(
    target: Target, decisions: Sequence[Decision], status: Status, items: Sequence[Item], with_queries: bool
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "event": "search",
        "endpoint": str(target.kind),
        "index": target.names.expression,
        "status": str(status.outcome),
        "reason": str(status.reason or ""),
        "searches": len(decisions),
        "codes": sum(len(decision.codes) for decision in decisions),
    }
    if with_queries:
        line["queries"] = [item.wanted.text for item in items if isinstance(item.wanted, Search)]
    return line


def _parts(settings: ShimSettings, generator: Generator | None, clock: Clock) -> Parts:
    upstream = Upstream(
        settings.upstream_url,
        connect_timeout_s=settings.connect_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        max_connections=settings.max_connections,
        ca_file=settings.ca_file,
        verify_tls=settings.verify_tls,
    )
    switch = Switch(settings.off_file)
    health = Health(lambda: {**serving.model.state(), "switched_off": switch.is_off})
    metrics = ShimMetrics(health.registry)
    metrics.switched_off.set_function(lambda: float(switch.is_off))
    serving = Serving(Model.of(generator, settings, metrics, clock))
    indices = Indices(upstream, settings.calibration_age_s, clock)
    enricher = Enricher(settings, serving, indices, clock)
    return Parts(settings, upstream, serving, indices, enricher, switch, metrics, health, clock)


def _renewal(parts: Parts, reopen: Callable[[], Generator] | None, opened: Trace | None) -> Renewal | None:
    settings = parts.settings
    if settings.bundle is None or reopen is None:
        return None

    def make(generator: Generator) -> Model:
        return Model.of(generator, settings, parts.metrics, parts.clock)

    source = Source(settings.bundle, reopen, make)
    return Renewal(source, parts.serving, parts.metrics, opened=opened, check_s=settings.bundle_check_s)


@asynccontextmanager
async def _running(parts: Parts, renewal: Renewal | None) -> AsyncIterator[None]:
    await parts.upstream.start()
    await parts.serving.model.start()
    tasks = [asyncio.create_task(_warm_up(parts)), *([asyncio.create_task(renewal.run())] if renewal else [])]
    try:
        yield
    finally:
        parts.health.ready = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.indices.close()
        await parts.serving.model.stop()
        await parts.upstream.close()


async def _warm_up(parts: Parts) -> None:
    """Decodes once and then reports ready; searches are answered meanwhile, if need be without codes.

    A model that fails here is as harmless as one that fails later, so the shim is ready all the same.
    """
    try:
        await parts.serving.model.warm_up()
    except (GramError, TimeoutError) as error:
        LOG.warning("the model failed at the start, searches stay lexical until it recovers: %s", error)
    parts.health.ready = True
