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
_SERIES_PER_BRAND = 4
_SERIES_STYLE_LOYALTY = 0.8


@dataclass(frozen=True)
class Product:
    """One product: `stated` traits may be written by its merchant, `implied` ones are true but never written."""

    id: str
    index: int
    type: ProductType
    stated: tuple[Trait, ...]
    implied: tuple[Trait, ...]
    price_eur: float

    @property
    def traits(self) -> frozenset[Trait]:
        """All that is true of the product."""
        return frozenset(self.stated + self.implied)

    def first(self, dimension: str) -> str | None:
        """The first value of a dimension among the stated traits."""
        return next((trait.value for trait in self.stated if trait.dimension == dimension), None)


def draw_product(vocabulary: Vocabulary, seed: int, index: int) -> Product:
    """Draws product number `index`; depends on the seed and the index alone, not on how many there are."""
    dice = Dice(seed, "product", index)
    kind = dice.weighted(tuple(vocabulary.types.values()), _shares(vocabulary))
    department = vocabulary.departments[kind.department]
    brand = dice.weighted(department.brands, [1 / rank for rank in range(2, len(department.brands) + 2)])
    series = dice.pick(_series_of(seed, department, brand))
    named = [Trait("type", kind.key), Trait("brand", brand), Trait("series", series), _model(brand, index)]
    drawn = list(_drawn(vocabulary, seed, kind, brand, series, dice))
    stated = tuple(dict.fromkeys(named + drawn))
    low, high = kind.price_eur
    price_eur = round(low + (high - low) * dice.fraction() ** 2) - 0.01
    return Product(f"p{index:07d}", index, kind, stated, tuple(_implied(vocabulary, kind, stated)), price_eur)


@cache
def _shares_of(shares: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(share**1.4 for share in shares)


def _shares(vocabulary: Vocabulary) -> tuple[float, ...]:
    return _shares_of(tuple(kind.share for kind in vocabulary.types.values()))


@cache
def _series_of(seed: int, department: Department, brand: str) -> tuple[str, ...]:
    return tuple(Dice(seed, "series", department.key, brand).sample(department.series, _SERIES_PER_BRAND))


def _model(brand: str, index: int) -> Trait:
    letters = "".join(letter for letter in brand.upper() if "A" <= letter <= "Z")
    block, position = divmod(index, 9000)
    number = 1000 + position * 4877 % 9000  # 4877 and 9000 have no common divisor: each number once in a block
    return Trait("model", f"{letters[0]}{letters[2]}-{block or ''}{number}{'ABCEKLSTX'[index % 9]}")


def _drawn(
    vocabulary: Vocabulary, seed: int, kind: ProductType, brand: str, series: str, dice: Dice
) -> Iterator[Trait]:
    for dimension in DRAWN:
        offered = kind.offers.get(dimension, ())
        if dimension in _EACH_PRESENCE:
            chosen = [value for value in offered if dice.chance(_EACH_PRESENCE[dimension])]
            yield from (Trait(dimension, value) for value in chosen[:3])
        elif offered and dice.chance(_PRESENCE[dimension]):
            if dimension == "style" and dice.chance(_SERIES_STYLE_LOYALTY):
                yield Trait(dimension, Dice(seed, "line", kind.key, brand, series).pick(offered))
            else:
                weights = [1 / (rank + 3) for rank in range(len(offered))]
                yield Trait(dimension, dice.weighted(offered, weights))
    for spec in kind.specs:
        yield Trait(spec, dice.pick(vocabulary.specs[spec]))


def _implied(vocabulary: Vocabulary, kind: ProductType, stated: tuple[Trait, ...]) -> Iterator[Trait]:
    yield Trait("department", kind.department)
    yield from (Trait("group", name) for name, types in vocabulary.groups.items() if kind.key in types)
    consequences = (vocabulary.values[trait].implies for trait in stated if trait.dimension == "function")
    served = {Trait("scenario", scenario) for scenario in consequences if scenario} - set(stated)
    yield from sorted(served)
    yield from (Trait("purpose", scenario) for scenario in kind.offers.get("scenario", ())[:1])
