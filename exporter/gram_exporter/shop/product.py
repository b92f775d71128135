"""A product as it truly is: hidden traits drawn from the vocabulary, before any merchant writes about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from gram_exporter.shop.dice import Dice
from gram_exporter.shop.vocabulary import DRAWN, Department, ProductType, Trait, Vocabulary

__all__ = ["Product", "Trait", "draw_product"]

_PRESENCE = {
    "colour": 0.96,
    "material": 0.92,
    "style": 0.7,
    "audience": 0.7,
    "modifier": 0.4,
    "season": 0.6,
    "pack": 0.6,
}
_EACH_PRESENCE = {"function": 0.38, "scenario": 0.45}
_MOST_EACH = 3
_SERIES_PER_BRAND = 4
_SERIES_STYLE_LOYALTY = 0.8
_LINE_LENGTH = 6
_VARIANTS = 3


@dataclass(frozen=True)
class Product:
    """One product: `stated` traits may be written by its merchant, `implied` ones are true but never written.

    `line` is the number of the product that this one is a colour or size variant of, or its own.
    """

    id: str
    index: int
    line: int
    type: ProductType
    stated: tuple[Trait, ...]
    implied: tuple[Trait, ...]
    price_cents: int

    @property
    def traits(self) -> frozenset[Trait]:
        """All that is true of the product."""
        return frozenset(self.stated + self.implied)

    def first(self, dimension: str) -> str | None:
        """The first value of a dimension among the stated traits."""
        return next((trait.value for trait in self.stated if trait.dimension == dimension), None)


def draw_product(vocabulary: Vocabulary, seed: int, index: int) -> Product:
    """Draws product number `index`; depends on the seed and the index alone, not on how many there are."""
    line = _line_of(index)
    dice = Dice(seed, "product", line)
    kind = dice.weighted(vocabulary.assortment, vocabulary.shares)
    department = vocabulary.departments[kind.department]
    brand = dice.weighted(department.brands, [1000 // rank for rank in range(2, len(department.brands) + 2)])
    series = dice.pick(_series_of(seed, department, brand))
    named = [Trait("type", kind.key), Trait("brand", brand), Trait("series", series), _model(brand, index)]
    house = Dice(seed, "line", kind.key, brand, series)
    drawn = [*_drawn(kind, dice, house), *_specs(vocabulary, kind, dice)]
    if index != line:
        drawn = _varied(vocabulary, kind, drawn, Dice(seed, "variant", index))
    stated = tuple(dict.fromkeys(named + drawn))
    low, high = kind.price_eur
    draw = dice.fraction()
    price_cents = 100 * (low + int((high - low) * draw * draw)) - 1
    return Product(f"p{index:07d}", index, line, kind, stated, tuple(_implied(vocabulary, kind, stated)), price_cents)


def _line_of(index: int) -> int:
    """Of six products three stand alone; the fourth has the fifth and sixth as variants."""
    return index - max(0, index % _LINE_LENGTH - (_LINE_LENGTH - _VARIANTS))


@cache
def _series_of(seed: int, department: Department, brand: str) -> tuple[str, ...]:
    return tuple(Dice(seed, "series", department.key, brand).sample(department.series, _SERIES_PER_BRAND))


def _model(brand: str, index: int) -> Trait:
    letters = "".join(letter for letter in brand.upper() if "A" <= letter <= "Z")
    block, position = divmod(index, 9000)
    number = 1000 + position * 4877 % 9000  # 4877 and 9000 have no common divisor: each number once in a block
    return Trait("model", f"{letters[0]}{letters[2]}-{block or ''}{number}{'ABCEKLSTX'[index % 9]}")


def _drawn(kind: ProductType, dice: Dice, house: Dice) -> Iterator[Trait]:
    for dimension in DRAWN:
        offered = kind.offers.get(dimension, ())
        if dimension in _EACH_PRESENCE:
            chosen = [value for value in offered if dice.chance(_EACH_PRESENCE[dimension])]
            yield from (Trait(dimension, value) for value in chosen[:_MOST_EACH])
        elif offered and dice.chance(_PRESENCE[dimension]):
            yield Trait(dimension, _one_of(dimension, offered, dice, house))


def _one_of(dimension: str, offered: tuple[str, ...], dice: Dice, house: Dice) -> str:
    """The first values are the commoner ones; a series of a brand keeps mostly to one style."""
    if dimension == "style" and dice.chance(_SERIES_STYLE_LOYALTY):
        return house.pick(offered)
    return dice.weighted(offered, [1000 // (rank + 3) for rank in range(len(offered))])


def _specs(vocabulary: Vocabulary, kind: ProductType, dice: Dice) -> Iterator[Trait]:
    yield from (Trait(spec, dice.pick(vocabulary.specs[spec])) for spec in kind.specs)


def _varied(vocabulary: Vocabulary, kind: ProductType, drawn: list[Trait], dice: Dice) -> list[Trait]:
    """The same product in another colour or size."""
    colours = kind.offers.get("colour", ())
    redrawn = {trait.dimension: trait for trait in _specs(vocabulary, kind, dice)}
    if colours:
        redrawn["colour"] = Trait("colour", dice.pick(colours))
    return [redrawn.get(trait.dimension, trait) for trait in drawn]


def _implied(vocabulary: Vocabulary, kind: ProductType, stated: tuple[Trait, ...]) -> Iterator[Trait]:
    yield Trait("department", kind.department)
    yield from (Trait("group", name) for name, types in vocabulary.groups.items() if kind.key in types)
    consequences = (vocabulary.values[trait].implies for trait in stated if trait in vocabulary.values)
    yield from sorted({Trait("scenario", scenario) for scenario in consequences if scenario} - set(stated))
    yield from (Trait("purpose", scenario) for scenario in kind.offers.get("scenario", ())[:1])
