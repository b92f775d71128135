"""Preparing: what a write request becomes before it goes on to OpenSearch — the same lines, with codes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gram_plugin.contract.text import Rendering
from gram_plugin.errors import RequestError
from gram_plugin.search.bulk import BulkItem, parse_bulk, render_bulk
from gram_plugin.search.document import replacing
from gram_plugin.serve.coding import Coded, Coder, Reason
from gram_plugin.serve.fields import FieldCheck, GramFields
from gram_plugin.serve.http import Headers
from gram_plugin.serve.targets import Target

FIELD = "gram"
"""The object of a document that the write path owns; what a client sends under it is replaced."""

_NOT_MAPPED = {GramFields.NONE: Reason.NO_MAPPING, GramFields.UNKNOWN: Reason.UNKNOWN_MAPPING}


@dataclass(frozen=True)
class Prepared:
    """The body that goes on, how many documents were coded, and how many were not, by reason."""

    body: bytes
    coded: int = 0
    uncoded: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The value of the header `x-gram-status`; of several reasons the most frequent."""
        ranked = sorted(self.uncoded, key=lambda reason: (-self.uncoded[reason], reason))
        return f"degraded; reason={ranked[0]}" if ranked else "applied"


@dataclass(frozen=True)
class _Planned:
    """An item, what its index can take, and why it stays as it is (None where it does not or need not change)."""

    item: BulkItem
    fields: GramFields
    reason: Reason | None = None


class Preparer:
    """Adds the `gram` object to each document of a request whose index can take it.

    Args:
        coder: codes products.
        fields: knows what indices can take.
    """

    def __init__(self, coder: Coder, fields: FieldCheck) -> None:
        self._coder = coder
        self._fields = fields

    async def prepare(self, target: Target, body: bytes, headers: Headers) -> Prepared:
        """The body with codes; a body that is no `_bulk` body stays as it is, for OpenSearch to refuse."""
        try:
            items = await asyncio.to_thread(_items, target, body)
        except RequestError:
            return Prepared(body, uncoded={Reason.MALFORMED: 1})
        plan = await self._plan(items, target.index, headers)
        products = [at for at, planned in enumerate(plan) if _is_product(planned)]
        coded = await self._coder.code_products([_source(plan[at]) for at in products])
        return await asyncio.to_thread(self._finish, target, plan, dict(zip(products, coded, strict=True)))

    async def _plan(self, items: Sequence[BulkItem], default_index: str | None, headers: Headers) -> list[_Planned]:
        names = {_index_of(item, default_index) for item in items if item.raw_source is not None}
        fields = {name: await self._fields.of(name, headers) for name in sorted(names) if name}
        return [_planned(item, fields.get(_index_of(item, default_index), GramFields.UNKNOWN)) for item in items]

    def _finish(self, target: Target, plan: Sequence[_Planned], coded: Mapping[int, Coded]) -> Prepared:
        done = [self._write(planned, coded.get(at)) for at, planned in enumerate(plan)]
        items = [planned.item for planned in done]
        body = render_bulk(items) if target.action is None else items[0].raw_source or b""
        uncoded = Counter(planned.reason for planned in done if planned.reason is not None)
        return Prepared(body, sum(found.reason is None for found in coded.values()), uncoded)

    def _write(self, planned: _Planned, coded: Coded | None) -> _Planned:
        if coded is not None:
            gram = fitting(coded.gram, planned.fields)
            return replace(planned, item=planned.item.with_field(FIELD, gram), reason=coded.reason)
        if planned.item.action == "update" and planned.reason is None:
            pending = fitting(replacing(self._coder.pending()), planned.fields)
            marked = mark_update(planned.item, self._coder.rendering, pending)
            return replace(planned, item=marked or planned.item, reason=Reason.UPDATE if marked else None)
        return planned


def mark_update(item: BulkItem, rendering: Rendering, pending: Mapping[str, Any]) -> BulkItem | None:
    """The update with its document marked for backfill, or None where it leaves the codes right.

    A partial document that sets a rendered field makes the stored codes stale, and what is not in it cannot be
    read here; a document to `upsert` is new. A script passes: nobody knows what it does.
    """
    body, marked = item.source or {}, item
    document, upsert = body.get("doc"), body.get("upsert")
    if isinstance(document, dict) and _touches(document, rendering):
        marked = marked.with_field(FIELD, pending, inside="doc")
    if isinstance(upsert, dict):
        marked = marked.with_field(FIELD, pending, inside="upsert")
    return marked if marked is not item else None


def _items(target: Target, body: bytes) -> list[BulkItem]:
    if target.action is None:
        return parse_bulk(body)
    # One document is read like the source line of a `_bulk` body, by the same rules.
    head = b'{"%s":{}}' % target.action.encode()
    (item,) = parse_bulk(head + b"\n" + body.replace(b"\n", b" ") + b"\n")
    return [replace(item, raw_source=body)]


def _planned(item: BulkItem, fields: GramFields) -> _Planned:
    if item.raw_source is None:
        return _Planned(item, fields)
    if fields in _NOT_MAPPED:
        return _Planned(item, fields, _NOT_MAPPED[fields])
    return _Planned(item, fields, Reason.UNREADABLE if item.source is None else None)


def _is_product(planned: _Planned) -> bool:
    return planned.reason is None and planned.item.action in {"index", "create"}


def _source(planned: _Planned) -> Mapping[str, Any]:
    return planned.item.source or {}


def _index_of(item: BulkItem, default_index: str | None) -> str:
    named = item.metadata.get("_index") or default_index
    return named if isinstance(named, str) else ""


def _touches(document: Mapping[str, Any], rendering: Rendering) -> bool:
    heads = {path.partition(".")[0] for path in rendering.fields} | {FIELD}
    return any(key.partition(".")[0] in heads for key in document)


def with_gram(document: Mapping[str, Any], gram: Mapping[str, Any]) -> dict[str, Any]:
    """The document with `gram` in the place of whatever it had under that name."""
    return {**{key: value for key, value in document.items() if key.partition(".")[0] != FIELD}, FIELD: gram}


def fitting(gram: Mapping[str, Any], fields: GramFields) -> Mapping[str, Any]:
    """The part of a `gram` object that an index with these fields takes."""
    if fields is GramFields.WEIGHTED:
        return gram
    return {key: value for key, value in gram.items() if key != "weights"}
