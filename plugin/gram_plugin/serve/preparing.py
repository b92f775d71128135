"""Preparing: what a write request becomes before it goes on to OpenSearch — the same lines, with codes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gram_plugin.contract.text import Rendering
from gram_plugin.errors import RequestError, SearchError
from gram_plugin.search.bulk import BulkItem, parse_bulk, render_bulk
from gram_plugin.search.document import replacing
from gram_plugin.serve.coding import Coded, Coder, Reason
from gram_plugin.serve.fields import FieldCheck, GramFields
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.scripts import Scripted, may_change_text
from gram_plugin.serve.targets import Target

FIELD = "gram"
"""The object of a document that the write path owns; what a client sends under it is replaced."""

_NOT_MAPPED = {
    GramFields.NONE: Reason.NO_MAPPING,
    GramFields.UNKNOWN: Reason.UNKNOWN_MAPPING,
    GramFields.AWAY: Reason.UNKNOWN_MAPPING,
}


class UnreadyError(SearchError):
    """A write has to wait until OpenSearch can be asked about its index (HTTP 503)."""


@dataclass(frozen=True)
class Poison:
    """A document that itself is to blame for having no codes: where it stands, and what was said of it."""

    item: BulkItem
    index: str
    reason: Reason
    said: str


@dataclass(frozen=True)
class Prepared:
    """The body that goes on, how many documents were coded, and how many were not, by reason.

    `items` is the number of actions, `scripted` those whose products have to be marked once OpenSearch has run them,
    `poisonous` the documents that the model could not take.
    """

    body: bytes
    coded: int = 0
    uncoded: Mapping[Reason, int] = field(default_factory=dict)
    items: int = 0
    scripted: tuple[Scripted, ...] = ()
    poisonous: tuple[Poison, ...] = ()

    @property
    def status(self) -> str:
        """The value of the header `x-gram-status`; of several reasons `script-unmarked`, else the most frequent."""
        # Only that one leaves codes of another text behind; every other document is marked, or has no codes.
        ranked = sorted(self.uncoded, key=lambda reason: (reason is not Reason.UNMARKED, -self.uncoded[reason], reason))
        return f"degraded; reason={ranked[0]}" if ranked else "applied"

    def after_scripts(self, marked: int, unmarked: int) -> Prepared:
        """The same, with what became of the products that scripts have changed."""
        found = Counter({Reason.SCRIPT: marked, Reason.UNMARKED: unmarked})
        return replace(self, uncoded=+(Counter(self.uncoded) + found))


@dataclass(frozen=True)
class _Planned:
    """An item, what its index can take, whether it got codes, and why not (None where it did or needs none)."""

    item: BulkItem
    fields: GramFields
    reason: Reason | None = None
    coded: bool = False


Place = str | None
"""Where a product stands in the source of its item: under `doc`, under `upsert`, or None for the source itself."""


class Preparer:
    """Adds the `gram` object to each document of a request whose index can take it.

    Args:
        coder: codes products.
        fields: knows what indices can take.
        mark_scripts: whether products are to be marked whose text a script may have changed.
    """

    def __init__(self, coder: Coder, fields: FieldCheck, *, mark_scripts: bool = True) -> None:
        self._coder = coder
        self._fields = fields
        self._mark_scripts = mark_scripts

    async def prepare(self, target: Target, body: bytes, headers: Headers) -> Prepared:
        """The body with codes; a body that is no `_bulk` body stays as it is, for OpenSearch to refuse.

        Raises:
            UnreadyError: OpenSearch cannot be reached to say what an index can take, and an update would leave a
                product with codes of another text.
        """
        try:
            items = await asyncio.to_thread(_items, target, body)
        except RequestError:
            return Prepared(body, uncoded={Reason.MALFORMED: 1})
        plan = await self._plan(items, target.index, headers)
        products = [self._products(planned) for planned in plan]
        flat = [product for found in products for product in found.values()]
        answers = iter(await self._coder.code_products(flat))
        coded = [{place: next(answers) for place in found} for found in products]
        return await asyncio.to_thread(self._finish, target, plan, coded)

    async def _plan(self, items: Sequence[BulkItem], default_index: str | None, headers: Headers) -> list[_Planned]:
        names = {_index_of(item, default_index) for item in items if item.raw_source is not None}
        fields = {name: await self._fields.of(name, headers) for name in sorted(names) if name}
        plan = [_planned(item, fields.get(_index_of(item, default_index), GramFields.UNKNOWN)) for item in items]
        for planned in plan:
            if planned.fields is GramFields.AWAY and self._changes_text(planned.item):
                raise UnreadyError(
                    f"OpenSearch could not say what {_index_of(planned.item, default_index)!r} can take, and an update "
                    "may change the text of a product that has codes",
                    next_step="send it again: nothing of this request was written",
                )
        return plan

    def _changes_text(self, item: BulkItem) -> bool:
        """Whether an update may leave a product with codes of another text unless they are replaced or marked."""
        if item.action != "update":
            return False
        rendering = self._coder.rendering
        if stale_places(item, rendering):
            return True
        return self._mark_scripts and may_change_text(item.source or {}, rendering, FIELD)

    def _products(self, planned: _Planned) -> dict[Place, Mapping[str, Any]]:
        return products_of(planned.item, self._coder.rendering) if planned.reason is None else {}

    def _finish(self, target: Target, plan: Sequence[_Planned], coded: Sequence[Mapping[Place, Coded]]) -> Prepared:
        done = [self._write(planned, found) for planned, found in zip(plan, coded, strict=True)]
        items = [planned.item for planned in done]
        body = render_bulk(items) if target.action is None else items[0].raw_source or b""
        uncoded = Counter(planned.reason for planned in done if planned.reason is not None)
        return Prepared(
            body,
            sum(planned.coded for planned in done),
            uncoded,
            items=len(items),
            scripted=tuple(self._scripted(plan)),
            poisonous=tuple(_poisonous(target, plan, coded)),
        )

    def _scripted(self, plan: Sequence[_Planned]) -> Iterator[Scripted]:
        updates = ((at, found) for at, found in enumerate(plan) if not found.reason and found.item.action == "update")
        for at, found in updates:
            if may_change_text(found.item.source or {}, self._coder.rendering, FIELD):
                yield Scripted(at, found.item, found.fields)

    def _write(self, planned: _Planned, coded: Mapping[Place, Coded]) -> _Planned:
        if planned.reason is not None:
            return planned
        stale = stale_places(planned.item, self._coder.rendering) - coded.keys()
        found, item = dict(coded), planned.item
        for marked in sorted(stale):
            found[marked] = Coded(self._coder.pending(), Reason.UPDATE)
        for place, codes in found.items():
            # In one form everywhere, else an update that repeats a document would not be the same to OpenSearch.
            text = codes.text if planned.fields is GramFields.WEIGHTED else b""
            item = item.with_field(FIELD, fitting(replacing(codes.gram), planned.fields), inside=place, text=text)
        reason = next((codes.reason for codes in found.values() if codes.reason), None)
        return replace(planned, item=item, reason=reason, coded=bool(found) and reason is None)


def products_of(item: BulkItem, rendering: Rendering) -> dict[Place, Mapping[str, Any]]:
    """The products whose codes can be told from the item alone.

    A document, one to `upsert`, and the `doc` of an update that sets every rendered field: whatever the index
    has of the product besides, the model would read the same text.
    """
    source = item.source
    if source is None or item.action == "delete":
        return {}
    if item.action != "update":
        return {None: source}
    document, upsert = source.get("doc"), source.get("upsert")
    found: dict[Place, Mapping[str, Any]] = {}
    if isinstance(document, dict) and rendering.fields and all(_sets(document, path) for path in rendering.fields):
        found["doc"] = document
    if isinstance(upsert, dict) and not source.get("scripted_upsert"):
        found["upsert"] = upsert
    return found


def stale_places(item: BulkItem, rendering: Rendering) -> set[str]:
    """Where an update may leave a product with codes of another text, so that it has to be marked.

    A partial document that sets a rendered field changes what the model would read, and the rest of the product
    cannot be read here; what a script makes of a document to `upsert` is not known either. Any other script passes.
    """
    source = item.source or {}
    if item.action != "update":
        return set()
    document, upsert = source.get("doc"), source.get("upsert")
    touched = {"doc"} if isinstance(document, dict) and _touches(document, rendering) else set()
    return touched | ({"upsert"} if isinstance(upsert, dict) else set())


def _poisonous(target: Target, plan: Sequence[_Planned], coded: Sequence[Mapping[Place, Coded]]) -> Iterator[Poison]:
    for planned, found in zip(plan, coded, strict=True):
        for codes in found.values():
            if codes.reason is not None and codes.said:
                yield Poison(planned.item, _index_of(planned.item, target.index), codes.reason, codes.said)


def _items(target: Target, body: bytes) -> list[BulkItem]:
    if target.action is None:
        return parse_bulk(body)
    # One document is read like the source line of a `_bulk` body, by the same rules.
    head = json.dumps({target.action: {} if target.id is None else {"_id": target.id}}).encode()
    (item,) = parse_bulk(head + b"\n" + body.replace(b"\n", b" ") + b"\n")
    return [replace(item, raw_source=body)]


def _planned(item: BulkItem, fields: GramFields) -> _Planned:
    if item.raw_source is None:
        return _Planned(item, fields)
    if fields in _NOT_MAPPED:
        return _Planned(item, fields, _NOT_MAPPED[fields])
    return _Planned(item, fields, Reason.UNREADABLE if item.source is None else None)


def _index_of(item: BulkItem, default_index: str | None) -> str:
    named = item.metadata.get("_index") or default_index
    return named if isinstance(named, str) else ""


def _touches(document: Mapping[str, Any], rendering: Rendering) -> bool:
    heads = {path.partition(".")[0] for path in rendering.fields} | {FIELD}
    return any(key.partition(".")[0] in heads for key in document)


def _sets(value: Any, path: str) -> bool:
    """Whether a partial document decides alone what stands at a path: it merges into objects and replaces all else."""
    if not isinstance(value, Mapping) or path in value:
        return True
    head, _, rest = path.partition(".")
    return bool(rest) and head in value and _sets(value[head], rest)


def with_gram(document: Mapping[str, Any], gram: Mapping[str, Any]) -> dict[str, Any]:
    """The document with `gram` in the place of whatever it had under that name."""
    return {**{key: value for key, value in document.items() if key.partition(".")[0] != FIELD}, FIELD: gram}


def fitting(gram: Mapping[str, Any], fields: GramFields) -> Mapping[str, Any]:
    """The part of a `gram` object that an index with these fields takes."""
    if fields is GramFields.WEIGHTED:
        return gram
    return {key: value for key, value in gram.items() if key != "weights"}
