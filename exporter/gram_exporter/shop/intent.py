"""What a shopper wants: a set of traits, and how well each product satisfies it (grades 0-3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gram_exporter.shop.dice import Dice
from gram_exporter.shop.product import Product
from gram_exporter.shop.vocabulary import Trait, Vocabulary

MIN_RELEVANT = 5
MAX_RELEVANT_SHARE = 0.04
"""A shopper's intent fits at least 5 products and at most 4 % of the catalogue; an identifier fits one."""


class Shape(StrEnum):
    """What an intent is made of; decides which kinds of queries ask for it."""

    HEAD = "head"
    ATTRIBUTE = "attribute"
    UNIT = "unit"
    SCENARIO = "scenario"
    IDENTIFIER = "identifier"


@dataclass(frozen=True)
class Intent:
    """`core` must hold (without it the grade is 0); each of `wishes` counts. The family id is the intent's."""

    family: str
    shape: Shape
    core: Trait
    wishes: tuple[Trait, ...] = ()

    @property
    def traits(self) -> frozenset[Trait]:
        """The set of constraints; two intents with the same set are one."""
        return frozenset((self.core, *self.wishes))


class TraitIndex:
    """Which products have a trait."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = products
        self._holders: dict[Trait, list[int]] = defaultdict(list)
        for product in products:
            for trait in sorted(product.traits):
                self._holders[trait].append(product.index)

    def holders(self, trait: Trait) -> Sequence[int]:
        """Indexes of the products with the trait, ascending."""
        return self._holders.get(trait, ())

    def grades(self, intent: Intent) -> dict[int, int]:
        """Grade 1-3 by product index for every product of the catalogue that is not graded 0."""
        wanted = intent.wishes
        graded = {
            index: grade_of(len(wanted), sum(wish not in traits for wish in wanted))
            for index, traits in ((index, self.products[index].traits) for index in self.holders(intent.core))
        }
        return {index: grade for index, grade in graded.items() if grade}


def grade_of(wishes: int, misses: int) -> int:
    """3: all wishes met. 2: one of several missed. 1: the only one missed, or two of three or more. Else 0."""
    if misses == 0:
        return 3
    if misses == 1:
        return 2 if wishes >= 2 else 1
    return 1 if misses == 2 and wishes >= 3 else 0


_WISHED = {
    "colour": 5,
    "material": 5,
    "style": 3,
    "function": 5,
    "audience": 3,
    "brand": 3,
    "modifier": 2,
    "season": 1,
    "pack": 2,
}


def draw_intents(vocabulary: Vocabulary, index: TraitIndex, seed: int) -> list[Intent]:
    """Distinct intents that the catalogue can satisfy, in an order that the seed decides."""
    proposals = [
        *_heads(vocabulary),
        *_from_products(vocabulary, index, seed),
        *_scenarios(vocabulary, index, seed),
        *_identifiers(index, seed),
    ]
    kept: dict[frozenset[Trait], Intent] = {}
    for intent in proposals:
        if intent.traits not in kept and _fits(intent, index):
            kept[intent.traits] = intent
    return [
        Intent(f"i{number:04d}", intent.shape, intent.core, intent.wishes)
        for number, intent in enumerate(Dice(seed, "intents").shuffled(list(kept.values())))
    ]


def _fits(intent: Intent, index: TraitIndex) -> bool:
    if intent.shape is Shape.IDENTIFIER:
        return True
    grades = index.grades(intent).values()
    most = max(150, int(MAX_RELEVANT_SHARE * len(index.products)))
    return MIN_RELEVANT <= len(grades) <= most and 3 in grades


def _heads(vocabulary: Vocabulary) -> Iterator[Intent]:
    yield from (Intent("", Shape.HEAD, Trait("type", key)) for key in vocabulary.types)
    yield from (Intent("", Shape.HEAD, Trait("group", key)) for key in vocabulary.groups)
    yield from (Intent("", Shape.HEAD, trait) for trait in vocabulary.values if trait.dimension == "brand")


def _from_products(vocabulary: Vocabulary, index: TraitIndex, seed: int) -> Iterator[Intent]:
    """Wishes are read off a product that exists, so every intent has at least one perfect answer."""
    for key, kind in vocabulary.types.items():
        dice = Dice(seed, "wishes", key)
        holders = index.holders(Trait("type", key))
        for _ in range(1 + kind.share // 5 if holders else 0):
            product = index.products[dice.pick(holders)]
            wishes = _wishes(product, dice, 1 + dice.weighted((0, 1, 2, 3), (4, 4, 2, 1)))
            yield Intent("", Shape.ATTRIBUTE, Trait("type", key), wishes)
        for _ in range(1 + kind.share // 4 if holders and kind.specs else 0):
            product = index.products[dice.pick(holders)]
            spec = dice.pick([trait for trait in product.stated if trait.dimension in kind.specs])
            others = _wishes(product, dice, dice.weighted((0, 1, 2), (4, 4, 1)))
            yield Intent("", Shape.UNIT, Trait("type", key), (spec, *others))


def _wishes(product: Product, dice: Dice, size: int) -> tuple[Trait, ...]:
    open_traits = [trait for trait in product.stated if trait.dimension in _WISHED]
    chosen: dict[str, Trait] = {}
    while open_traits and len(chosen) < size:
        trait = dice.weighted(open_traits, [_WISHED[item.dimension] for item in open_traits])
        chosen[trait.dimension] = trait
        open_traits = [item for item in open_traits if item.dimension != trait.dimension]
    return tuple(chosen.values())


def _scenarios(vocabulary: Vocabulary, index: TraitIndex, seed: int) -> Iterator[Intent]:
    dice = Dice(seed, "scenarios")
    scenarios = [trait for trait in vocabulary.values if trait.dimension == "scenario"]
    for scenario in scenarios:
        yield Intent("", Shape.SCENARIO, scenario, (Trait("purpose", scenario.value),))
        cores = _cores_in(index, scenario)
        for core in dice.sample(cores, 2):
            yield Intent("", Shape.SCENARIO, core, (scenario,))
        for core in dice.sample(cores, 1):
            pool = [
                index.products[number] for number in index.holders(scenario) if core in index.products[number].traits
            ]
            yield Intent("", Shape.SCENARIO, core, (scenario, *_wishes(dice.pick(pool), dice, 1)))


def _cores_in(index: TraitIndex, scenario: Trait) -> list[Trait]:
    found: set[Trait] = set()
    for number in index.holders(scenario):
        found |= {trait for trait in index.products[number].traits if trait.dimension in ("type", "group")}
    return sorted(found)


def _identifiers(index: TraitIndex, seed: int) -> Iterator[Intent]:
    size = min(90, len(index.products) // 20)
    for product in Dice(seed, "identifiers").sample(index.products, size):
        yield Intent("", Shape.IDENTIFIER, Trait("model", product.first("model") or product.id))


def graded_by_id(index: TraitIndex, intents: Iterable[Intent]) -> Mapping[str, dict[str, int]]:
    """Family → document id → grade, in catalogue order."""
    return {
        intent.family: {index.products[number].id: grade for number, grade in sorted(index.grades(intent).items())}
        for intent in intents
    }
