"""Tagging: the attributes and the codes that a product document says by itself, without a model.

Two exact sources: typed fields, and phrases of the text that the typed fields of the catalogue have taught
(`Lexicon`); products that these leave bare are given the telling words of their title. Training makes the codebook
with it, and ingest gives every product the codes that it surely has; the generator adds those that it only suggests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gram_plugin.contract.codes import Attribute, Code
from gram_plugin.contract.text import field_values, normalise
from gram_plugin.contract.words import words
from gram_plugin.errors import BundleError, CodeError

MAX_VALUE_CHARS = 48
SPARSE_ATTRIBUTES = 3
"""A product with fewer attributes than this is filled up with terms of its title."""
MAX_TEXT_CHARS = 2048

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class ProductText:
    """One product as attribute extraction sees it."""

    title: str
    text: str
    fields: tuple[Attribute, ...]


@dataclass(frozen=True)
class Lexicon:
    """Phrases of text and the attributes that they stand for."""

    phrases: Mapping[Phrase, tuple[Attribute, ...]]

    def match(self, text: str) -> list[Attribute]:
        """Attributes of the longest phrases in a normalised text, left to right, without repetition."""
        tokens, found, at = words(text), dict[Attribute, None](), 0
        while at < len(tokens):
            length = self._longest_at(tokens, at)
            for attribute in self.phrases.get(tuple(tokens[at : at + length]), ()):
                found.setdefault(attribute)
            at += max(length, 1)
        return list(found)

    def match_all(self, text: str) -> list[Attribute]:
        """Attributes of every phrase in a normalised text, those within longer ones too, without repetition."""
        tokens, found = words(text), dict[Attribute, None]()
        for at, token in enumerate(tokens):
            for length in range(min(self._longest.get(token, 0), len(tokens) - at), 0, -1):
                for attribute in self.phrases.get(tuple(tokens[at : at + length]), ()):
                    found.setdefault(attribute)
        return list(found)

    def _longest_at(self, tokens: Sequence[str], at: int) -> int:
        longest = min(self._longest.get(tokens[at], 0), len(tokens) - at)
        return next((n for n in range(longest, 0, -1) if tuple(tokens[at : at + n]) in self.phrases), 0)

    @cached_property
    def _longest(self) -> Mapping[str, int]:
        """How many words the longest phrase has that begins with a word."""
        longest: dict[str, int] = {}
        for phrase in self.phrases:
            longest[phrase[0]] = max(len(phrase), longest.get(phrase[0], 0))
        return longest


@dataclass(frozen=True)
class Tagger:
    """What a catalogue has taught about finding attributes in a product.

    Attributes:
        text: fields of text, the title first.
        types: field path to attribute type.
        lexicon: phrases of the text that stand for attributes.
        terms: words of the title that do for products with few attributes.
    """

    text: tuple[str, ...]
    types: Mapping[str, str]
    lexicon: Lexicon
    terms: Lexicon

    def attributes(self, source: Mapping[str, Any]) -> tuple[Attribute, ...]:
        """All attributes of one product document."""
        return product_attributes(product_text(source, self.text, self.types), self.lexicon, self.terms)

    def save(self, path: Path) -> None:
        """Writes the tagger as JSON."""
        document = {
            "text": list(self.text),
            "types": dict(self.types),
            "lexicon": _lexicon_document(self.lexicon),
            "terms": _lexicon_document(self.terms),
        }
        path.write_text(json.dumps(document, ensure_ascii=False, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Tagger:
        """Reads what `save` wrote.

        Raises:
            BundleError: the file is malformed.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                text=tuple(map(str, document["text"])),
                types={str(field): str(kind) for field, kind in document["types"].items()},
                lexicon=_lexicon_of(document["lexicon"]),
                terms=_lexicon_of(document["terms"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CodeError) as error:
            raise BundleError(f"{path} is no tagger: {error!r}", next_step="make the bundle again") from error


def field_attributes(source: Mapping[str, Any], types: Mapping[str, str]) -> tuple[Attribute, ...]:
    """Attributes of a product's typed fields, `types` being field path to attribute type.

    Values too long to be a name for anything (over 48 characters) are left out.
    """
    found = dict[Attribute, None]()
    for path, type_name in types.items():
        for value in field_values(source, path):
            attribute = attribute_or_none(type_name, value)
            if attribute:
                found.setdefault(attribute)
    return tuple(found)


def product_attributes(product: ProductText, lexicon: Lexicon, terms: Lexicon) -> tuple[Attribute, ...]:
    """All attributes of one product; text may add a type that its fields lack, never contradict one."""
    typed = {attribute.type for attribute in product.fields}
    from_text = (attribute for attribute in lexicon.match(product.text) if attribute.type not in typed)
    found = dict.fromkeys((*product.fields, *from_text))
    if len(found) < SPARSE_ATTRIBUTES:
        found.update(dict.fromkeys(terms.match_all(product.title)))
    return tuple(found)


def product_text(source: Mapping[str, Any], text_fields: Sequence[str], types: Mapping[str, str]) -> ProductText:
    """Gathers what extraction needs of a product document; texts are normalised."""
    texts = [normalise(" ".join(field_values(source, path)), MAX_TEXT_CHARS) for path in text_fields]
    return ProductText(texts[0] if texts else "", " ; ".join(texts), field_attributes(source, types))


def attribute_or_none(type_name: str, value: str) -> Attribute | None:
    """An attribute, or None for a value that names nothing: too long, even for a code of its own, or without words."""
    if len(value) > MAX_VALUE_CHARS or not words(value.casefold()):
        return None
    try:
        return Code.of([Attribute.of(type_name, value)]).family
    except CodeError:
        return None


def _lexicon_document(lexicon: Lexicon) -> list[list[Any]]:
    return [[list(phrase), [str(attribute) for attribute in found]] for phrase, found in lexicon.phrases.items()]


def _lexicon_of(document: list[Any]) -> Lexicon:
    return Lexicon({tuple(map(str, phrase)): tuple(map(_attribute_of, found)) for phrase, found in document})


def _attribute_of(text: str) -> Attribute:
    return Code.parse(text).attributes[0]
