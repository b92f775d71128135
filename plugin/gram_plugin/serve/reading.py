"""Reading: what of a product document its codes depend on — its rendered text, and the codes that it surely has."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gram_plugin.contract.codes import Code
from gram_plugin.contract.text import Rendering, render_product, source_hash
from gram_plugin.serve.cache import LatestCache

_log = logging.getLogger(__name__)

Tags = Callable[[Mapping[str, Any]], Sequence[Code]]
"""From a product document to the codes that it surely has."""


@dataclass(frozen=True)
class Text:
    """A product rendered at `at`, the hash that stands for its text and model, and the codes that it surely has.

    `key` stands for the values of all fields that were read; None where these are not known or have no form in JSON.
    """

    rendered: str
    hash: str
    at: datetime
    tags: tuple[Code, ...] = ()
    key: bytes | None = None


@dataclass(frozen=True)
class Unreadable:
    """A product that cannot be rendered, and what was said of it."""

    said: str


class Reader:
    """Renders and tags products; the same fields once, which costs half a millisecond.

    Args:
        rendering: the fields that are rendered.
        tags: the codes that a document surely has; None where only the model is asked.
        reads: paths of all fields that are read; None where that is not known.
        entries: most texts that are remembered.

    Attributes:
        names: the keys of a document below which something is read; None where that is not known.
    """

    def __init__(self, rendering: Rendering, tags: Tags | None, reads: Iterable[str] | None, entries: int) -> None:
        self._rendering = rendering
        self._tags = tags
        self.names = None if reads is None else _names_at_top(reads)
        self._texts: LatestCache[bytes, Text] = LatestCache(entries)

    def key_of(self, source: Mapping[str, Any]) -> bytes | None:
        """Stands for the values of all fields that are read; None where they have no form in JSON, or are unknown."""
        return None if self.names is None else _digest(source, self.names)

    def read(
        self, source: Mapping[str, Any], generation: str, at: datetime, key: bytes | None = None
    ) -> Text | Unreadable:
        """What is read of a product.

        Args:
            source: the document.
            generation: of the model that will be asked.
            at: the time that a text gets which was not known.
            key: of `key_of`.
        """
        known = None if key is None else self._texts.get(key)
        if known is not None:
            return known
        try:
            rendered = render_product(source, self._rendering)
            tags = tuple(self._tags(source)) if self._tags else ()
        except (ValueError, RecursionError) as error:
            _log.warning("a product cannot be rendered: %r", error)
            return Unreadable(repr(error))
        found = Text(rendered, source_hash(rendered, generation), at, tags, key)
        if key is not None:
            self._texts.put(key, found)
        return found


def _names_at_top(paths: Iterable[str]) -> tuple[str, ...]:
    """The keys of a document below which a reader of these dotted paths may look: the whole path, or its head."""
    return tuple(dict.fromkeys(name for path in paths for name in (path, path.partition(".")[0])))


def _digest(source: Mapping[str, Any], names: Iterable[str]) -> bytes | None:
    """Stands for the values of some fields; None where they have no form in JSON."""
    try:
        text = json.dumps({name: source[name] for name in names if name in source}, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
