"""The sidecar: an OpenSearch address for writers that adds codes to the documents on their way in.

`_bulk`, `_doc`, `_create` and `_update` are read; everything else passes byte for byte. The answer is
OpenSearch's own, with the header `x-gram-status`. A model that is down never stops indexing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gram_plugin.contract.codes import Generator, Role
from gram_plugin.errors import GramError, OverloadError, SearchError
from gram_plugin.serve.admission import Admission, Share, SlowBodyError, TooLargeError
from gram_plugin.serve.batching import STOP_S
from gram_plugin.serve.coding import Coder, CodingRules, Patience, Reason
from gram_plugin.serve.delivery import Retrying
from gram_plugin.serve.fields import FieldCheck, may_change_fields
from gram_plugin.serve.hangup import CancelOnHangup
from gram_plugin.serve.health import Health
from gram_plugin.serve.held import HeldWork
from gram_plugin.serve.http import (
    RelayedResponse,
    Upstream,
    UpstreamStream,
    UpstreamUnconnected,
    error_response,
    header,
    inflated,
    raw_target,
    upstream_error,
)
from gram_plugin.serve.marking import Marker
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.poison import PoisonFile
from gram_plugin.serve.preparing import Poison, Prepared, Preparer, UnreadyError
from gram_plugin.serve.productcodes import product_batcher
from gram_plugin.serve.scripts import Scripted, changed_of, is_changed
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.status import HEADER
from gram_plugin.serve.targets import Target, find_target
from gram_plugin.serve.unpacking import unpack

_log = logging.getLogger(__name__)

_RETRY_AFTER_S = b"1"
_WARM_UP_S = 30.0
_BODIES = 4  # bodies of the largest size that fit beside each other
_READ_BYTES = 1 << 24  # of an answer that is looked into; its items count in the lines of their request
_MARKING = Retrying(tries=5, first_s=0.2, longest_s=2.0)  # a writer waits for it
_LINE_BYTES = 256  # what a parsed line takes at least, however short it is


class SidecarMetrics:
    """Counters of the sidecar."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.documents = Counter(
            "gram_documents", "Documents by what became of them", ["outcome", "reason"], registry=registry
        )
        self.refused = Counter("gram_refused", "Write requests refused for lack of room", ["status"], registry=registry)
        self.coding = Histogram(
            "gram_coding_seconds", "Time that a write request waited for its codes", registry=registry
        )
        self.texts = Counter(
            "gram_product_codes", "Texts that got codes, by where these came from", ["how"], registry=registry
        )
        self.letters = Counter(
            "gram_dead_letters",
            "Documents that the model could not take, by their letter",
            ["outcome"],
            registry=registry,
        )
        self.bodies = Gauge("gram_body_bytes", "Bytes that the bodies in memory count", registry=registry)

    def count(self, prepared: Prepared) -> None:
        """Adds what became of one request's documents."""
        self.documents.labels("coded", "").inc(prepared.coded)
        for reason, number in prepared.uncoded.items():
            self.documents.labels("uncoded", reason).inc(number)


class Sidecar:
    """One running sidecar; `create_sidecar` makes the program around it.

    Args:
        settings: of the program.
        generator: the model; None lets every document go in without codes, as pending.
        rules: what is rendered and what is kept of the codes.
    """

    def __init__(self, settings: SidecarSettings, generator: Generator | None, rules: CodingRules) -> None:
        self._settings = settings
        self.upstream = Upstream(
            settings.upstream_url,
            connect_timeout_s=settings.connect_timeout_s,
            request_timeout_s=settings.request_timeout_s,
            max_connections=settings.max_connections,
            ca_file=settings.ca_file,
            verify_tls=settings.verify_tls,
        )
        self.batcher = product_batcher(generator, rules, settings) if generator else None
        self.health = Health(lambda: {"generation": generator.generation if generator else None})
        self._metrics = SidecarMetrics(self.health.registry)
        self._fields = FieldCheck(self.upstream, max_age_s=settings.mapping_age_s)
        patience = Patience(total_s=settings.coding_timeout_s, stall_s=settings.stall_timeout_s)
        count = self._metrics.texts
        coder = Coder(self.batcher, rules, patience, count=lambda how, number: count.labels(how).inc(number))
        self._preparer = Preparer(coder, self._fields, mark_scripts=settings.mark_scripts)
        self._marker = Marker(self.upstream, coder.pending, _MARKING)
        path = settings.dead_letters
        self._held = HeldWork()
        self._poison = PoisonFile(path, settings.max_dead_letter_bytes) if path else None
        self._admission = Admission(
            max_body_bytes=settings.max_body_bytes,
            max_total_bytes=_BODIES * settings.max_body_bytes,
            max_requests=settings.max_connections,
            max_documents=settings.max_queue,
            read_timeout_s=settings.request_timeout_s or None,
        )
        self._metrics.bodies.set_function(lambda: self._admission.total_bytes)

    @asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        """Holds connections and the model's thread while the program runs."""
        async with self.upstream:
            if self.batcher:
                await self.batcher.start()
            warming = asyncio.create_task(self._warm_up())
            try:
                yield
            finally:
                self.health.ready = False
                warming.cancel()
                await asyncio.gather(warming, return_exceptions=True)
                await self._fields.close()
                # Beside each other: the program has little time beyond that of its running requests.
                await asyncio.gather(self._held.end(STOP_S), self.batcher.stop() if self.batcher else asyncio.sleep(0))

    async def _warm_up(self) -> None:
        """Codes once and then reports ready; documents are taken meanwhile, and a model that fails here stops none."""
        try:
            if self.batcher:
                async with asyncio.timeout(_WARM_UP_S):
                    await self.batcher.codes("warm up", Role.PRODUCT)
        except (GramError, TimeoutError) as error:
            _log.warning("the model failed at the start, documents go in without codes until it recovers: %r", error)
        self.health.ready = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request as ASGI."""
        try:
            response = await self.answer(Request(scope, receive))
        except ClientDisconnect:
            return  # nobody reads it
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """OpenSearch's answer to any request; a write has its documents coded first."""
        path = raw_target(request).partition(b"?")[0].decode("latin-1")
        target = find_target(request.method, path)
        if target is None:
            return await self._pass(request, path)
        try:
            return await self._write(request, target)
        except TooLargeError as error:
            self._metrics.refused.labels("413").inc()
            return error_response(413, "content_too_long_exception", str(error))
        except UnreadyError as error:
            self._metrics.refused.labels("503").inc()
            return error_response(503, "gram_upstream_exception", str(error), [(b"retry-after", _RETRY_AFTER_S)])
        except SlowBodyError as error:
            self._metrics.refused.labels("408").inc()
            # What may still come of the body must not be read as the next request.
            return error_response(408, "request_timeout_exception", str(error), [(b"connection", b"close")])
        except OverloadError as error:
            self._metrics.refused.labels("429").inc()
            return error_response(429, "rejected_execution_exception", str(error), [(b"retry-after", _RETRY_AFTER_S)])

    async def _pass(self, request: Request, path: str) -> Response:
        response = await self.upstream.forward(request)
        if may_change_fields(request.method, path):
            self._fields.forget()
        return response

    async def _write(self, request: Request, target: Target) -> Response:
        headers = request.headers.raw
        async with self._admission.admit(request) as share:
            prepared = await self._prepared(target, share, headers)
            if prepared.body is not share.body:
                headers = [pair for pair in headers if pair[0].lower() != b"content-encoding"]
            await self._report(target, prepared, request.query_params.get("routing"))
            if prepared.scripted and self._settings.mark_scripts:
                # OpenSearch may run the scripts of a client that has hung up, so their marks do not end with it.
                single = target.action is not None
                return await self._held.answer(self._run_scripts(request, headers, prepared, single=single))
            try:
                stream = await self.upstream.open(request.method, raw_target(request), headers, prepared.body)
            except SearchError as error:
                return upstream_error(error)
        return RelayedResponse(stream, [(HEADER, prepared.status.encode())])

    async def _run_scripts(self, request: Request, headers: Headers, prepared: Prepared, *, single: bool) -> Response:
        """Sends scripts on and marks what they have changed, before their writer is told of it."""
        try:
            stream = await self.upstream.open(request.method, raw_target(request), headers, prepared.body)
        except SearchError as error:
            if not isinstance(error, UpstreamUnconnected):
                self._mark_later(request, prepared.scripted, single=single)
            return upstream_error(error)
        try:
            found = await _changed(prepared, stream, single=single)
            lost = await self._mark(request, found, single=single)
        except BaseException:
            stream.close()
            raise
        return RelayedResponse(stream, [(HEADER, prepared.after_scripts(len(found) - lost, lost).status.encode())])

    def _mark_later(self, request: Request, found: Sequence[Scripted], *, single: bool) -> None:
        """Marks all, while their writer has the error: nobody knows which scripts OpenSearch has run."""
        if len(self._held) < self._settings.max_connections:
            self._held.start(self._mark(request, found, single=single))
        else:
            self._count_marks(0, len(found))

    async def _mark(self, request: Request, found: Sequence[Scripted], *, single: bool) -> int:
        """Marks products and gives the number of those that could not be marked."""
        lost = len(found)
        try:
            lost = await self._marker.mark(raw_target(request), request.headers.raw, found, single=single)
        finally:
            self._count_marks(len(found) - lost, lost)
        return lost

    def _count_marks(self, marked: int, lost: int) -> None:
        self._metrics.count(Prepared(b"", uncoded={Reason.SCRIPT: marked, Reason.UNMARKED: lost}))

    async def _prepared(self, target: Target, share: Share, headers: Headers) -> Prepared:
        unpacked = await unpack(share, headers, self._settings.max_body_bytes)
        if unpacked.reason:
            return Prepared(share.body, uncoded={unpacked.reason: 1})
        lines = unpacked.body.count(b"\n") if target.action is None else 0
        share.hold(lines * _LINE_BYTES)
        # A document of a bulk has two lines.
        with self._admission.coding(max(1, lines // 2)), self._metrics.coding.time():
            return await self._preparer.prepare(target, unpacked.body, headers)

    async def _report(self, target: Target, prepared: Prepared, routing: str | None) -> None:
        self._metrics.count(prepared)
        if prepared.poisonous:
            await self._write_letters(prepared.poisonous, routing)
        if prepared.uncoded:
            found = ", ".join(f"{number} {reason}" for reason, number in sorted(prepared.uncoded.items()))
            _log.warning(
                "write to %s: %d documents coded, without codes: %s", target.index or "_bulk", prepared.coded, found
            )

    async def _write_letters(self, found: Sequence[Poison], routing: str | None) -> None:
        written = 0
        if self._poison:
            try:
                written = await asyncio.to_thread(self._poison.add, found, routing)
            except OSError as error:  # a full disk must not stop indexing
                _log.error("the dead letters cannot be written, look at GRAM_DEAD_LETTERS: %s", error)
        self._metrics.letters.labels("written").inc(written)
        self._metrics.letters.labels("left-out").inc(len(found) - written)


async def _changed(prepared: Prepared, stream: UpstreamStream, *, single: bool) -> list[Scripted]:
    """The scripted updates that OpenSearch has run: none where it refused, all where its answer breaks off."""
    if stream.status != 200:
        return []
    try:
        body = await stream.gather(_READ_BYTES)
    except SearchError:
        return list(prepared.scripted)
    encoding = header(stream.headers, b"content-encoding")
    answer = None if body is None else inflated(encoding, body, _READ_BYTES)
    if single:
        return list(prepared.scripted) if is_changed(answer) else []
    return await asyncio.to_thread(changed_of, prepared.scripted, prepared.items, answer)


def create_sidecar(settings: SidecarSettings, generator: Generator | None, rules: CodingRules) -> Starlette:
    """The sidecar as an ASGI program; nothing of it is global and nothing runs before its lifespan.

    Args:
        settings: of the program.
        generator: the model; None lets every document go in without codes, as pending.
        rules: what is rendered and what is kept of the codes, from the bundle.
    """
    sidecar = Sidecar(settings, generator, rules)
    app = Starlette(routes=sidecar.health.routes(), lifespan=sidecar.running, middleware=[Middleware(CancelOnHangup)])
    # No pattern of a route takes every path and every method that OpenSearch may know.
    app.router.redirect_slashes = False
    app.router.default = sidecar
    return app
