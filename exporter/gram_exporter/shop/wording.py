"""The words of one query: which of a shopper's words are plain or rare, and the order in which they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gram_exporter.shop.dice import Dice, Words
from gram_exporter.shop.misspelling import misspell
from gram_exporter.shop.vocabulary import Value

RARE_SHARE = 0.15
"""A shopper's word is a synonym when fewer than 15 % of merchants write it."""

_AS_SHOPPERS_SAY = ("brand", "group")
_CONNECTORS = {"colour": "in", "material": "in", "function": "with", "brand": "from"}
_TRAILING = ("for ", "with ", "without ", "against ")
_MASS_NOUNS = frozenset(
    (
        "accessories",
        "bedding",
        "care",
        "clothes",
        "cookware",
        "cosmetics",
        "cutlery",
        "equipment",
        "flatware",
        "food",
        "footwear",
        "furniture",
        "gear",
        "jewellery",
        "jewelry",
        "kibble",
        "knitwear",
        "lighting",
        "litter",
        "luggage",
        "makeup",
        "paint",
        "polish",
        "sand",
        "silverware",
        "skincare",
        "sportswear",
        "stuff",
        "swimwear",
        "tableware",
        "varnish",
    )
)
_CONNECTED = 0.15
_PLURAL = 0.3
_ANY_ORDER = 0.35
_SECOND_SLIP = 0.25


def plain_words(value: Value) -> Words:
    """The shopper's words that merchants use too, else the merchants' own; units and brands as shoppers write them."""
    if _has_one_name(value):
        return value.shopper
    known = _merchant_shares(value)
    return _only(value.shopper, lambda text: known.get(text, 0) >= RARE_SHARE) or _folded(value.merchant)


def rare_words(value: Value) -> Words | None:
    """The shopper's words that few merchants or none use; None when there are none, and for brands and units."""
    if _has_one_name(value):
        return None
    known = _merchant_shares(value)
    return _only(value.shopper, lambda text: known.get(text, 0) < RARE_SHARE)


def _has_one_name(value: Value) -> bool:
    is_spec = value.field != value.trait.dimension
    return is_spec or value.trait.dimension in _AS_SHOPPERS_SAY


def _merchant_shares(value: Value) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in value.merchant.texts:
        shares[_singular(text)] = shares.get(_singular(text), 0) + value.merchant.share(text)
    return shares


def _singular(text: str) -> str:
    return " ".join(re.sub(r"(?<=[a-z]{3})s$", "", word) for word in re.findall(r"\w+", text.casefold()))


def _only(words: Words, allowed: Callable[[str], bool]) -> Words | None:
    pairs = [pair for pair in zip(words.texts, words.weights, strict=True) if allowed(_singular(pair[0]))]
    return Words(tuple(text for text, _ in pairs), tuple(weight for _, weight in pairs)) if pairs else None


def _folded(words: Words) -> Words:
    return Words(tuple(text.casefold() for text in words.texts), words.weights)


def arranged(values: Sequence[Value], words: Sequence[str], dice: Dice) -> str:
    """Puts the words of core and wishes in an order: mostly wishes first, else as they come to mind.

    "With timer" and "for kids" stand last; now and then one wish is tied on with "in", "with" or "from".
    """
    core, *wishes = (word.casefold() for word in words)
    if dice.chance(_PLURAL) and values[0].trait.dimension in ("type", "group"):
        core = plural(core)
    leading = [wish for wish in wishes if not wish.startswith(_TRAILING)]
    trailing = [wish for wish in wishes if wish.startswith(_TRAILING)]
    tied = _tied(values[1:], wishes, leading, dice)
    leading = [wish for wish in leading if not tied.endswith(f" {wish}")]
    parts = [*dice.shuffled(leading), core]
    parts = dice.shuffled(parts) if dice.chance(_ANY_ORDER) and not tied else parts
    return " ".join([*parts, *([tied] if tied else []), *trailing])


def _tied(values: Sequence[Value], wishes: Sequence[str], leading: Sequence[str], dice: Dice) -> str:
    if not leading or not dice.chance(_CONNECTED):
        return ""
    at = dice.index(len(wishes))
    connector = _CONNECTORS.get(values[at].trait.dimension)
    return f"{connector} {wishes[at]}" if connector and wishes[at] in leading else ""


def plural(noun: str) -> str:
    """The plain English plural; mass nouns and nouns of an irregular ending are left as they are."""
    if noun.endswith(("s", "f", "fe", "x", "ch")) or noun.split(" ")[-1] in _MASS_NOUNS:
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def with_slip(text: str, dice: Dice) -> str | None:
    """The text with one word mistyped, sometimes two; None when no word is long enough."""
    words = text.split()
    places = [place for place, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not places:
        return None
    for place in dice.sample(places, 2 if dice.chance(_SECOND_SLIP) else 1):
        words[place] = misspell(words[place], dice)
    return " ".join(words)
