"""How shoppers write queries for an intent: their own words, in their own order, with their own slips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gram_exporter.shop.dice import Dice
from gram_exporter.shop.intent import Intent, Shape
from gram_exporter.shop.vocabulary import Trait, Value, Vocabulary
from gram_exporter.shop.wording import arranged, plain_words, plural, rare_words, with_slip


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
_WRITTEN = {Kind.ATTRIBUTE: 0.75, Kind.SYNONYM: 0.7, Kind.UNIT: 0.75, Kind.MISSPELLING: 0.4}
_GIFTS = ("gift for {w}", "present for {w}", "gift idea {w}", "something for a {w}", "{w} gift")
_ANYTHING = ("things", "something", "equipment", "stuff", "accessories")
_GIFT_FOR_A_PRODUCT = 0.2
_PLURAL = 0.4


def write_queries(
    vocabulary: Vocabulary, intent: Intent, identifiers: Mapping[Trait, Sequence[str]], seed: int
) -> Iterator[Query]:
    """The paraphrases of one intent; texts may repeat, the shop keeps the first.

    Args:
        vocabulary: the words of the shop.
        intent: what is wanted.
        identifiers: by model trait, the texts that name that product alone.
        seed: the shop's seed.
    """
    dice = Dice(seed, "queries", *sorted(f"{trait.dimension}={trait.value}" for trait in intent.traits))
    kinds = [kind for kind in _KINDS[intent.shape] if dice.chance(_WRITTEN.get(kind, 1.0))]
    for kind in kinds or _KINDS[intent.shape][:1]:
        text = _identified(identifiers.get(intent.core, ()), dice) if kind is Kind.IDENTIFIER else None
        text = text or _written(vocabulary, intent, kind, dice)
        if text:
            yield Query(text, intent.family, kind)


def _written(vocabulary: Vocabulary, intent: Intent, kind: Kind, dice: Dice) -> str | None:
    values = [vocabulary.values[trait] for trait in (intent.core, *intent.wishes) if trait in vocabulary.values]
    if kind is Kind.IDENTIFIER:
        return None
    if kind is Kind.SCENARIO:
        return _for_a_scenario(values, dice)
    if kind is Kind.SYNONYM:
        return _with_rare_word(values, dice)
    text = arranged(values, [dice.word(plain_words(value)) for value in values], dice)
    return with_slip(text, dice) if kind is Kind.MISSPELLING else text


def _with_rare_word(values: Sequence[Value], dice: Dice) -> str | None:
    """The core is said in a rare word where there is one, else a wish is; None when neither has any."""
    rare = [rare_words(value) for value in values]
    at = next((place for place, words in enumerate(rare) if words), None)
    if at is None:
        return None
    chosen = [
        words if words and (place == at or dice.chance(0.4)) else plain_words(value)
        for place, (value, words) in enumerate(zip(values, rare, strict=True))
    ]
    return arranged(values, [dice.word(words) for words in chosen], dice)


def _for_a_scenario(values: Sequence[Value], dice: Dice) -> str:
    """Writes "shoes for rain", "tent gift for camper" or, without a product, "something for rain"."""
    scenario = next(value for value in values if value.trait.dimension == "scenario")
    core, *wishes = [dice.word(value.shopper).casefold() for value in values if value is not scenario] or [""]
    if scenario.person and (not core or dice.chance(_GIFT_FOR_A_PRODUCT)):
        gift = dice.pick(_GIFTS).format(w=dice.word(scenario.person))
        return " ".join(filter(None, [*wishes, core, gift]))
    if not core:
        return f"{dice.pick(_ANYTHING)} {dice.word(scenario.shopper)}"
    core = plural(core) if dice.chance(_PLURAL) else core
    leading = [wish for wish in wishes if not wish.startswith("for ")]
    return " ".join([*leading, core, dice.word(scenario.shopper), *(wish for wish in wishes if wish not in leading)])


def _identified(texts: Sequence[str], dice: Dice) -> str | None:
    """A model number as printed or as typed, or the whole title, copied from somewhere."""
    if not texts:
        return None
    text = dice.pick(texts)
    if " " in text:
        return text
    folded = text.casefold()
    return dice.weighted((text, folded, folded.replace("-", " "), folded.replace("-", "")), (3, 3, 2, 1))
