"""Which indices have the `gram` fields, asked of OpenSearch with the caller's own credentials and remembered.

Writing `gram` into an index without them would let dynamic mapping make one field for each code.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

from gram_plugin.errors import SearchError
from gram_plugin.serve.http import Upstream, UpstreamAnswer
from gram_plugin.serve.outgoing import Headers

_log = logging.getLogger(__name__)

_WEIGHTED = {"codes": "keyword", "weights": "rank_features", "model": "keyword", "source": "keyword", "at": "date"}
_PLAIN = {name: kind for name, kind in _WEIGHTED.items() if name != "weights"}
_BODY_HEADERS = frozenset({b"content-length", b"content-type", b"content-encoding", b"accept", b"accept-encoding"})
_CREDENTIALS = frozenset({b"authorization", b"cookie", b"x-amz-security-token"})
_MAX_INDICES = 1024
_ALL = ""
"""In the place of one caller's digest: what holds for all of them."""

_CHANGING = frozenset(
    [
        "_all",
        "_mapping",
        "_mappings",
        "_alias",
        "_aliases",
        "_rollover",
        "_template",
        "_index_template",
        "_component_template",
        "_data_stream",
        "_clone",
        "_shrink",
        "_split",
        "_restore",
    ]
)


class GramFields(StrEnum):
    """What an index can take of a `gram` object."""

    WEIGHTED = "weighted"
    PLAIN = "plain"  # made for a server without the field type rank_features: no weights
    NONE = "none"
    UNKNOWN = "unknown"
    AWAY = "away"  # unknown, because OpenSearch cannot be reached or has too much to do


_OUTAGES = frozenset({429, 500, 502, 503, 504})
"""Statuses of an OpenSearch that may answer a moment later."""


@dataclass(frozen=True, slots=True)
class _Seen:
    fields: GramFields
    until: float


@dataclass(frozen=True, slots=True)
class _Question:
    """One caller's look-up; those of before a change are of no use after it."""

    index: str
    caller: str
    changes: int


class FieldCheck:
    """Answers from memory for `max_age_s`, or for `max_age_s / 10` where the fields were missing.

    That an index has the fields holds for every caller; that it has not may be due to the caller's rights, so it
    is kept for that caller alone. An index that cannot be asked about has the fields that it had last.

    Args:
        upstream: OpenSearch.
        max_age_s: age in seconds at which an index is asked again.
        clock: monotonic seconds.
    """

    def __init__(self, upstream: Upstream, *, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._max_age_s = max_age_s
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._flights: dict[_Question, asyncio.Task[GramFields]] = {}
        self._changes = 0

    def forget(self) -> None:
        """Asks again for every index; called when indices, aliases or templates may have changed."""
        self._seen.clear()
        self._changes += 1

    async def close(self) -> None:
        """Ends the running look-ups."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def of(self, index: str, headers: Headers) -> GramFields:
        """What the index, alias or index-to-be of that name can take.

        Args:
            index: the name that the client wrote to.
            headers: the client's own; its credentials ask.
        """
        question = _Question(index, caller_of(headers), self._changes)
        for caller in (_ALL, question.caller):
            seen = self._seen.get((index, caller))
            if seen and self._clock() < seen.until:
                return seen.fields
        if question not in self._flights:
            self._flights[question] = asyncio.create_task(self._look_up(question, headers))
        return await asyncio.shield(self._flights[question])

    async def _look_up(self, question: _Question, headers: Headers) -> GramFields:
        """Asks, and remembers what it is told unless something changed meanwhile."""
        try:
            found = await self._ask(question.index, headers)
        finally:
            del self._flights[question]
        if found in (
            GramFields.UNKNOWN,
            GramFields.AWAY,
        ):  # not remembered: the next caller may be told
            last = self._seen.get((question.index, _ALL))
            return last.fields if last else found
        if found is GramFields.NONE:
            _log.warning(
                "%r has no gram fields, documents go in without codes — run `gram mapping apply`", question.index
            )
        if question.changes == self._changes:
            self._remember(question, found)
        return found

    def _remember(self, question: _Question, found: GramFields) -> None:
        self._seen.pop((question.index, _ALL), None)
        while len(self._seen) >= _MAX_INDICES:
            del self._seen[next(iter(self._seen))]
        if found is GramFields.NONE:
            self._seen[question.index, question.caller] = _Seen(found, self._clock() + self._max_age_s / 10)
        else:
            self._seen[question.index, _ALL] = _Seen(found, self._clock() + self._max_age_s)

    async def _ask(self, index: str, headers: Headers) -> GramFields:
        own = [pair for pair in headers if pair[0].lower() not in _BODY_HEADERS]
        name = quote(index, safe="")
        try:
            mapping = await self._upstream.send("GET", f"/{name}/_mapping", "", own, None)
            if mapping.status == 404:
                simulated = await self._upstream.send("POST", f"/_index_template/_simulate_index/{name}", "", own, None)
                return _read(index, simulated, _of_template)
            if mapping.status == 200 and len(behind := json.loads(mapping.body)) > 1:
                if newest := newest_of_stream(behind, index):
                    return _of_indices(behind, {newest})
                alias = await self._upstream.send("GET", f"/_alias/{name}", "", own, None)
                if alias.status not in (200, 404):  # 404: no alias, but a pattern or a list of indices
                    return _unread(index, alias.status)
                writing = _write_indices(json.loads(alias.body), index) if alias.status == 200 else set()
                return _read(index, mapping, lambda document: _of_indices(document, writing))
            return _read(index, mapping, lambda document: _of_indices(document, set()))
        except (SearchError, ValueError) as error:
            _log.warning("the mapping of %r cannot be read: %s", index, error)
            return GramFields.AWAY  # an answer that broke off is no JSON


def may_change_fields(method: str, raw_path: str) -> bool:
    """Whether a request may change which fields are behind a name: one to an index itself, or to what makes it up."""
    parts = [unquote(part) for part in raw_path.split("/") if part]
    if method in {"GET", "HEAD", "OPTIONS"} or not parts:
        return False
    return not _CHANGING.isdisjoint(parts) or (len(parts) == 1 and not parts[0].startswith("_"))


def newest_of_stream(names: Iterable[str], stream: str) -> str:
    """The index of a data stream that is written to, of those behind its name; empty where it is no data stream."""
    numbered = re.compile(rf"\.ds-{re.escape(stream)}-(\d{{6,}})")
    found = {name: numbered.fullmatch(name) for name in names}
    numbers = {name: int(match[1]) for name, match in found.items() if match}
    return max(numbers, key=numbers.__getitem__) if len(numbers) == len(found) > 0 else ""


def caller_of(headers: Headers) -> str:
    """A digest by which callers are told apart; credentials themselves are not kept."""
    credentials = sorted((name.lower(), value) for name, value in headers if name.lower() in _CREDENTIALS)
    return hashlib.blake2b(repr(credentials).encode(), digest_size=16).hexdigest()


def fields_of(mappings: Mapping[str, Any]) -> GramFields:
    """What an index with these `mappings` can take."""
    gram = mappings.get("properties", {}).get("gram", {})
    found = {name: field.get("type") for name, field in gram.get("properties", {}).items()}
    if _WEIGHTED.items() <= found.items():
        return GramFields.WEIGHTED
    return GramFields.PLAIN if _PLAIN.items() <= found.items() else GramFields.NONE


def _read(index: str, answer: UpstreamAnswer, of: Callable[[Any], GramFields]) -> GramFields:
    if answer.status == 200:
        return of(json.loads(answer.body))
    return _unread(index, answer.status)


def _unread(index: str, status: int) -> GramFields:
    _log.warning("the mapping of %r cannot be read: OpenSearch answered %d", index, status)
    return GramFields.AWAY if status in _OUTAGES else GramFields.UNKNOWN


def _of_template(document: Mapping[str, Any]) -> GramFields:
    return fields_of(document.get("template", {}).get("mappings", {}))


def _of_indices(document: Mapping[str, Any], writing: set[str]) -> GramFields:
    """What every index behind a name can take, or the write index alone where there is one."""
    behind = [found["mappings"] for name, found in document.items() if not writing or name in writing]
    kinds = {fields_of(mappings) for mappings in behind}
    if kinds == {GramFields.WEIGHTED}:
        return GramFields.WEIGHTED
    return GramFields.PLAIN if kinds and GramFields.NONE not in kinds else GramFields.NONE


def _write_indices(document: Mapping[str, Any], alias: str) -> set[str]:
    return {name for name, found in document.items() if found.get("aliases", {}).get(alias, {}).get("is_write_index")}
