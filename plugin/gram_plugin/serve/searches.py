"""Searches as clients send them: which requests are some, and what their bodies want. Pure: bytes to values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from gram_plugin.errors import RequestError
from gram_plugin.search.query import GramExtension, Mode, find_query_text, reason_untouched, take_extension
from gram_plugin.search.rescoring import may_rescore
from gram_plugin.serve.bodies import write_plainly
from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.indices import IndexNames
from gram_plugin.serve.pit import indices_of_pit
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.status import NotEnriched, Reason, Status, degraded, off

MODE_HEADER = "x-gram-mode"
MAX_EXPRESSION_CHARS = 3000
"""Longest list of indices that is looked up for a point in time; OpenSearch takes 4096 bytes of a request line."""
_RESOLUTION = ("allow_no_indices", "expand_wildcards", "ignore_unavailable")
_UNTOUCHED = {"off": Reason.MODE, "no-query": Reason.NO_QUERY, "hybrid": Reason.HYBRID, "no-score": Reason.NO_SCORE}


class Kind(StrEnum):
    """The endpoints that are enriched."""

    SEARCH = "_search"
    MSEARCH = "_msearch"
    SEARCH_TEMPLATE = "_search/template"
    MSEARCH_TEMPLATE = "_msearch/template"

    @property
    def is_multi(self) -> bool:
        """Whether a request holds several searches, each behind a head line."""
        return self in (Kind.MSEARCH, Kind.MSEARCH_TEMPLATE)

    @property
    def is_template(self) -> bool:
        """Whether searches are templates, which OpenSearch renders."""
        return self in (Kind.SEARCH_TEMPLATE, Kind.MSEARCH_TEMPLATE)


@dataclass(frozen=True)
class Target:
    """Endpoint and indices of a search request, from its method and URL."""

    kind: Kind
    names: IndexNames
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Wishes:
    """What holds for a search that says nothing else."""

    mode: Mode
    budget_ms: float


@dataclass(frozen=True)
class Search:
    """One search that may be enriched: its body without `ext.gram`, and what its client wants.

    `rescorable`: nothing in its URL forbids that codes score its first hits alone.
    """

    body: dict[str, Any]
    text: str
    mode: Mode
    budget_ms: float
    names: IndexNames
    rescorable: bool = False


@dataclass(frozen=True)
class Frame:
    """The bytes around a search body."""

    before: bytes = b""
    behind: bytes = b""


@dataclass(frozen=True)
class Line:
    """One search of a request body as it came: its head line, empty for a single search, and itself."""

    head: bytes
    body: bytes


@dataclass(frozen=True)
class Item:
    """One search of a request.

    Attributes:
        head: its line in `_msearch`.
        lexical: what OpenSearch gets when nothing is added.
        wanted: the search, or why it stays lexical whatever the model says.
        explain: whether the answer is to tell where its scores come from.
        frame: what stands before and behind a search body to make an item of it; nothing but in a template.
    """

    head: bytes
    lexical: bytes
    wanted: Search | Status
    explain: bool = False
    frame: Frame = Frame()

    def carrying(self, body: bytes) -> bytes:
        """The item with this search body."""
        return self.frame.before + body + self.frame.behind


def target_of(method: str, raw_path: bytes, query: bytes) -> Target | None:
    """The target of a search request; None for every request that is none."""
    steps = raw_path.decode("latin-1").strip("/").split("/")
    size = 2 if steps[-1] == "template" else 1
    before, endpoint = steps[:-size], "/".join(steps[-size:])
    if method not in ("GET", "POST") or len(before) > 1 or endpoint not in set(Kind):
        return None
    expression = before[0] if before else ""
    if expression.startswith("_") and expression != "_all":
        return None
    parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    return Target(Kind(endpoint), IndexNames(expression, _options(parameters)), parameters)


def header_mode(value: str, default: Mode) -> Mode:
    """The mode that the header `x-gram-mode` names, else the default."""
    text = value.strip().lower()
    return Mode(text) if text in set(Mode) else default


def wishes_of(headers: Mapping[str, str], settings: ShimSettings) -> Wishes:
    """What holds for the searches of a request by its headers, else by the settings."""
    return Wishes(header_mode(headers.get(MODE_HEADER, ""), settings.mode), settings.budget_ms)


def items_of(body: bytes, target: Target, wishes: Wishes, deadline: Deadline | None = None) -> list[Item]:
    """The searches of a request body: one for `_search`, each for `_msearch`.

    Of very many, those that are not read at the deadline stay unread, but for those that may hold an `ext.gram`.

    Raises:
        NotEnriched: the body as a whole is not what the endpoint takes.
    """
    lines = lines_of(body, target.kind)
    return [
        Item(line.head, line.body, degraded(Reason.LATE))
        if number and deadline is not None and not may_hold_gram(line.body) and not deadline.remaining_s
        else item_of(line.head, line.body, target, wishes)
        for number, line in enumerate(lines)
    ]


def may_hold_gram(body: bytes) -> bool:
    """Whether there may be an `ext.gram` in a body, which OpenSearch must not see: the word, or an escape."""
    return b"gram" in body or b"\\u" in body


def lines_of(body: bytes, kind: Kind) -> list[Line]:
    """The searches of a request body, unread.

    Raises:
        NotEnriched: lines do not pair up.
    """
    if not kind.is_multi:
        return [Line(b"", body)]
    lines = body.split(b"\n")
    if lines[-1] or len(lines) % 2 == 0 or len(lines) == 1:
        raise NotEnriched(off(Reason.INVALID))
    return [Line(head, line) for head, line in zip(lines[:-1:2], lines[1::2], strict=True)]


def render_items(items: Sequence[Item], bodies: Sequence[bytes], kind: Kind) -> bytes:
    """The request body that carries `bodies` in place of the items' own."""
    if not kind.is_multi:
        return bodies[0]
    return b"".join(item.head + b"\n" + body + b"\n" for item, body in zip(items, bodies, strict=True))


def write_json(document: Mapping[str, Any], size: int = 0) -> bytes:
    """Compact ASCII JSON of about `size` bytes, so that lone surrogates stay the escapes that they were.

    Raises:
        ValueError: a number does not fit into 64 bits of floating point.
        RecursionError: it is too deep.
    """
    return write_plainly(document, size, allow_nan=False, ensure_ascii=True).encode("ascii")


def item_of(head: bytes, raw: bytes, target: Target, wishes: Wishes) -> Item:
    """Reads one search; whatever it may hold is a status here, never an error."""
    lexical, explain = raw, False
    try:
        document = read_json(raw)
        body = without_gram(document)
        lexical = raw if body is document else write_json(body, len(raw))
        extension = _extension(document)
        explain = extension.explain and not target.kind.is_multi  # where OpenSearch tells no points
        names = _pit_names(body["pit"]) if "pit" in body else _names(head, target.names)
        return Item(head, lexical, _search(body, extension, target, wishes, names), explain)
    except NotEnriched as end:
        return Item(head, lexical, end.status, explain)
    except (ValueError, RecursionError):
        return Item(head, lexical, off(Reason.INVALID))


def read_json(raw: bytes) -> dict[str, Any]:
    """A JSON object that OpenSearch reads in the same way: UTF-8, no key twice, no NaN.

    Raises:
        NotEnriched: there is nothing, or something else than an object.
        ValueError: it is no JSON, or not read in the same way.
        RecursionError: it is too deep.
    """
    if not raw.strip():
        raise NotEnriched(off(Reason.NO_BODY))
    document = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    if not isinstance(document, dict):
        raise NotEnriched(off(Reason.INVALID))
    return document


def without_gram(document: dict[str, Any]) -> dict[str, Any]:
    """The body without `ext.gram`, whatever that holds; the very same object when there is none."""
    extensions = document.get("ext")
    if not isinstance(extensions, dict) or "gram" not in extensions:
        return document
    others = {key: value for key, value in extensions.items() if key != "gram"}
    rest = {key: value for key, value in document.items() if key != "ext"}
    return {**rest, "ext": others} if others else rest


def _extension(document: Mapping[str, Any]) -> GramExtension:
    try:
        return take_extension(document)[1] or GramExtension()
    except RequestError:
        raise NotEnriched(off(Reason.EXTENSION)) from None


def _search(
    body: dict[str, Any], extension: GramExtension, target: Target, wishes: Wishes, names: IndexNames
) -> Search:
    mode = extension.mode or wishes.mode
    reason = _reason_against(body, target, mode)
    if reason is not None:
        raise NotEnriched(off(reason))
    text = extension.query if extension.query is not None else find_query_text(body)
    if not text:
        raise NotEnriched(off(Reason.NO_TEXT))
    budget_ms = wishes.budget_ms if extension.budget_ms is None else extension.budget_ms
    return Search(body, text, mode, budget_ms, names, may_rescore(target.parameters))


def _reason_against(body: Mapping[str, Any], target: Target, mode: Mode) -> Reason | None:
    if mode is Mode.OFF:
        return Reason.MODE
    if not target.kind.is_multi and not {"q", "source"}.isdisjoint(target.parameters):
        return Reason.URL_QUERY
    if mode is Mode.RESCUE and "scroll" in target.parameters:
        return Reason.SCROLL
    return reason_against(body, mode)


def reason_against(body: Mapping[str, Any], mode: Mode) -> Reason | None:
    """Why a body stays as it is in a mode, wherever it is sent; None where codes can be added."""
    untouched = reason_untouched(body, mode)
    return None if untouched is None else _UNTOUCHED.get(untouched, Reason.NO_QUERY)


def listed(indices: Any) -> str:
    """Index names of a JSON document, one or a list, as an expression for a URL."""
    names = indices if isinstance(indices, list) else [indices]
    return ",".join(quote(str(name), safe="*,-_.+") for name in names)


def _names(head: bytes, default: IndexNames) -> IndexNames:
    """The indices of one item of `_msearch`: its head line's, else those of the URL."""
    if not head.strip():
        return default
    line = read_json(head)
    indices = line.get("index", line.get("indices"))
    expression = default.expression if indices is None or indices == [] else listed(indices)
    return IndexNames(expression, _options(line) or default.options)


def _pit_names(pit: Any) -> IndexNames:
    """The indices of a search with a point in time, which names none itself."""
    identifier = pit.get("id") if isinstance(pit, dict) else None
    indices = indices_of_pit(identifier) if isinstance(identifier, str) else None
    expression = listed(indices) if indices else ""
    if not 0 < len(expression) <= MAX_EXPRESSION_CHARS:
        raise NotEnriched(off(Reason.PIT))
    return IndexNames(expression)


def _options(parameters: Mapping[str, Any]) -> str:
    chosen = {key: parameters[key] for key in _RESOLUTION if key in parameters}
    return urlencode({key: str(value).lower() for key, value in chosen.items() if isinstance(value, str | bool)})


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
