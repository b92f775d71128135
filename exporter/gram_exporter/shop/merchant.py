"""How merchants write about a product: title, description and structured fields, none of them complete."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from gram_exporter.shop.dice import Dice
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
_IN_DESCRIPTION = 0.5
_LOYALTY = 0.75
_OWN_LABEL = 0.1
_LISTS = {"function": "features", "scenario": "occasion"}
_FIELD_NAMES = {"type": "product_type", "modifier": "build", **_LISTS}
_NO_DESCRIPTION = 0.05


def write_document(vocabulary: Vocabulary, seed: int, product: Product) -> dict[str, Any]:
    """The product document that the shop would index; keys in a fixed order."""
    dice = Dice(seed, "document", product.index)
    merchant = dice.pick(vocabulary.merchants)
    title = _title(vocabulary, merchant, product, dice)
    document: dict[str, Any] = {"id": product.id, "title": title}
    description = _description(vocabulary, merchant, product, dice)
    if not dice.chance(_NO_DESCRIPTION):
        document["description"] = description
    document["department"] = vocabulary.departments[product.type.department].label
    document |= _fields(vocabulary, merchant, product, dice)
    return document | {"price_eur": product.price_eur, "merchant": merchant.key}


def _slot(trait: Trait) -> str:
    return trait.dimension if trait.dimension in _IN_TITLE else "spec"


def _value(vocabulary: Vocabulary, trait: Trait) -> Value | None:
    return vocabulary.values.get(trait)


def _say(vocabulary: Vocabulary, merchant: Merchant, trait: Trait, dice: Dice) -> str:
    """The merchant's word: mostly the house's own favourite, else as the trade says it."""
    value = _value(vocabulary, trait)
    if value is None:
        return trait.value
    if dice.chance(_LOYALTY):
        return _favourite(merchant, value)
    return dice.word(value.merchant)


@cache
def _favourite_of(merchant: str, dimension: str, key: str, texts: tuple[str, ...], weights: tuple[float, ...]) -> str:
    return Dice("favourite", merchant, dimension, key).weighted(texts, weights)


def _favourite(merchant: Merchant, value: Value) -> str:
    words = value.merchant
    return _favourite_of(merchant.key, value.trait.dimension, value.trait.value, words.texts, words.weights)


def _title(vocabulary: Vocabulary, merchant: Merchant, product: Product, dice: Dice) -> str:
    parts = list(_title_parts(vocabulary, merchant, product, dice))
    if len(parts) < 2:
        parts = [product.first("brand") or "", product.first("series") or "", product.first("model") or ""]
    if dice.chance(merchant.noise):
        parts.insert(0 if dice.chance(0.5) else len(parts), dice.pick(vocabulary.copy.noise))
    title = merchant.separator.join(parts)
    return title.upper() if dice.chance(merchant.noise / 6) else title[0].upper() + title[1:]


def _title_parts(vocabulary: Vocabulary, merchant: Merchant, product: Product, dice: Dice) -> Iterator[str]:
    for slot in merchant.order:
        traits = [trait for trait in product.stated if _slot(trait) == slot]
        likelihood = _IN_TITLE[slot] if slot == "type" else _IN_TITLE[slot] * merchant.detail
        yield from (_capital(_say(vocabulary, merchant, trait, dice)) for trait in traits if dice.chance(likelihood))


def _capital(text: str) -> str:
    return " ".join(word[0].upper() + word[1:] for word in text.split(" "))


def _description(vocabulary: Vocabulary, merchant: Merchant, product: Product, dice: Dice) -> str:
    copy = vocabulary.copy
    told = [trait for trait in product.stated[2:] if dice.chance(_IN_DESCRIPTION)]
    facts = [
        dice.pick(copy.sentence[_slot(trait)]).format(w=_say(vocabulary, merchant, trait, dice))
        for trait in dice.shuffled(told)
    ]
    opening = dice.pick(copy.opening).format(
        type=_say(vocabulary, merchant, product.stated[0], dice), brand=product.first("brand")
    )
    closing = dice.sample(copy.fluff, 1 + dice.index(3)) + _cross_mention(vocabulary, merchant, product, dice)
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in [opening, *facts, *closing])


def _cross_mention(vocabulary: Vocabulary, merchant: Merchant, product: Product, dice: Dice) -> list[str]:
    """Names another type of the department: words that are there and mean nothing, as in every real shop."""
    if not dice.chance(0.25):
        return []
    others = [key for key, kind in vocabulary.types.items() if kind.department == product.type.department]
    other = _say(vocabulary, merchant, Trait("type", dice.pick(others)), dice)
    return [dice.pick(vocabulary.copy.cross).format(other=other)]


def _fields(vocabulary: Vocabulary, merchant: Merchant, product: Product, dice: Dice) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for trait in product.stated:
        if dice.chance(_IN_FIELD[_slot(trait)] * merchant.fill):
            value = _value(vocabulary, trait)
            name = _FIELD_NAMES.get(trait.dimension, value.field if value else trait.dimension)
            label = value.label if value else trait.value
            own = dice.chance(_OWN_LABEL) and trait.dimension in (*DRAWN, "type")
            text = _capital(_say(vocabulary, merchant, trait, dice)) if own else label
            if trait.dimension in _LISTS:
                fields.setdefault(name, []).append(text)
            else:
                fields[name] = text
    return fields
