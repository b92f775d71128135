"""How merchants write about a product: title, description and structured fields, none of them complete."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from gram_exporter.shop.dice import Dice
from gram_exporter.shop.misspelling import misspell
from gram_exporter.shop.product import Product
from gram_exporter.shop.vocabulary import DRAWN, Merchant, Trait, Value, Vocabulary

_IN_TITLE = {
    "type": 0.97,
    "brand": 0.85,
    "series": 0.7,
    "model": 0.5,
    "colour": 0.7,
    "material": 0.6,
    "style": 0.4,
    "function": 0.5,
    "audience": 0.65,
    "scenario": 0.25,
    "modifier": 0.6,
    "season": 0.5,
    "pack": 0.9,
    "spec": 0.75,
}
"""How likely a trait is written into a title that has a place for it, before the merchant's `detail`."""

_IN_FIELD = {
    "type": 1.1,
    "brand": 1.1,
    "series": 0.7,
    "model": 1.0,
    "colour": 1.0,
    "material": 0.95,
    "style": 0.6,
    "function": 0.7,
    "audience": 0.95,
    "scenario": 0.5,
    "modifier": 0.45,
    "season": 0.8,
    "pack": 0.9,
    "spec": 1.0,
}
"""How likely a structured field is filled in, before the merchant's `fill`."""

_IN_DESCRIPTION = 0.5
_NO_DESCRIPTION = 0.05
_FAVOURITE = 0.75
_OWN_LABEL = 0.1
_CROSS_MENTION = 0.25
_SHOUTED = 6  # of the titles with noise, one in six is in capitals
_LISTS = {"function": "features", "scenario": "occasion"}
_FIELD_NAMES = {"type": "product_type", "modifier": "build", **_LISTS}


def write_document(vocabulary: Vocabulary, seed: int, product: Product) -> dict[str, Any]:
    """The product document that the shop would index; keys in a fixed order, absent where nothing was entered."""
    merchant = Dice(seed, "merchant", product.line).pick(vocabulary.merchants)
    writer = _Writer(vocabulary, merchant, product, Dice(seed, "document", product.index))
    document: dict[str, Any] = {"id": product.id, "title": writer.title()}
    description = writer.description()
    if description:
        document["description"] = description
    document["department"] = vocabulary.departments[product.type.department].label
    return document | writer.fields() | {"price_eur": product.price_cents / 100, "merchant": merchant.key}


@cache
def _favourite(merchant: str, trait: Trait, texts: tuple[str, ...], weights: tuple[float, ...]) -> str:
    return Dice("favourite", merchant, *trait).weighted(texts, weights)


def _slot(trait: Trait) -> str:
    return trait.dimension if trait.dimension in _IN_TITLE else "spec"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _capitals(text: str) -> str:
    return " ".join(map(_capital, text.split(" ")))


class _Writer:
    """One merchant at work on one product; its draws fall in the order title, description, fields."""

    def __init__(self, vocabulary: Vocabulary, merchant: Merchant, product: Product, dice: Dice) -> None:
        self._vocabulary, self._merchant, self._product, self._dice = vocabulary, merchant, product, dice

    def title(self) -> str:
        """Traits in the merchant's order, some left out, with his noise, abbreviations and slips."""
        dice, merchant = self._dice, self._merchant
        parts = list(self._title_parts())
        if len(parts) < 2:
            parts = [self._product.first(name) or "" for name in ("brand", "series", "model")]
        if dice.chance(merchant.abbreviation):
            parts = [self._abbreviated(part) for part in parts]
        noisy = dice.chance(merchant.noise)
        if noisy:
            parts.insert(0 if dice.chance(0.5) else len(parts), dice.pick(self._vocabulary.copy.noise))
        title = self._with_typo(_capital(merchant.separator.join(parts)))
        return title.upper() if noisy and dice.index(_SHOUTED) == 0 else title

    def description(self) -> str:
        """An opening, some facts as sentences or bullets, then what marketing adds; empty for one in twenty."""
        dice, copy = self._dice, self._vocabulary.copy
        if dice.chance(_NO_DESCRIPTION):
            return ""
        told = [trait for trait in self._product.stated[2:] if dice.chance(_IN_DESCRIPTION)]
        facts = [self._sentence(trait) for trait in dice.shuffled(told)]
        kind, brand = self._said(self._product.stated[0]), self._product.first("brand")
        opening = dice.pick(copy.opening).format(type=kind, brand=brand)
        closing = [*dice.sample(copy.fluff, 1 + dice.index(3)), *self._cross_mention()]
        bullet = "✓ " if self._merchant.bullets else ""
        return " ".join([_capital(opening), *(bullet + _capital(fact) for fact in facts), *closing])

    def fields(self) -> dict[str, Any]:
        """Structured fields, mostly with the taxonomy's label, sometimes with the merchant's own word."""
        fields: dict[str, Any] = {}
        for trait in self._product.stated:
            if self._dice.chance(_IN_FIELD[_slot(trait)] * self._merchant.fill):
                name, text = self._field_name(trait), self._field_text(trait)
                fields[name] = [*fields.get(name, []), text] if trait.dimension in _LISTS else text
        return fields

    def _value(self, trait: Trait) -> Value | None:
        return self._vocabulary.values.get(trait)

    def _said(self, trait: Trait) -> str:
        """The merchant's word: mostly the house's own favourite, else as the trade says it."""
        value = self._value(trait)
        if value is None:
            return trait.value
        words = value.merchant
        if self._dice.chance(_FAVOURITE):
            return _favourite(self._merchant.key, trait, words.texts, words.weights)
        return self._dice.word(words)

    def _title_parts(self) -> Iterator[str]:
        for slot in self._merchant.order:
            detail = 1.0 if slot == "type" else self._merchant.detail
            for trait in self._product.stated:
                if _slot(trait) == slot and self._dice.chance(_IN_TITLE[slot] * detail):
                    yield _capitals(self._said(trait))

    def _abbreviated(self, part: str) -> str:
        for long, short in self._vocabulary.copy.abbreviations.items():
            part = part.replace(long, short)
        return part

    def _with_typo(self, title: str) -> str:
        words = title.split(" ")
        places = [place for place, word in enumerate(words) if word.isalpha() and len(word) > 4]
        if places and self._dice.chance(self._merchant.typo):
            place = self._dice.pick(places)
            words[place] = misspell(words[place], self._dice)
        return " ".join(words)

    def _sentence(self, trait: Trait) -> str:
        sentences = self._vocabulary.copy.sentence[_slot(trait)]
        return self._dice.pick(sentences).format(w=self._said(trait))

    def _cross_mention(self) -> Iterator[str]:
        """Names another type of the department: words that are there and mean nothing, as in every real shop."""
        if self._dice.chance(_CROSS_MENTION):
            own = self._product.type
            types = self._vocabulary.assortment
            others = [kind.key for kind in types if kind.department == own.department and kind.key != own.key]
            other = self._said(Trait("type", self._dice.pick(others)))
            yield self._dice.pick(self._vocabulary.copy.cross).format(other=other)

    def _field_name(self, trait: Trait) -> str:
        value = self._value(trait)
        return _FIELD_NAMES.get(trait.dimension, value.field if value else trait.dimension)

    def _field_text(self, trait: Trait) -> str:
        own = self._dice.chance(_OWN_LABEL) and trait.dimension in (*DRAWN, "type")
        value = self._value(trait)
        if own or value is None:
            return _capitals(self._said(trait))
        return value.label
