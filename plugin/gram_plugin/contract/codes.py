"""Codes: canonical combinations of typed attributes, and their text on the wire.

`type=notebook|brand=hp` is a code of two attributes. In the index a code is prefixed by the
model generation, `g3/type=notebook|brand=hp`, so that codes of two models can never match.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Protocol
from urllib.parse import unquote

from gram_plugin.errors import CodeError

ATTRIBUTE_TYPES: tuple[str, ...] = (
    "type",
    "brand",
    "series",
    "model",
    "function",
    "material",
    "style",
    "colour",
    "sales_spec",
    "technical_spec",
    "time",
    "audience",
    "scenario",
    "modifier",
    "marketing",
    "other",
)
"""The 16 types of GRAM in canonical order: the category first, it decides what the rest means."""

MAX_ATTRIBUTES = 6
MAX_STORED_BYTES = 256
MAX_CODE_BYTES = MAX_STORED_BYTES - len("g9999/")
BEAM_WIDTH = 10
"""GRAM's beam size: most codes that the generator writes for a query."""
MAX_CODES = 24
"""Most codes that a query is given: what the generator writes, and what the linear arm adds."""
MAX_BATCH_TOKENS = 1024
"""Most tokens, padding included, that the model reads at once, if nothing else is said."""
MAX_PRODUCT_CODES = 24
"""Most codes that a product is given: those that it surely has, and those that the generator adds."""

_RANK = {name: rank for rank, name in enumerate(ATTRIBUTE_TYPES)}
_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_GENERATION = re.compile(r"g[1-9][0-9]*")
_RESERVED = frozenset("%.|=")


class Role(StrEnum):
    """Which of the two generators reads a text."""

    QUERY = "query"
    PRODUCT = "product"


class Granularity(StrEnum):
    """How narrow a code is: coarse 1-2 attributes, medium 3, fine more."""

    COARSE = "coarse"
    MEDIUM = "medium"
    FINE = "fine"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A typed value such as `colour=black`; both parts are in canonical form."""

    type: str
    value: str

    @classmethod
    def of(cls, type_name: str, value: str) -> Attribute:
        """Builds an attribute from raw text.

        Raises:
            CodeError: the type is no lower-case identifier, or the value is empty once normalised.
        """
        if not _TYPE_NAME.fullmatch(type_name):
            raise CodeError(
                f"attribute type {type_name!r} is not a lower-case identifier",
                next_step="use letters a-z, digits and _ in gram.toml, for example 'screen_size'",
            )
        canonical = canonical_value(value)
        if not canonical:
            raise CodeError(f"attribute {type_name!r} has an empty value ({value!r})")
        return cls(type_name, canonical)

    @property
    def sort_key(self) -> tuple[int, str, str]:
        """Position in a code: GRAM's types in their order, owner-added types after them by name."""
        return (_RANK.get(self.type, len(_RANK)), self.type, self.value)

    def __str__(self) -> str:
        return f"{self.type}={self.value}"


@dataclass(frozen=True)
class Code:
    """One to six distinct attributes in canonical order."""

    attributes: tuple[Attribute, ...]

    @classmethod
    def of(cls, attributes: Iterable[Attribute]) -> Code:
        """Sorts and de-duplicates attributes into a code.

        Raises:
            CodeError: there are none, or more than six, or the text is longer than 256 bytes.
        """
        ordered = tuple(sorted(set(attributes), key=lambda attribute: attribute.sort_key))
        if not 1 <= len(ordered) <= MAX_ATTRIBUTES:
            raise CodeError(f"a code has 1 to {MAX_ATTRIBUTES} attributes, found {len(ordered)}")
        code = cls(ordered)
        if len(code.text.encode()) > MAX_CODE_BYTES:
            raise CodeError(f"code {code.text[:60]!r}... is longer than {MAX_STORED_BYTES} bytes")
        return code

    @classmethod
    def parse(cls, text: str) -> Code:
        """Reads the wire text of a code; the inverse of `text`.

        Raises:
            CodeError: the text is not canonical, so it could never equal a stored code.
        """
        code = cls.of(_parse_attribute(part, text) for part in text.split("|"))
        if code.text != text:
            raise CodeError(f"{text!r} is not canonical, expected {code.text!r}")
        return code

    @cached_property
    def text(self) -> str:
        """The wire text without generation, e.g. `type=notebook|brand=hp`."""
        return "|".join(map(str, self.attributes))

    @property
    def family(self) -> Attribute:
        """The leading attribute; nested codes share it and must not count twice."""
        return self.attributes[0]

    @property
    def granularity(self) -> Granularity:
        """GRAM's coarse, medium or fine, by the number of attributes."""
        if len(self.attributes) <= 2:
            return Granularity.COARSE
        return Granularity.MEDIUM if len(self.attributes) == 3 else Granularity.FINE

    def stored(self, generation: str) -> str:
        """The keyword that an index holds: `<generation>/<text>`."""
        return f"{check_generation(generation)}/{self.text}"

    def __hash__(self) -> int:
        """That of the text, which is made once: writing looks a code up many times for each product."""
        return hash(self.text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ScoredCode:
    """A code and its calibrated probability given one text, 0 < probability <= 1.

    `rarity` is the code's inverse document frequency as a share of the highest there can be,
    ln(products / carriers) / ln(products): 1 for a code of one product, near 0 for a code of nearly all.
    """

    code: Code
    probability: float
    rarity: float = 1.0


class Generator(Protocol):
    """Text to ranked codes: the one protocol that serving knows of a model."""

    @property
    def generation(self) -> str:
        """The model generation, such as `g3`."""

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Writes codes for rendered texts (see `contract.text`), best first, one list per text.

        A text that the model has nothing to say about gets an empty list.

        Raises:
            DecodeError: the model failed; no partial answer is given.
        """


def canonical_value(raw: str) -> str:
    """NFKC, case-folded, white space to `_`, reserved and control characters percent-encoded."""
    return "".join(map(_encode_character, "_".join(fold(raw).split())))


def fold(text: str) -> str:
    """NFKC and case folding until nothing changes; a lone surrogate becomes `?`."""
    folded = text.encode("utf-8", "replace").decode("utf-8")
    while (again := unicodedata.normalize("NFKC", folded.casefold())) != folded:
        folded = again
    return folded


def readable_value(value: str) -> str:
    """The words of a canonical value, for model input and for people: `running_shoe` → `running shoe`."""
    return unquote(value.replace("_", " "))


def parse_stored(text: str) -> tuple[str, Code]:
    """Splits a stored keyword into generation and code.

    Raises:
        CodeError: there is no generation prefix, or the rest is no canonical code.
    """
    generation, slash, rest = text.partition("/")
    if not slash:
        raise CodeError(f"stored code {text!r} has no generation prefix such as 'g1/'")
    return check_generation(generation), Code.parse(rest)


def check_generation(generation: str) -> str:
    """Returns a model generation `g1`, `g2`, ... or raises CodeError."""
    if not _GENERATION.fullmatch(generation):
        raise CodeError(f"model generation {generation!r} is not of the form g1, g2, ...")
    return generation


def _parse_attribute(part: str, whole: str) -> Attribute:
    type_name, equals, value = part.partition("=")
    if not (equals and value and _TYPE_NAME.fullmatch(type_name)):
        raise CodeError(f"{whole!r} is no code: {part!r} is not of the form type=value")
    return Attribute(type_name, canonical_value(unquote(value)))


def _encode_character(character: str) -> str:
    if character in _RESERVED or unicodedata.category(character) == "Cc":
        return "".join(f"%{byte:02X}" for byte in character.encode())
    return character
