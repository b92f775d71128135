"""Delivery: one chunk of documents to `_bulk`, again and again until each is taken or refused for good."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from gram_plugin.errors import SearchError
from gram_plugin.serve.http import Upstream, UpstreamAnswer, header
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.status import HEADER

_log = logging.getLogger(__name__)

_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_FAILED = 500  # of a single document: an exception while OpenSearch worked on it
_RESUME = "look at the cluster, then run the same command again: it goes on where it stopped"


@dataclass(frozen=True)
class Document:
    """One document on its way: its id, its place in the catalogue, its content."""

    id: str
    line: int
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A document that OpenSearch will never take as it is."""

    document: Document
    status: int
    type: str
    reason: str


@dataclass(frozen=True)
class Delivered:
    """What became of a chunk; `statuses` are the values of `x-gram-status` that a sidecar gave."""

    refusals: tuple[Refusal, ...] = ()
    statuses: tuple[str, ...] = ()

    def plus(self, other: Delivered) -> Delivered:
        """Both together."""
        return Delivered(self.refusals + other.refusals, self.statuses + other.statuses)


@dataclass(frozen=True)
class Retrying:
    """How often and how long a chunk is tried.

    Args:
        tries: most requests for the same documents, >= 1.
        first_s: bound of the first pause; each further one doubles it.
        longest_s: bound of any pause, but for what OpenSearch asks for itself.
        sleep: waits.
        chance: draws a pause between 0 and its bound, so that many writers do not come back at once.
    """

    tries: int = 10
    first_s: float = 0.5
    longest_s: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: random.Random = field(default_factory=random.Random)

    async def pause(self, tried: int, retry_after_s: float) -> None:
        """Waits after the `tried`-th failure, at least as long as OpenSearch asked for."""
        bound = min(self.longest_s, self.first_s * 2 ** (tried - 1))
        await self.sleep(retry_after_s + self.chance.uniform(0, bound))


class Delivery:
    """Sends chunks to one index.

    Args:
        upstream: OpenSearch or a sidecar before it.
        index: name of the index.
        headers: credentials.
        retrying: what to do about overload and outages.
    """

    def __init__(self, upstream: Upstream, index: str, headers: Headers, retrying: Retrying) -> None:
        self._upstream = upstream
        self._index_path = f"/{quote(index, safe='')}"
        self._headers = [*headers, (b"content-type", b"application/x-ndjson")]
        self._credentials = headers
        self._retrying = retrying

    async def index_uuid(self) -> str:
        """What the index has to itself and one made later under its name has not; of an alias, of all behind it.

        Empty where OpenSearch does not say: no such index yet, or no right to read settings.

        Raises:
            SearchError: OpenSearch could not be asked.
        """
        path = f"{self._index_path}/_settings/index.uuid"
        answer = await self._upstream.send("GET", path, "", self._credentials, None)
        if answer.status != 200:
            return ""
        found = json.loads(answer.body).values()
        return ",".join(sorted(one["settings"]["index"]["uuid"] for one in found))

    async def deliver(self, documents: Sequence[Document]) -> Delivered:
        """Returns when every document is in the index or refused for good.

        A document that OpenSearch fails on (500) however often it is sent, while it takes the others, is refused: it
        would stop every further run at the same place.

        Raises:
            SearchError: OpenSearch was not reachable or had no room, however often it was tried, or takes
                no writes of ours at all.
        """
        waiting, done, tried = list(documents), Delivered(), 0
        while waiting:
            attempt = await self._attempt(waiting)
            done = done.plus(attempt.delivered)
            if attempt.too_large:
                return done.plus(await self._deliver_halves(waiting))
            waiting = list(attempt.again)
            tried += 1
            if waiting and tried >= self._retrying.tries:
                if attempt.failing and (len(waiting) < len(documents) or len(documents) == 1):
                    return done.plus(Delivered(attempt.failing))
                raise SearchError(f"gave up after {tried} tries: {attempt.trouble}", next_step=_RESUME)
            if waiting:
                _log.info("%d documents again: %s", len(waiting), attempt.trouble)
                await self._retrying.pause(tried, attempt.retry_after_s)
        return done

    async def _deliver_halves(self, documents: Sequence[Document]) -> Delivered:
        if len(documents) == 1:
            return Delivered((Refusal(documents[0], 413, "content_too_long_exception", "too large for OpenSearch"),))
        middle = len(documents) // 2
        first = await self.deliver(documents[:middle])
        return first.plus(await self.deliver(documents[middle:]))

    async def _attempt(self, documents: Sequence[Document]) -> _Attempt:
        try:
            answer = await self._upstream.send(
                "POST", f"{self._index_path}/_bulk", "", self._headers, bulk_body(documents)
            )
        except SearchError as error:
            return _Attempt(again=tuple(documents), trouble=str(error))
        if answer.status == 200:
            return _read_items(documents, answer)
        if answer.status == 413:
            return _Attempt(too_large=True)
        trouble = f"OpenSearch answered {answer.status}: {_reason(answer.body)}"
        if answer.status in _TRANSIENT:
            return _Attempt(again=tuple(documents), trouble=trouble, retry_after_s=_retry_after(answer.headers))
        raise SearchError(trouble, next_step="check the URL, the index and the credentials (GRAM_OPENSEARCH_USERNAME)")


@dataclass(frozen=True)
class _Attempt:
    """What one request achieved: what was settled, and what has to be sent again and why.

    `failing` are the refusals of all that has to be sent again, where OpenSearch failed on each document by itself;
    empty where anything points to OpenSearch having no room or being down.
    """

    delivered: Delivered = field(default_factory=Delivered)
    again: tuple[Document, ...] = ()
    trouble: str = ""
    failing: tuple[Refusal, ...] = ()
    retry_after_s: float = 0.0
    too_large: bool = False


def bulk_body(documents: Sequence[Document]) -> bytes:
    """The `_bulk` body that indexes documents under their ids; the same documents give the same bytes."""
    lines = (json.dumps(part) for found in documents for part in ({"index": {"_id": found.id}}, found.source))
    return "".join(f"{line}\n" for line in lines).encode()


def _read_items(documents: Sequence[Document], answer: UpstreamAnswer) -> _Attempt:
    """Sorts the items of a 200 into taken, refused and worth another try."""
    try:
        results = [result for item in json.loads(answer.body)["items"] for result in item.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        results = []
    if len(results) != len(documents):
        return _Attempt(again=tuple(documents), trouble="the answer has not one result for each document")
    failed = [(found, result) for found, result in zip(documents, results, strict=True) if result["status"] >= 300]
    transient = [(found, result) for found, result in failed if result["status"] in _TRANSIENT]
    refusals = tuple(_refusal(found, result) for found, result in failed if result["status"] not in _TRANSIENT)
    broken = all(result["status"] == _FAILED for _, result in transient)
    status = header(answer.headers, HEADER)
    return _Attempt(
        Delivered(refusals, (status.decode(),) if status else ()),
        again=tuple(found for found, _ in transient),
        trouble=_error(transient[0][1])["reason"] if transient else "",
        failing=tuple(_refusal(found, result) for found, result in transient) if broken else (),
    )


def _refusal(document: Document, result: Mapping[str, Any]) -> Refusal:
    error = _error(result)
    return Refusal(document, result["status"], error["type"], error["reason"])


def _error(result: Mapping[str, Any]) -> dict[str, str]:
    found = result.get("error")
    error = found if isinstance(found, Mapping) else {"reason": str(found)}
    cause = error.get("caused_by")
    inner = f" ({cause['reason']})" if isinstance(cause, Mapping) and cause.get("reason") else ""
    return {"type": str(error.get("type")), "reason": f"{error.get('reason')}{inner}"}


def _reason(body: bytes) -> str:
    try:
        return _error(json.loads(body))["reason"]
    except (ValueError, AttributeError):
        return body[:200].decode("utf-8", "replace")


def _retry_after(headers: Headers) -> float:
    value = header(headers, b"retry-after") or b""
    return min(float(value), 300.0) if value.isdigit() else 0.0
