"""Scripts of updates: whether one may change what the model reads of a product, and which products one has changed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_plugin.contract.text import Rendering
from gram_plugin.search.bulk import BulkItem
from gram_plugin.serve.fields import GramFields

# A field that is named outright, or the outcome of the update. `ctx._source.remove(…)` is a call, not a field.
_PLAIN = re.compile(r"ctx\._source\.([A-Za-z_][A-Za-z_0-9]*+)(?!\s*\()|ctx\.op\b")
_COMMENTED = re.compile(r"/[/*]")  # a comment may stand anywhere, before the parenthesis of a call too
_LANGUAGES = (None, "painless")


def may_change_text(update: Mapping[str, Any], rendering: Rendering, own: str) -> bool:
    """Whether the script of an update may change a rendered field, or the field `own`; False where there is none.

    Surely harmless is only an inline script in Painless that reaches the product by nothing but fields named outright,
    all of them others, and that has no comment. A stored script cannot be read here, and one that takes the whole
    source may do anything.

    Args:
        update: the body of the update.
        rendering: the fields that are read.
        own: the field that the write path owns.
    """
    script = update.get("script")
    if script is None:
        return False
    parts = script if isinstance(script, Mapping) else {"source": script}
    source = parts.get("source")
    if not isinstance(source, str) or parts.get("lang") not in _LANGUAGES or _COMMENTED.search(source):
        return True
    if "ctx" in _PLAIN.sub("", source):
        return True
    named = {found[1] for found in _PLAIN.finditer(source) if found[1]}
    return not named.isdisjoint({path.partition(".")[0] for path in rendering.fields} | {own})


@dataclass(frozen=True)
class Scripted:
    """An update with a script that may change the text: its place in the request, and what its index can take."""

    place: int
    item: BulkItem
    fields: GramFields


def changed_of(scripted: Sequence[Scripted], count: int, answer: bytes | None) -> list[Scripted]:
    """Those that OpenSearch says it has updated; all, where its answer cannot be read.

    Args:
        scripted: of a request.
        count: of all items of the request.
        answer: of OpenSearch to the `_bulk`; None if it is too large or packed in an unknown way.
    """
    results = _results(answer, count)
    return [found for found in scripted if results is None or _is_changed(results[found.place])]


def is_changed(answer: bytes | None) -> bool:
    """Whether a single update has changed its product, by OpenSearch's answer; True where that cannot be read."""
    try:
        return _is_changed(json.loads(answer or b""))
    except (ValueError, RecursionError):
        return True


def _results(answer: bytes | None, count: int) -> list[Any] | None:
    try:
        results = [next(iter(item.values())) for item in json.loads(answer or b"")["items"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, StopIteration):
        return None
    return results if len(results) == count else None


def _is_changed(result: Any) -> bool:
    """Also where `filter_path` took away what would tell."""
    return not isinstance(result, Mapping) or ("error" not in result and result.get("result", "updated") == "updated")
