"""How shoppers write a query for an intent: their own words, in their own order, with their own slips."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gram_exporter.shop.dice import Dice, Words
from gram_exporter.shop.intent import Intent, Shape
from gram_exporter.shop.misspelling import misspell
from gram_exporter.shop.vocabulary import Trait, Value, Vocabulary

RARE_SHARE = 0.15
"""A shopper's word is a synonym when fewer than 15 % of merchants write it."""


class Kind(StrEnum):
    """Why a query is easy or hard for keyword search."""

    HEAD = "head"
    ATTRIBUTE = "attribute"
    SYNONYM = "synonym"
    UNIT = "unit"
    MISSPELLING = "misspelling"
    SCENARIO = "scenario"
    IDENTIFIER = "identifier"


@dataclass(frozen=True)
class Query:
    """A query text, the paraphrase family (the intent) that it belongs to, and its kind."""

    text: str
    family: str
    kind: Kind


_KINDS: Mapping[Shape, tuple[Kind, ...]] = {
    Shape.HEAD: (Kind.HEAD, Kind.SYNONYM, Kind.SYNONYM, Kind.MISSPELLING),
    Shape.ATTRIBUTE: (Kind.ATTRIBUTE, Kind.ATTRIBUTE, Kind.SYNONYM, Kind.SYNONYM, Kind.MISSPELLING),
    Shape.UNIT: (Kind.UNIT, Kind.UNIT, Kind.UNIT, Kind.MISSPELLING),
    Shape.SCENARIO: (Kind.SCENARIO, Kind.SCENARIO, Kind.SCENARIO),
    Shape.IDENTIFIER: (Kind.IDENTIFIER, Kind.IDENTIFIER),
}
_WRITTEN = {Kind.HEAD: 1.0, Kind.ATTRIBUTE: 0.75, Kind.SYNONYM: 0.7, Kind.UNIT: 0.75, Kind.MISSPELLING: 0.4}
_GIFT_WORDS = ("gift for {w}", "present for {w}", "gift idea {w}", "something for a {w}", "{w} gift")


def write_queries(vocabulary: Vocabulary, intent: Intent, titles: Mapping[Trait, str], seed: int) -> Iterator[Query]:
    """The paraphrases of one intent; at least one. Texts may repeat: the shop keeps the first."""
    dice = Dice(seed, "queries", *sorted(f"{trait.dimension}={trait.value}" for trait in intent.traits))
    kinds = [kind for kind in _KINDS[intent.shape] if dice.chance(_WRITTEN.get(kind, 1.0))]
    for kind in kinds or _KINDS[intent.shape][:1]:
        text = _write(vocabulary, intent, kind, titles, dice)
        if text:
            yield Query(text, intent.family, kind)


def _write(vocabulary: Vocabulary, intent: Intent, kind: Kind, titles: Mapping[Trait, str], dice: Dice) -> str | None:
    if kind is Kind.IDENTIFIER:
        return _identifier(intent.core.value, titles[intent.core], dice)
    if kind is Kind.SCENARIO:
        return _scenario(vocabulary, intent, dice)
    values = [vocabulary.values[trait] for trait in (intent.core, *intent.wishes)]
    if kind is Kind.SYNONYM:
        return _with_synonym(values, dice)
    words = [dice.word(plain_words(value)) for value in values]
    text = _arranged(words, dice)
    return _with_slip(text, dice) if kind is Kind.MISSPELLING else text


def plain_words(value: Value) -> Words:
    """The shopper's words that merchants use too; the merchants' own where there are none; units as shoppers write."""
    if value.trait.dimension in ("brand", "group") or value.field != value.trait.dimension:
        return value.shopper
    known = _merchant_texts(value)
    return _only(value.shopper, lambda text: known.get(text, 0) >= RARE_SHARE) or _folded(value.merchant)


def synonym_words(value: Value) -> Words | None:
    """The shopper's words that few merchants or none use."""
    if value.trait.dimension in ("brand", "group") or value.field != value.trait.dimension:
        return None
    known = _merchant_texts(value)
    return _only(value.shopper, lambda text: known.get(text, 0) < RARE_SHARE)


def _with_synonym(values: Sequence[Value], dice: Dice) -> str | None:
    """The core is said in a rare word where there is one, else at least one wish is."""
    rare = [synonym_words(value) for value in values]
    at = 0 if rare[0] else next((place for place, words in enumerate(rare) if words), None)
    if at is None:
        return None
    return _arranged(
        [
            dice.word(words if words and (place == at or dice.chance(0.4)) else plain_words(value))
            for place, (value, words) in enumerate(zip(values, rare, strict=True))
        ],
        dice,
    )


def _arranged(words: Sequence[str], dice: Dice) -> str:
    """Wishes mostly stand before the core; every third shopper writes them as they come to mind."""
    core, *wishes = [word.casefold() for word in words]
    core = plural(core) if dice.chance(0.3) else core
    if wishes and dice.chance(0.12):
        return f"{' '.join(wishes[:-1])} {core} {dice.pick(('in', 'with', ','))} {wishes[-1]}".replace(" ,", "").strip()
    parts = [*dice.shuffled(wishes), core]
    return " ".join(dice.shuffled(parts) if dice.chance(0.35) else parts)


def plural(noun: str) -> str:
    """The plain English plural; nouns that end in s, f or fe are left as they are."""
    if noun.endswith(("s", "f", "fe", "x", "ch", "shelf")) or not noun.isascii():
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def _with_slip(text: str, dice: Dice) -> str | None:
    words = text.split()
    places = [place for place, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not places:
        return None
    for place in dice.sample(places, 1 + dice.chance(0.25)):
        words[place] = misspell(words[place], dice)
    return " ".join(words)


def _scenario(vocabulary: Vocabulary, intent: Intent, dice: Dice) -> str:
    values = [vocabulary.values[trait] for trait in (intent.core, *intent.wishes) if trait.dimension != "purpose"]
    scenario = next(value for value in values if value.trait.dimension == "scenario")
    others = [dice.word(value.shopper).casefold() for value in values if value is not scenario]
    if scenario.person and (not others or dice.chance(0.2)):
        person = dice.pick(_GIFT_WORDS).format(w=dice.word(scenario.person))
        return " ".join([*others[::-1], person])
    purpose = dice.word(scenario.shopper)
    if not others:
        return f"{dice.pick(('things', 'something', 'equipment', 'stuff', 'accessories'))} {purpose}"
    core, *wishes = others
    return " ".join([*wishes, plural(core) if dice.chance(0.4) else core, purpose])


def _identifier(model: str, title: str, dice: Dice) -> str:
    """A model number as printed, as typed, or the title that was copied from somewhere."""
    forms = (model, model.casefold(), model.casefold().replace("-", ""), model.casefold().replace("-", " "), title)
    return dice.weighted(forms, (3, 3, 1, 2, 4))


def _merchant_texts(value: Value) -> dict[str, float]:
    known: dict[str, float] = {}
    for text in value.merchant.texts:
        known[_singular(text)] = known.get(_singular(text), 0) + value.merchant.share(text)
    return known


def _only(words: Words, allowed: Callable[[str], bool]) -> Words | None:
    pairs = [
        (text, weight) for text, weight in zip(words.texts, words.weights, strict=True) if allowed(_singular(text))
    ]
    return Words(tuple(text for text, _ in pairs), tuple(weight for _, weight in pairs)) if pairs else None


def _singular(text: str) -> str:
    return " ".join(re.sub(r"(?<=[a-z]{3})s$", "", word) for word in re.findall(r"[\w]+", text.casefold()))


def _folded(words: Words) -> Words:
    return Words(tuple(text.casefold() for text in words.texts), words.weights)
