"""The backfill's view of an index: which products need codes, and the requests and answers around them, as data.

A shard is read in the order of its sequence numbers. What is written later always has a higher one, so a number is a
place to go on from that outlives a point in time, a process and a node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gram_plugin.contract.text import is_source_hash
from gram_plugin.search.document import PENDING, replacing
from gram_plugin.search.mappings import FIELD

CONFLICT = 409
GONE = 404
REFUSED = frozenset({400, 413})
"""Statuses of one document that no repetition will change."""

TRANSIENT = frozenset({429, 500, 502, 503, 504})

_TIME = "at"
_SURE = 1.0


class State(StrEnum):
    """What a product's `gram` object is worth; the values stand in reports."""

    FRESH = "fresh"
    MISSING = "missing"  # no gram object
    PENDING = "pending"
    GENERATION = "generation"  # coded by another model
    TEXT = "text"  # its text is not the one that was coded
    SURE = "fields"  # its typed fields say other codes than it has


@dataclass(frozen=True)
class Current:
    """What a fresh product has.

    Attributes:
        generation: of the model.
        source: hash of the product's text; None for a product that cannot be read.
        sure: stored forms of the codes that it surely has.
        max_codes: most codes of a product.
    """

    generation: str
    source: str | None
    sure: frozenset[str]
    max_codes: int


@dataclass(frozen=True)
class Shard:
    """One shard of a concrete index, and the sequence number up to which all its copies have everything."""

    index: str
    number: int
    reached: int

    @property
    def key(self) -> str:
        """Its name in a checkpoint."""
        return f"{self.index}/{self.number}"


@dataclass(frozen=True)
class Slice:
    """Part `number` (from 0) of `of` parts of an index, which as many processes share."""

    number: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Slice()


@dataclass(frozen=True)
class Span:
    """The products of a shard that were written last after `after` and not after `until`."""

    shard: Shard
    after: int
    until: int
    slice: Slice = WHOLE


@dataclass(frozen=True)
class Stored:
    """A product as the index has it, and what has to be named so that no later version is overwritten."""

    index: str
    id: str
    source: Mapping[str, Any]
    seq_no: int
    primary_term: int
    version: int
    routing: str | None = None


@dataclass(frozen=True)
class Written:
    """What OpenSearch said of one write."""

    status: int
    type: str = ""
    reason: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it has taken effect."""
        return self.status < 300


def state_of(source: Mapping[str, Any], current: Current) -> State:
    """What has to be done about a product, whatever a client may have put into the place of its `gram` object.

    The hash stands for the text alone, so the codes that typed fields say are looked at too.
    """
    gram = source.get(FIELD)
    if dotted_keys(source):
        return State.TEXT
    if not isinstance(gram, Mapping) or not gram.get("model"):
        return State.MISSING
    if gram["model"] == PENDING:
        return State.PENDING
    if gram["model"] != current.generation:
        return State.GENERATION
    if current.source is None or not is_source_hash(gram.get("source"), current.source):
        return State.TEXT
    return State.FRESH if _has_sure_codes(gram, current) else State.SURE


def dotted_keys(source: Mapping[str, Any]) -> list[str]:
    """Keys such as `gram.codes` with a value, by which a client writes into the object beside our own."""
    return [key for key, value in source.items() if key.startswith(f"{FIELD}.") and value is not None]


def is_same(source: Mapping[str, Any], gram: Mapping[str, Any]) -> bool:
    """Whether a product has this `gram` object already, but for the time; then there is nothing to write."""
    found = source.get(FIELD)
    return isinstance(found, Mapping) and not dotted_keys(source) and _plain(found) == _plain(gram)


def partial_document(source: Mapping[str, Any], gram: Mapping[str, Any], *, weighted: bool) -> dict[str, Any]:
    """The `doc` of an update that gives a product this `gram` object whole, in the place of whatever it has."""
    return {FIELD: replacing(gram, weighted=weighted), **dict.fromkeys(dotted_keys(source))}


def page_body(span: Span, after: int, size: int, pit: str, keep_alive: str) -> dict[str, Any]:
    """The search for the next products of a span, in the order in which they were last written."""
    return {
        **_selection(span),
        "size": size,
        "sort": [{"_seq_no": "asc"}],
        "search_after": [after],
        "seq_no_primary_term": True,
        "version": True,
        "track_total_hits": False,
        "pit": {"id": pit, "keep_alive": keep_alive},
    }


def count_body(span: Span, pit: str, keep_alive: str) -> dict[str, Any]:
    """The search that counts the products of a span."""
    return {**_selection(span), "size": 0, "track_total_hits": True, "pit": {"id": pit, "keep_alive": keep_alive}}


def stored_of(hit: Mapping[str, Any]) -> Stored:
    """A product from a hit of a search or a document of `_mget`."""
    return Stored(
        index=hit["_index"],
        id=hit["_id"],
        source=hit.get("_source") or {},
        seq_no=hit["_seq_no"],
        primary_term=hit["_primary_term"],
        version=hit.get("_version", 0),
        routing=hit.get("_routing"),
    )


def update_lines(product: Stored, document: Mapping[str, Any]) -> str:
    """The lines of a `_bulk` body that update a product unless it was written since it was read."""
    place: dict[str, Any] = {
        "_index": product.index,
        "_id": product.id,
        "if_seq_no": product.seq_no,
        "if_primary_term": product.primary_term,
    }
    return _lines({"update": _routed(place, product)}, {"doc": document})


def copy_lines(product: Stored, index: str, gram: Mapping[str, Any]) -> str:
    """The lines of a `_bulk` body that copy a product with codes unless the index has this version of it or a later.

    No pipeline runs: the product has been through it.
    """
    place: dict[str, Any] = {"_index": index, "_id": product.id, "pipeline": "_none"}
    versioned = {**place, "version": product.version, "version_type": "external"}
    return _lines({"index": _routed(versioned, product)}, copy_of(product.source, gram))


def overwriting_lines(product: Stored, copied: Stored, gram: Mapping[str, Any]) -> str:
    """The lines of a `_bulk` body that put a product in the place of this very copy of another version."""
    place: dict[str, Any] = {
        "_index": copied.index,
        "_id": copied.id,
        "pipeline": "_none",
        "if_seq_no": copied.seq_no,
        "if_primary_term": copied.primary_term,
    }
    return _lines({"index": _routed(place, product)}, copy_of(product.source, gram))


def deletion_line(copied: Stored) -> str:
    """The line of a `_bulk` body that deletes this very copy."""
    place: dict[str, Any] = {
        "_index": copied.index,
        "_id": copied.id,
        "if_seq_no": copied.seq_no,
        "if_primary_term": copied.primary_term,
    }
    return f"{json.dumps({'delete': _routed(place, copied)})}\n"


def copy_of(source: Mapping[str, Any], gram: Mapping[str, Any]) -> dict[str, Any]:
    """The document with this `gram` object in the place of whatever it has under that name."""
    return {**{key: value for key, value in source.items() if key.partition(".")[0] != FIELD}, FIELD: gram}


def read_items(answer: Any, count: int) -> list[Written]:
    """What became of each action of a `_bulk` request, in order; empty when the answer is not one for each."""
    try:
        results = [result for item in answer["items"] for result in item.values()]
    except (KeyError, TypeError, AttributeError):
        return []
    return [_written(result) for result in results] if len(results) == count else []


def shards_of(settings: Mapping[str, Any], stats: Mapping[str, Any]) -> list[Shard]:
    """The shards of the indices that `settings` names, by the statistics of their primaries, in order.

    A shard whose primary is missing is left out.
    """
    found = (
        Shard(index, int(number), copy["seq_no"]["global_checkpoint"])
        for index in settings
        for number, copies in stats["indices"].get(index, {}).get("shards", {}).items()
        for copy in copies
        if copy["routing"]["primary"] and "seq_no" in copy
    )
    return sorted(found, key=lambda shard: (shard.index, shard.number))


def shard_count(settings: Mapping[str, Any]) -> int:
    """How many shards the indices that `settings` names have."""
    return sum(int(found["settings"]["index"]["number_of_shards"]) for found in settings.values())


def uuids_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """What tells each index from one made later under its name."""
    return {name: found["settings"]["index"]["uuid"] for name, found in sorted(settings.items())}


def lossy_indices(mappings: Mapping[str, Any]) -> list[str]:
    """Indices that keep no `_source`, or only a part of it: writing a product again would lose the rest."""
    sources = {name: found.get("mappings", {}).get("_source") or {} for name, found in mappings.items()}
    return sorted(
        name
        for name, source in sources.items()
        if source.get("enabled") in (False, "false") or source.get("includes") or source.get("excludes")
    )


def next_size(size: int, products: Sequence[Stored], *, most: int, target_chars: int) -> int:
    """How many products to ask for next: twice as many, as far as an answer of about `target_chars` allows.

    Products of one megabyte must not come by the thousand.
    """
    chars = sum(len(json.dumps(product.source)) for product in products)
    fitting = target_chars * len(products) // max(chars, 1) if products else most
    return max(1, min(2 * size, most, fitting))


def _selection(span: Span) -> dict[str, Any]:
    written = {"range": {"_seq_no": {"gt": span.after, "lte": span.until}}}
    selected: dict[str, Any] = {"query": {"bool": {"filter": [written]}}}
    if span.slice.of > 1:
        selected["slice"] = {"id": span.slice.number, "max": span.slice.of}
    return selected


def _has_sure_codes(gram: Mapping[str, Any], current: Current) -> bool:
    codes, weights = _strings(gram.get("codes")), _weights(gram)
    certain = {code for code, weight in weights.items() if weight == _SURE}
    enough = len(current.sure & codes) >= min(len(current.sure), current.max_codes)
    return enough and certain <= current.sure


def _plain(gram: Mapping[str, Any]) -> dict[str, Any]:
    """A `gram` object without its time, however an update or a whole document spells it."""
    named = {key: gram.get(key) for key in gram.keys() - {_TIME, "weights"} if gram.get(key) is not None}
    return {**named, "codes": gram.get("codes") or [], "weights": _weights(gram)}


def _weights(gram: Mapping[str, Any]) -> dict[str, Any]:
    found = gram.get("weights")
    parts: Iterable[Any] = found if isinstance(found, list) else [found]
    return {code: weight for part in parts if isinstance(part, Mapping) for code, weight in part.items()}


def _strings(found: Any) -> frozenset[str]:
    return frozenset(item for item in found if isinstance(item, str)) if isinstance(found, list) else frozenset()


def _routed(place: dict[str, Any], product: Stored) -> dict[str, Any]:
    return place if product.routing is None else {**place, "routing": product.routing}


def _lines(action: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    return f"{json.dumps(action)}\n{json.dumps(source)}\n"  # in ASCII, as a lone surrogate can only travel so


def _written(result: Mapping[str, Any]) -> Written:
    found = result.get("error")
    if not isinstance(found, Mapping):
        return Written(result["status"], "", "" if found is None else str(found))
    cause = found.get("caused_by")
    inner = f" ({cause['reason']})" if isinstance(cause, Mapping) and cause.get("reason") else ""
    return Written(result["status"], str(found.get("type")), f"{found.get('reason')}{inner}")
