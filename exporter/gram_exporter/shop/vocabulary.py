"""The shop's vocabulary, read from the TOML files in `words/`: departments, types, values, and how people say them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from gram_exporter.shop.dice import Words

DRAWN = ("colour", "material", "style", "function", "audience", "scenario", "modifier", "season", "pack")
"""Dimensions that a product type offers values of, in the order in which they are drawn."""

_DIMENSION_FILES = {"colour": "colours", "material": "materials", "function": "functions", "scenario": "scenarios"}


class Trait(NamedTuple):
    """A hidden fact of a product, such as colour=grey or laptop_screen=13.3."""

    dimension: str
    value: str


@dataclass(frozen=True)
class Value:
    """One value with its structured label, the words of merchants and shoppers, and what it implies."""

    trait: Trait
    label: str
    field: str
    merchant: Words
    shopper: Words
    person: Words | None = None
    implies: str | None = None


@dataclass(frozen=True)
class ProductType:
    """A kind of product: its share of the catalogue and the values that its products can have."""

    key: str
    department: str
    share: int
    offers: Mapping[str, tuple[str, ...]]
    specs: tuple[str, ...]
    price_eur: tuple[int, int]


@dataclass(frozen=True)
class Department:
    """A department with its invented brands and series names."""

    key: str
    label: str
    brands: tuple[str, ...]
    series: tuple[str, ...]


@dataclass(frozen=True)
class Merchant:
    """How one merchant of the marketplace writes."""

    key: str
    order: tuple[str, ...]
    separator: str
    detail: float
    fill: float
    noise: float
    abbreviation: float
    typo: float
    bullets: bool


@dataclass(frozen=True)
class Copy:
    """Sentences of descriptions and title noise."""

    opening: tuple[str, ...]
    fluff: tuple[str, ...]
    cross: tuple[str, ...]
    noise: tuple[str, ...]
    abbreviations: Mapping[str, str]
    sentence: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Vocabulary:
    """Everything that can be said in the shop."""

    departments: Mapping[str, Department]
    types: Mapping[str, ProductType]
    groups: Mapping[str, tuple[str, ...]]
    values: Mapping[Trait, Value]
    specs: Mapping[str, tuple[str, ...]]
    merchants: tuple[Merchant, ...]
    copy: Copy

    @cached_property
    def assortment(self) -> tuple[ProductType, ...]:
        """All product types."""
        return tuple(self.types.values())

    @cached_property
    def shares(self) -> tuple[int, ...]:
        """Weights of `assortment`, bent so that a few types are large and many small, as in real shops."""
        return tuple(round(100 * kind.share**1.4) for kind in self.assortment)


@cache
def load_vocabulary() -> Vocabulary:
    """Reads the vocabulary of the package; the same object each time."""
    folder = files("gram_exporter.shop") / "words"
    departments = {name: _toml(folder / "departments" / f"{name}.toml") for name in _department_names(folder)}
    palettes = {name: tuple(values) for name, values in _toml(folder / "palettes.toml").items()}
    specs = _toml(folder / "specs.toml")
    values = [*_drawn_values(folder), *_spec_values(specs), *_department_values(departments)]
    return Vocabulary(
        departments={key: _department(key, document) for key, document in departments.items()},
        types=_types(departments, palettes),
        groups=_groups(departments),
        values={value.trait: value for value in values},
        specs={name: tuple(map(str, document["values"])) for name, document in specs.items()},
        merchants=tuple(_merchant(key, item) for key, item in _toml(folder / "merchants.toml").items()),
        copy=_copy(_toml(folder / "copy.toml")),
    )


def _toml(path: Traversable) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _department_names(folder: Traversable) -> list[str]:
    names = (path.name for path in (folder / "departments").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def _words(table: Mapping[str, float]) -> Words:
    return Words(tuple(table), tuple(map(float, table.values())))


def _label(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _commonest(table: Mapping[str, float]) -> str:
    """The shop's taxonomy names a type as most merchants do."""
    word = max(table, key=lambda text: table[text])
    return word[0].upper() + word[1:]


def _drawn_values(folder: Traversable) -> Iterator[Value]:
    tables = {dimension: _toml(folder / f"{name}.toml") for dimension, name in _DIMENSION_FILES.items()}
    for dimension, table in (tables | _toml(folder / "traits.toml")).items():
        for key, item in table.items():
            yield _value(Trait(dimension, key), item)


def _value(trait: Trait, item: Mapping[str, Any], field: str = "", label: str = "") -> Value:
    return Value(
        trait=trait,
        label=label or item.get("label") or _label(trait.value),
        field=field or trait.dimension,
        merchant=_words(item["merchant"]),
        shopper=_words(item["shopper"]),
        person=_words(item["person"]) if "person" in item else None,
        implies=item.get("implies"),
    )


def _spec_values(specs: Mapping[str, Any]) -> Iterator[Value]:
    for name, item in specs.items():
        for number in item["values"]:
            forms = {side: _filled(item[side], number, item.get("convert", 1)) for side in ("merchant", "shopper")}
            label = _fill(item["label"], number, 1)
            yield _value(Trait(name, str(number)), forms, field=item["field"], label=label)


def _filled(forms: Mapping[str, float], number: float | str, convert: float) -> dict[str, float]:
    filled: dict[str, float] = {}
    for form, weight in forms.items():
        text = _fill(form, number, convert)
        filled[text] = filled.get(text, 0) + weight
    return filled


def _fill(form: str, number: float | str, convert: float) -> str:
    if isinstance(number, str):
        return form.format(v=number)
    return form.format(v=f"{number:g}", r=int(number), c=f"{round(number * convert)}")


def _department_values(departments: Mapping[str, Any]) -> Iterator[Value]:
    for key, document in departments.items():
        yield _named(Trait("department", key), document["label"])
        for name in document["brands"]:
            yield _named(Trait("brand", name), name)
        for name in document["series"]:
            yield _named(Trait("series", name), name)
        for name, item in document.get("groups", {}).items():
            yield _value(Trait("group", name), {"merchant": {_label(name): 1}, **item})
        for name, item in document["types"].items():
            yield _value(Trait("type", name), item, label=item.get("label", _commonest(item["merchant"])))


def _named(trait: Trait, name: str) -> Value:
    return Value(trait, name, trait.dimension, _words({name: 1}), _words({name.casefold(): 1}))


def _department(key: str, document: Mapping[str, Any]) -> Department:
    return Department(key, document["label"], tuple(document["brands"]), tuple(document["series"]))


def _types(departments: Mapping[str, Any], palettes: Mapping[str, tuple[str, ...]]) -> dict[str, ProductType]:
    return {
        name: _type(name, department, item, palettes)
        for department, document in departments.items()
        for name, item in document["types"].items()
    }


def _type(name: str, department: str, item: Mapping[str, Any], palettes: Mapping[str, tuple[str, ...]]) -> ProductType:
    offers = {
        dimension: palettes[item[dimension]] if isinstance(item[dimension], str) else tuple(item[dimension])
        for dimension in DRAWN
        if dimension in item
    }
    low, high = item["price"]
    return ProductType(name, department, item["share"], offers, tuple(item.get("spec", ())), (low, high))


def _groups(departments: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(item["types"])
        for document in departments.values()
        for name, item in document.get("groups", {}).items()
    }


def _merchant(key: str, item: Mapping[str, Any]) -> Merchant:
    return Merchant(key=key, **{**item, "order": tuple(item["order"])})


def _copy(document: Mapping[str, Any]) -> Copy:
    sentences = {name: tuple(lines) for name, lines in document["sentence"].items()}
    parts = {name: tuple(document[name]) for name in ("opening", "fluff", "cross", "noise")}
    return Copy(**parts, abbreviations=document["abbreviations"], sentence=sentences)
