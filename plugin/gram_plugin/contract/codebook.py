"""The codebook as serving keeps it: codes in columns of numbers, a Python object only for the code that is asked for.

A codebook may have millions of codes; as objects each would take half a kilobyte.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from gram_plugin.contract.codes import MAX_ATTRIBUTES, MAX_CODE_BYTES, Attribute, Code
from gram_plugin.errors import BundleError, CodeError

Int32Array = npt.NDArray[np.int32]

_REMAKE = "make the bundle again with `gram export`, or copy it again whole"
_MOST_PRODUCTS = 2**31 - 1
KEPT_CODES = 20_000
"""Codes that are kept as objects, of some 400 bytes each."""


@dataclass(frozen=True)
class CodebookEntry:
    """A code and the number of training products that carry it."""

    code: Code
    products: int


@dataclass(frozen=True, eq=False)
class Codebook(Sequence[CodebookEntry]):
    """All codes of a catalogue; code i has the attributes `parts[offsets[i]:offsets[i + 1]]`.

    Attributes:
        attributes: the distinct attributes of all codes, in canonical order.
        offsets: int32, shape (codes + 1,), ascending from 0.
        parts: int32, shape (n,), places in `attributes`, ascending within a code.
        products: int32, shape (codes,), how many training products carry each.
    """

    attributes: tuple[Attribute, ...]
    offsets: Int32Array
    parts: Int32Array
    products: Int32Array

    @classmethod
    def of(cls, entries: Iterable[CodebookEntry]) -> Codebook:
        """The columns of entries, in their order."""
        given = tuple(entries)
        attributes = attributes_of(given)
        place = {attribute: at for at, attribute in enumerate(attributes)}
        parts = chain.from_iterable(entry.code.attributes for entry in given)
        return cls(
            attributes,
            np.cumsum([0, *(len(entry.code.attributes) for entry in given)]).astype(np.int32),
            np.fromiter((place[attribute] for attribute in parts), np.int32),
            np.fromiter((entry.products for entry in given), np.int32),
        )

    def __len__(self) -> int:
        """How many codes there are."""
        return len(self.products)

    @overload
    def __getitem__(self, at: int) -> CodebookEntry: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[CodebookEntry, ...]: ...
    def __getitem__(self, at: int | slice) -> CodebookEntry | tuple[CodebookEntry, ...]:
        """One entry, or several, made for the asker.

        Raises:
            IndexError: there is no such code.
        """
        if isinstance(at, slice):
            return tuple(self[place] for place in range(*at.indices(len(self))))
        place = range(len(self))[at]
        return CodebookEntry(self._maker()(place), int(self.products[place]))

    @cached_property
    def code(self) -> Callable[[int], Code]:
        """The code at a place, 0 to `len` - 1; the ones asked for last are kept, so that many answers share them."""
        return lru_cache(KEPT_CODES)(self._maker())

    def _maker(self) -> Callable[[int], Code]:
        """Makes the code at a place; without a reference to this object, which would hold itself."""
        attributes, offsets, parts = self.attributes, self.offsets, self.parts

        def made(place: int) -> Code:
            return Code(tuple(attributes[part] for part in parts[offsets[place] : offsets[place + 1]].tolist()))

        return made

    @cached_property
    def longest(self) -> int:
        """Attributes of the longest code; 0 where there is none."""
        return int(np.diff(self.offsets).max(initial=0))


def attributes_of(codebook: Sequence[CodebookEntry]) -> tuple[Attribute, ...]:
    """The distinct attributes of a codebook in canonical order; position i has token id `first_attribute` + i."""
    if isinstance(codebook, Codebook):
        return codebook.attributes
    distinct = {attribute for entry in codebook for attribute in entry.code.attributes}
    return tuple(sorted(distinct, key=lambda attribute: attribute.sort_key))


def write_codebook(path: Path, entries: Iterable[CodebookEntry]) -> None:
    """Writes the codebook in order of code text, so that equal codebooks are equal files."""
    ordered = sorted((entry.code.text, entry.products) for entry in entries)
    path.write_text("".join(f"{text}\t{products}\n" for text, products in ordered), encoding="utf-8")


def read_codebook(path: Path) -> Codebook:
    """Reads `code<TAB>products` lines.

    Raises:
        BundleError: a line is malformed; the message has its number.
    """
    reading = _Reading(path)
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                reading.take(number, line.rstrip("\n"))
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8: {error}", next_step=_REMAKE) from error
    return reading.codebook()


class _Reading:
    """A codebook on its way from a file; attributes are numbered as they come, and in order at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, int] = {}
        self._parts, self._offsets, self._products = array("i"), array("i", [0]), array("i")

    def take(self, number: int, line: str) -> None:
        """Reads one line, whose number is for messages."""
        text, tab, products = line.partition("\t")
        if not tab or not (products.isdecimal() and int(products) <= _MOST_PRODUCTS):
            raise BundleError(
                f"{self._path}:{number}: expected code<TAB>products, found {line[:80]!r}", next_step=_REMAKE
            )
        known = self._known
        parts = text.split("|")
        try:
            if len(parts) > MAX_ATTRIBUTES or len(text.encode()) > MAX_CODE_BYTES:
                Code.parse(text)
            for part in parts:
                if part not in known:
                    Code.parse(part)
                    known[part] = len(known)
        except CodeError as error:
            raise BundleError(f"{self._path}:{number}: {error}", next_step=_REMAKE) from error
        self._parts.extend([known[part] for part in parts])
        self._offsets.append(len(self._parts))
        self._products.append(int(products))

    def codebook(self) -> Codebook:
        """All that was taken, attributes in canonical order."""
        attributes = [Code.parse(text).family for text in self._known]
        order = sorted(range(len(attributes)), key=lambda at: attributes[at].sort_key)
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        parts = place[np.frombuffer(self._parts, np.int32)] if self._parts else np.empty(0, np.int32)
        offsets = np.array(self._offsets, np.int32)
        self._check_order(parts, offsets, [attributes[at] for at in order])
        return Codebook(tuple(attributes[at] for at in order), offsets, parts, np.array(self._products, np.int32))

    def _check_order(self, parts: Int32Array, offsets: Int32Array, attributes: Sequence[Attribute]) -> None:
        """Each part of a code is canonical; so is the code if they ascend."""
        falls = np.flatnonzero(np.diff(parts) <= 0) + 1  # places of parts that do not come after the one before
        wrong = np.setdiff1d(falls, offsets)
        if wrong.size:
            row = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
            own = [attributes[part] for part in parts[offsets[row] : offsets[row + 1]].tolist()]
            expected = Code.of(own).text
            raise BundleError(
                f"{self._path}:{row + 1}: {'|'.join(map(str, own))!r} is not canonical, expected {expected!r}",
                next_step=_REMAKE,
            )
