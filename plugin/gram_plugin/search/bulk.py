r"""Reading and writing `_bulk` bodies: NDJSON whose lines stay the client's own bytes.

Framing follows OpenSearch: lines end in `\n` (a `\r` before it is white space), the last one too; empty lines where
an action is expected are skipped; `delete` has no source line. A line that breaks the framing refuses the request, as
OpenSearch would, and so does the malformed source of an `update`. Any other *source* that is no JSON object does not:
OpenSearch answers it as one failed item among the others, so it is passed on as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gram_plugin.errors import RequestError

ACTIONS = ("create", "delete", "index", "update")
_NAMING = ("_index", "_id", "routing")

# A string, or what gives an object its shape; UTF-8 has these bytes nowhere else. Possessive: it never steps back.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]', re.DOTALL)


@dataclass(frozen=True)
class BulkItem:
    r"""One action of a bulk request.

    Attributes:
        action: `index`, `create`, `update` or `delete`.
        metadata: what the action line says, such as `_index` and `_id`. A number in the place of a name is the text
            that it was sent as, like for OpenSearch: `1.10` is not `1.1`.
        source: the document, or the body of an update; None for `delete` and where the line is no JSON object.
        line: number of the action line, from 1.
        raw_action: the action line as sent, with the empty lines before it and without its last `\n`: OpenSearch
            counts them in its errors.
        raw_source: the source line as sent, without its `\n`; None for `delete`.
    """

    action: str
    metadata: Mapping[str, Any]
    source: dict[str, Any] | None
    line: int
    raw_action: bytes
    raw_source: bytes | None

    def with_field(self, name: str, value: Any, *, inside: str | None = None, text: bytes = b"") -> BulkItem:
        """The same action with one field of its document set.

        The field is spliced in before the closing brace, so all else stays as sent, byte for byte: numbers that a float
        cannot hold, escapes, order. Of a document that has the field already, that field alone is taken out.

        Args:
            name: of the field.
            value: what it gets.
            inside: the object of the source that is meant, such as the `doc` of an update; None for the source itself.
            text: the value as JSON, where it is there already; empty where it has to be made.

        Raises:
            ValueError: the item has no such document to change.
        """
        document = self.source if inside is None or self.source is None else self.source.get(inside)
        if self.raw_source is None or self.source is None or not isinstance(document, dict):
            raise ValueError(f"line {self.line}: {self.action} has no document")
        changed = {**{key: found for key, found in document.items() if not _is_of(key, name)}, name: value}
        member = json_bytes(name) + b":" + (text or json_bytes(value))
        if inside is None:
            return replace(self, source=changed, raw_source=_with_member(self.raw_source, document, name, member))
        raw = _replaced(self.raw_source, inside, lambda there: _with_member(there, document, name, member))
        return replace(self, source={**self.source, inside: changed}, raw_source=raw)


@dataclass(frozen=True)
class _Line:
    number: int
    content: bytes


def parse_bulk(body: bytes) -> list[BulkItem]:
    """Splits a bulk body into its actions, in order.

    Raises:
        RequestError: the body is empty or does not end in a newline, an action line or the source of an update is
            malformed, or a source line is missing; the message has the number of the line.
    """
    if body.strip() and not body.endswith(b"\n"):
        last_line = body.count(b"\n") + 1
        raise RequestError(
            f"line {last_line}: the bulk body must end with a newline",
            next_step="add \\n after the last line",
        )
    items = list(_items(_Line(number, text) for number, text in enumerate(body.split(b"\n")[:-1], start=1)))
    if not items:
        raise RequestError("the bulk body holds no action", next_step="send at least one action line")
    return items


def render_bulk(items: Iterable[BulkItem]) -> bytes:
    """A bulk body of these items; for items as parsed it equals what was parsed, but for empty lines at its end."""
    return b"".join(line + b"\n" for item in items for line in (item.raw_action, item.raw_source) if line is not None)


def _items(lines: Iterator[_Line]) -> Iterator[BulkItem]:
    skipped: list[bytes] = []
    for line in lines:
        if not line.content.strip():
            skipped.append(line.content)
            continue
        action, metadata = _action_of(line)
        raw_action = b"\n".join([*skipped, line.content])
        skipped.clear()
        if action == "delete":
            yield BulkItem(action, metadata, None, line.number, raw_action, None)
        else:
            source_line = _source_line(lines, line, action)
            source = _source_of(source_line, action)
            yield BulkItem(action, metadata, source, line.number, raw_action, source_line.content)


def _action_of(line: _Line) -> tuple[str, Mapping[str, Any]]:
    try:
        parsed = _json_of(line.content, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(line, f"is no JSON: {error}") from error
    if not isinstance(parsed, dict) or len(parsed) != 1:
        raise _malformed(line, "must be an object with exactly one action")
    ((action, metadata),) = parsed.items()
    if action not in ACTIONS:
        raise _malformed(line, f"has the unknown action {action[:40]!r}")
    if not isinstance(metadata, dict):
        raise _malformed(line, f"must have an object after {action!r}")
    return action, _named_by_text(metadata, line)


def _named_by_text(metadata: Mapping[str, Any], line: _Line) -> Mapping[str, Any]:
    numbers = [key for key in _NAMING if isinstance(metadata.get(key), int | float)]
    if not numbers:
        return metadata
    ((_, texts),) = _json_of(line.content, parse_int=str, parse_float=str, parse_constant=str).items()
    return {**metadata, **{key: texts[key] for key in numbers}}


def _source_line(lines: Iterator[_Line], action_line: _Line, action: str) -> _Line:
    """The next line; OpenSearch would drop an action without one and say nothing."""
    line = next(lines, None)
    if line is None:
        raise _malformed(action_line, f"is the last one, but {action!r} needs a source line after it")
    return line


def _source_of(line: _Line, action: str) -> dict[str, Any] | None:
    """The source as an object; None where OpenSearch will fail the item, an error where it would fail the request."""
    try:
        parsed = _json_of(line.content)
    except (ValueError, RecursionError) as error:
        if action == "update":
            raise _malformed(line, f"is no JSON: {error}") from error
        return None
    return parsed if isinstance(parsed, dict) else None


def _json_of(content: bytes, **options: Any) -> Any:
    return json.loads(content.decode("utf-8-sig"), **options)  # OpenSearch takes a byte order mark too


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """OpenSearch refuses duplicate keys; taking the last would act on another document than it does."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _malformed(line: _Line, finding: str) -> RequestError:
    return RequestError(
        f"line {line.number} of the bulk body {finding}; found {line.content[:80]!r}",
        next_step="send action and source lines in turn, each one JSON object on one line",
    )


@dataclass(frozen=True)
class _Member:
    """One member of an object as it stands between its commas; the value begins at `value_at`."""

    key: str
    raw: bytes
    value_at: int


def _with_member(text: bytes, document: Mapping[str, Any], name: str, member: bytes) -> bytes:
    """The text of a document with a member at its end, in the place of all that have its name."""
    if not any(_is_of(key, name) for key in document):  # the usual case is not read again
        return text.rstrip()[:-1].rstrip() + (b"," if document else b"") + member + b"}"
    kept = b",".join(found.raw for found in _members(text) if not _is_of(found.key, name)).rstrip()
    return _opening(text) + kept + (b"," if kept else b"") + member + b"}"


def _replaced(text: bytes, key: str, change: Callable[[bytes], bytes]) -> bytes:
    """The text of an object with the value of one member changed."""
    raws = [
        found.raw[: found.value_at] + change(found.raw[found.value_at :]) if found.key == key else found.raw
        for found in _members(text)
    ]
    return _opening(text) + b",".join(raws) + b"}"


def _members(text: bytes) -> list[_Member]:
    """The members of an object that parses, however deep it is."""
    at, colon, depth = len(_opening(text)), 0, 0
    members = []
    for token in _TOKEN.finditer(text, at):
        if token[0] in (b"{", b"["):
            depth += 1
        elif depth and token[0] in (b"}", b"]"):
            depth -= 1
        elif not depth and token[0] == b":":
            colon = token.end()
        elif not depth and token[0] in (b",", b"}"):
            if colon:
                key = json.loads(text[at : colon - 1].decode())
                members.append(_Member(key, text[at : token.start()], colon - at))
            at, colon = token.end(), 0
    return members


def _opening(text: bytes) -> bytes:
    return text[: text.index(b"{") + 1]


def _is_of(key: str, name: str) -> bool:
    """Whether a key sets a field or something inside it."""
    return key == name or key.startswith(f"{name}.")


def json_bytes(value: Any) -> bytes:
    """A value as JSON as short as it can be, in UTF-8; with escapes where UTF-8 cannot hold it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate can only travel as an escape
        return json.dumps(value, separators=(",", ":")).encode()
