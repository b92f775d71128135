"""How a product or a query becomes model input: the one implementation for training, export, ingest and query.

Changing what a text renders to changes what every trained model sees, so it raises `TEXT_VERSION`,
and a bundle made with another version is refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gram_plugin.contract.codes import fold

TEXT_VERSION = 2
MAX_QUERY_CHARS = 256
MAX_PRODUCT_CHARS = 1024
MAX_FIELD_CHARS = 512
SEPARATOR = " ; "

_DIGEST_BYTES = 16
_HASH_BYTES = 12

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc, whole


@dataclass(frozen=True)
class Rendering:
    """Which fields of a product are read, in order; dotted paths reach into objects.

    `max_field_chars` bounds one field, so that a long description cannot push the rest out.
    """

    fields: tuple[str, ...]
    max_chars: int = MAX_PRODUCT_CHARS
    max_field_chars: int = MAX_FIELD_CHARS


def normalise(text: str, max_chars: int) -> str:
    """NFKC, case-folded, controls to a space, white space collapsed, cut at `max_chars`.

    Reads at most 4 x `max_chars` characters, so a text of any length costs the same.
    """
    printable = _CONTROLS.sub(" ", fold(text[: 4 * max_chars]))
    return " ".join(printable.split())[:max_chars].rstrip()


def render_query(text: str) -> str:
    """Model input of a query; empty when there is nothing to read."""
    return normalise(text, MAX_QUERY_CHARS)


def render_product(source: Mapping[str, Any], rendering: Rendering) -> str:
    """Model input of a product document; empty when none of its fields has text.

    Numbers are written as JSON writes them, a whole one without `.0`; true, false and null are no words and left out.
    """
    parts = (_field_text(source, path, rendering.max_field_chars) for path in rendering.fields)
    return SEPARATOR.join(part for part in parts if part)[: rendering.max_chars].rstrip()


def source_hash(rendered: str, generation: str) -> str:
    """16 characters over model generation, text version and rendered text: equal means nothing to re-code.

    96 bits in base64url: docs/adr/0006 says why so many are enough, and what each further byte costs an index.
    """
    seed = f"{generation}\x00{TEXT_VERSION}\x00{rendered}"
    digest = hashlib.blake2b(seed.encode(), digest_size=_DIGEST_BYTES).digest()
    return base64.urlsafe_b64encode(digest[:_HASH_BYTES]).decode()


def is_source_hash(stored: object, current: str) -> bool:
    """Whether what an index has is this hash: as `source_hash` writes it, or as the 32 hex digits of earlier days."""
    if not isinstance(stored, str) or len(stored) != 2 * _DIGEST_BYTES:
        return stored == current
    return stored.startswith(base64.urlsafe_b64decode(current).hex())


def field_values(source: Mapping[str, Any], path: str) -> list[str]:
    """All texts and numbers at a dotted path, arrays flattened, in document order."""
    return list(_leaves(_at_path(source, path)))


def _field_text(source: Mapping[str, Any], path: str, max_chars: int) -> str:
    return normalise(" ".join(field_values(source, path)), max_chars)


def _at_path(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [_at_path(item, path) for item in value]
    if not isinstance(value, Mapping):
        return None
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    return _at_path(value.get(head), rest) if dot else None


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value).removesuffix(".0")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
