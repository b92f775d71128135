"""Marking: what a script may have changed gets no stale codes, but the mark that it waits for new ones.

The script passes untouched, and a second, small update of `gram` alone follows it before its writer has the answer. So
every product whose script was acknowledged is marked, and a writer who got no answer writes again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gram_plugin.errors import SearchError
from gram_plugin.search.document import replacing
from gram_plugin.serve.delivery import Retrying
from gram_plugin.serve.fields import GramFields
from gram_plugin.serve.http import Upstream, UpstreamAnswer
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.scripts import Scripted

_log = logging.getLogger(__name__)

_GONE = 404
_UNREACHABLE = 502
_TRANSIENT = frozenset({409, 429, 500, 502, 503, 504})
_BODY_HEADERS = frozenset({b"content-length", b"content-type", b"content-encoding", b"accept", b"accept-encoding"})
_NAMING = ("_index", "_id", "routing")  # of an action line; conditions of the script do not hold for the mark
_KEPT = frozenset({b"routing", b"refresh"})  # parameters of the request
_CONFLICTS = 5  # how often OpenSearch reads the product again when somebody else writes it at the same time


class Marker:
    """Marks products as pending, in place of codes that may be those of another text.

    Unconditionally: whoever wrote the product meanwhile, pending is never wrong, and nothing else of it is touched.

    Args:
        upstream: OpenSearch.
        pending: gives the `gram` object of a product that waits for codes.
        retrying: what to do about overload and outages; the writer waits for as long.
    """

    def __init__(self, upstream: Upstream, pending: Callable[[], Mapping[str, Any]], retrying: Retrying) -> None:
        self._upstream = upstream
        self._pending = pending
        self._retrying = retrying

    async def mark(self, target: bytes, headers: Headers, found: Sequence[Scripted], *, single: bool) -> int:
        """Marks products with their writer's own credentials; gives the number of those that could not be marked.

        Args:
            target: path and query of the request that had the scripts.
            headers: of that request.
            found: the updates; their products may be gone by now.
            single: whether the path names the one product, so that `_update` is asked in the place of `_bulk`.
        """
        own = [pair for pair in headers if pair[0].lower() not in _BODY_HEADERS]
        kind = b"application/json" if single else b"application/x-ndjson"
        place, waiting, refused, tried = _target(target, single=single), list(found), 0, 0
        while waiting and tried < self._retrying.tries:
            if tried:
                await self._retrying.pause(tried, 0.0)
            tried += 1
            statuses = await self._attempt(place, [*own, (b"content-type", kind)], waiting, single=single)
            refused += sum(status >= 300 and status != _GONE and status not in _TRANSIENT for status in statuses)
            waiting = [item for item, status in zip(waiting, statuses, strict=True) if status in _TRANSIENT]
        if lost := refused + len(waiting):
            _log.warning("%d products keep the codes of before a script, until the next backfill", lost)
        return lost

    async def _attempt(self, target: str, headers: Headers, waiting: Sequence[Scripted], *, single: bool) -> list[int]:
        """The status of each, in order."""
        body = self._update(waiting[0]) if single else b"".join(map(self._lines, waiting))
        try:
            answer = await self._upstream.send("POST", target, "", headers, body)
        except SearchError as error:
            _log.info("products cannot be marked: %s", error)
            return [_UNREACHABLE] * len(waiting)
        return [answer.status] if single else _statuses(answer, len(waiting))

    def _lines(self, found: Scripted) -> bytes:
        named = {key: found.item.metadata[key] for key in _NAMING if key in found.item.metadata}
        return json.dumps({"update": {**named, "retry_on_conflict": _CONFLICTS}}).encode() + b"\n" + self._update(found)

    def _update(self, found: Scripted) -> bytes:
        gram = replacing(self._pending(), weighted=found.fields is GramFields.WEIGHTED)
        return json.dumps({"doc": {"gram": gram}}).encode() + b"\n"


def _target(target: bytes, *, single: bool) -> str:
    path, _, query = target.partition(b"?")
    kept = [pair for pair in query.split(b"&") if pair.partition(b"=")[0] in _KEPT]
    kept += [b"retry_on_conflict=%d" % _CONFLICTS] if single else []
    return (path + b"?" + b"&".join(kept) if kept else path).decode("latin-1")


def _statuses(answer: UpstreamAnswer, count: int) -> list[int]:
    """The status of each item; of all alike where the answer is no list of them."""
    try:
        results = [int(result["status"]) for item in json.loads(answer.body)["items"] for result in item.values()]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        results = []
    if answer.status == 200 and len(results) == count:
        return results
    return [answer.status if answer.status >= 300 else _UNREACHABLE] * count
