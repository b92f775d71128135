"""`POST /v1/rewrite`: query text in, clause out, for OpenSearch's search pipelines and for programs that search alone.

Whatever goes wrong, the answer is 200 and its clause finds nothing, so that the search which it is put into stays
as it was; the answer says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gram_plugin.errors import RequestError
from gram_plugin.search.explaining import shown_codes
from gram_plugin.search.query import (
    GramExtension,
    Mode,
    code_clause,
    enrich,
    extension_of,
    find_query_text,
    take_extension,
)
from gram_plugin.serve.bodies import beside_others, read_body, readable
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.enriching import Addition, Enricher
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.indices import IndexNames
from gram_plugin.serve.searches import (
    Wishes,
    listed,
    read_json,
    reason_against,
    wishes_of,
    without_gram,
    write_json,
)
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.status import APPLIED, HEADER, NotEnriched, Reason, Status, degraded, off

LOG = logging.getLogger(__name__)

NEUTRAL: Mapping[str, Any] = {"match_none": {}}
"""The clause that changes nothing: it matches no product, and beside others in `should` it gives no points."""

KEYS = ("query", "index", "mode", "budget_ms", "explain", "body")
BODY_TIMEOUT_S = 5.0
"""A request that is not whole by then is answered as late; budgets run only from its arrival."""


@dataclass(frozen=True)
class Wanted:
    """What a caller wants: the clause for a text in some indices, and his own `body`, if he sent it, with it."""

    text: str
    names: IndexNames
    mode: Mode
    budget_ms: float
    explain: bool
    body: dict[str, Any] | None


@dataclass(frozen=True)
class Rewritten:
    """An answer: `body` as it is to be sent, None if the caller sent none; `detail` for a person.

    It was made of a request of `size` bytes.
    """

    status: Status
    body: dict[str, Any] | None
    clause: Mapping[str, Any] = field(default_factory=lambda: NEUTRAL)
    codes: list[dict[str, Any]] | None = None
    detail: str = ""
    size: int = 0

    def document(self) -> dict[str, Any]:
        """The answer as JSON."""
        document: dict[str, Any] = {"clause": self.clause, "status": str(self.status.outcome)}
        if self.status.reason is not None:
            document["reason"] = str(self.status.reason)
        more = {"detail": self.detail or None, "codes": self.codes, "body": self.body}
        return document | {key: value for key, value in more.items() if value is not None}


class Rewriter:
    """The endpoint.

    Args:
        settings: bounds, and what holds for a request that says nothing else.
        enricher: gets codes of a text and terms of indices.
        is_off: whether somebody switched codes off.
        metrics: every request counts as a search.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        settings: ShimSettings,
        enricher: Enricher,
        is_off: Callable[[], bool],
        metrics: ShimMetrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._enricher = enricher
        self._is_off = is_off
        self._metrics = metrics
        self._clock = clock

    def route(self) -> Route:
        """Where it is."""
        return Route("/v1/rewrite", self._answer, methods=["POST"])

    async def _answer(self, request: Request) -> Response:
        try:
            found = await self._rewritten(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        content, status = await beside_others(found.size, lambda: _content(found))
        self._metrics.count(status)
        line = {"event": "rewrite", "status": str(status.outcome), "reason": str(status.reason or "")}
        LOG.info("rewrite %s", status.outcome, extra={"fields": line})
        headers = {HEADER.decode(): status.header().decode()}
        return Response(content, media_type="application/json", headers=headers)

    async def _rewritten(self, request: Request) -> Rewritten:
        body: dict[str, Any] | None = None
        raw = b""
        try:
            raw = await self._read(request)
            arrived_s = self._clock()
            document = await beside_others(len(raw), lambda: _document(raw))
            body = _sent_body(document)
            wanted = wanted_of(document, wishes_of(request.headers, self._settings))
            if self._is_off():
                raise NotEnriched(off(Reason.SWITCH))
            deadline = Deadline(arrived_s + wanted.budget_ms / 1000, self._clock)
            headers = request.headers.raw
            added = await self._enricher.addition(wanted.names, wanted.text, headers, deadline, told=True)
            found = await beside_others(len(raw), lambda: rewritten(wanted, added))
            return replace(found, size=len(raw))
        except NotEnriched as end:
            return Rewritten(end.status, body, size=len(raw))
        except RequestError as error:
            return Rewritten(off(Reason.REQUEST), body, detail=str(error), size=len(raw))
        except ClientDisconnect:
            raise
        except Exception:  # the edge of one request: the search that waits for it goes on without codes
            LOG.exception("a clause could not be made")
            return Rewritten(degraded(Reason.INTERNAL), body, size=len(raw))

    async def _read(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await read_body(request, self._settings.max_body_bytes)
        except TimeoutError:
            raise NotEnriched(degraded(Reason.LATE)) from None
        if body.content is None:
            raise NotEnriched(off(Reason.TOO_LARGE))
        return readable(body.content, request.headers, self._settings.max_body_bytes)


def wanted_of(document: Mapping[str, Any], wishes: Wishes) -> Wanted:
    """What a request wants; its own keys beat the `ext.gram` of the body that it carries.

    Raises:
        RequestError: a key is unknown, or a value is of the wrong kind.
        NotEnriched: codes are not wanted, or do not fit.
    """
    unknown = sorted(set(document) - set(KEYS))
    if unknown:
        raise RequestError(f"unknown keys: {', '.join(unknown)}", next_step=f"the keys are {', '.join(KEYS)}")
    sent = document.get("body")
    if sent is not None and not isinstance(sent, dict):
        raise RequestError("body is no object", next_step="give a search body, or leave it out")
    said = extension_of({key: document[key] for key in KEYS[:-1] if key in document and key != "index"}, "request")
    body, within = take_extension(sent or {})
    within = within or GramExtension()
    mode = said.mode or within.mode or wishes.mode
    text = said.query if said.query is not None else within.query
    text = find_query_text(body) if text is None else text
    reason = _reason_against(sent, body, mode, text)
    if reason is not None:
        raise NotEnriched(off(reason))
    return Wanted(
        text=text or "",
        names=IndexNames(_expression(document.get("index"))),
        mode=mode,
        budget_ms=said.budget_ms or within.budget_ms or wishes.budget_ms,
        explain=said.explain or within.explain,
        body=None if sent is None else body,
    )


def rewritten(wanted: Wanted, added: Addition) -> Rewritten:
    """The clause of these codes, and the caller's body with it."""
    clause = code_clause(added.codes, added.generation, added.settings)
    if clause is None:
        return Rewritten(off(Reason.NO_CODES), wanted.body)
    body = wanted.body
    if body is not None:
        body = enrich(body, added.codes, added.generation, added.settings, wanted.mode, text=wanted.text)
    codes = shown_codes(added.codes, added.settings) if wanted.explain else None
    return Rewritten(APPLIED, body, clause, codes)


def _content(found: Rewritten) -> tuple[bytes, Status]:
    """The answer's bytes, and the status that they tell."""
    try:
        return write_json(found.document(), found.size), found.status
    except (ValueError, RecursionError):  # a number of the caller's body fits into no float, so it cannot be written
        found = Rewritten(off(Reason.INVALID), None)
        return write_json(found.document()), found.status


def _reason_against(sent: Any, body: Mapping[str, Any], mode: Mode, text: str | None) -> Reason | None:
    if mode is Mode.OFF:
        return Reason.MODE
    reason = None if sent is None else reason_against(body, mode)
    return reason or (None if text else Reason.NO_TEXT)


def _document(raw: bytes) -> dict[str, Any]:
    try:
        return read_json(raw)
    except (ValueError, RecursionError):
        raise NotEnriched(off(Reason.INVALID)) from None


def _sent_body(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the caller would have searched for without us."""
    body = document.get("body")
    return without_gram(body) if isinstance(body, dict) else None


def _expression(index: Any) -> str:
    names = index if isinstance(index, list) else [index]
    if index is None or names in ([], [""]):
        return ""
    if not all(isinstance(name, str) and name for name in names):
        raise RequestError("index is no name", next_step="give the name of an index or alias, or a list of names")
    return listed(names)
