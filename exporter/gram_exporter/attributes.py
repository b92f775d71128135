"""Typed attributes of products and queries, from catalogue fields and from text.

Three sources, in order of trust: typed fields; phrases of the text that the typed fields have taught
(`Lexicon`); and, for products that these leave bare, the telling words of the title. Words are Unicode
word characters, a Han, Kana or Hangul-free script needs no spaces: every CJK character is a word of its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gram_plugin.contract.codes import Attribute, readable_value
from gram_plugin.contract.text import field_values, normalise
from gram_plugin.errors import CodeError

MAX_VALUE_CHARS = 48
MAX_PHRASE_WORDS = 5
SPARSE_ATTRIBUTES = 3
"""A product with fewer attributes than this is filled up with terms of its title."""

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:[.\-'’][^\W_]+)*")
_TERM_TYPE = "other"

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

    def _longest_at(self, tokens: Sequence[str], at: int) -> int:
        longest = min(MAX_PHRASE_WORDS, len(tokens) - at)
        return next((n for n in range(longest, 0, -1) if tuple(tokens[at : at + n]) in self.phrases), 0)


def words(text: str) -> list[str]:
    """Words of a normalised text by Unicode rules; a CJK character is a word."""
    return _WORD.findall(text)


def field_attributes(source: Mapping[str, Any], types: Mapping[str, str]) -> tuple[Attribute, ...]:
    """Attributes of a product's typed fields, `types` being field path to attribute type.

    Values too long to be a name for anything (over 48 characters) are left out.
    """
    found = dict[Attribute, None]()
    for path, type_name in types.items():
        for value in field_values(source, path):
            attribute = _attribute_or_none(type_name, value)
            if attribute:
                found.setdefault(attribute)
    return tuple(found)


def learn_lexicon(products: Iterable[ProductText], *, min_products: int, min_precision: float = 0.5) -> Lexicon:
    """Learns which phrases of the text stand for which attribute.

    A phrase is the readable form of a field value. It is kept when at least `min_products` products
    say it, and when, among the products that say it and have a value of that type, at least
    `min_precision` have this one: 'orange' may name a colour or a brand, the catalogue decides.
    """
    products = list(products)
    values = Counter(attribute for product in products for attribute in product.fields)
    candidates: dict[Phrase, list[Attribute]] = defaultdict(list)
    for attribute, support in values.items():
        phrase = tuple(words(readable_value(attribute.value)))
        if support >= min_products and 0 < len(phrase) <= MAX_PHRASE_WORDS and not _is_bare_number(phrase):
            candidates[phrase].append(attribute)
    draft = Lexicon({phrase: tuple(attributes) for phrase, attributes in candidates.items()})
    said, right = _phrase_counts(products, draft)
    keep = {a for a, count in said.items() if count >= min_products and right[a] >= min_precision * count}
    kept = {phrase: tuple(a for a in attributes if a in keep) for phrase, attributes in candidates.items()}
    return Lexicon({phrase: attributes for phrase, attributes in kept.items() if attributes})


def learn_terms(titles: Sequence[str], *, min_products: int, max_terms: int, max_share: float = 0.2) -> Lexicon:
    """Learns the telling words and word pairs of titles as `other=` attributes.

    Kept are those that at least `min_products` and at most `max_share` of the titles contain,
    the `max_terms` with the largest df x idf; both words of a pair must be telling by themselves, and
    the pair said at least half as often as its rarer word, or it is no name.
    """
    counts = Counter(phrase for title in titles for phrase in set(_title_phrases(words(title))))
    ceiling = max(min_products, int(max_share * len(titles)))
    kept = {phrase: count for phrase, count in counts.items() if _telling(phrase, counts, min_products, ceiling)}
    telling = sorted(kept, key=lambda phrase: (-kept[phrase] * math.log(len(titles) / kept[phrase]), phrase))
    found = ((phrase, _attribute_or_none(_TERM_TYPE, " ".join(phrase))) for phrase in telling[:max_terms])
    return Lexicon({phrase: (attribute,) for phrase, attribute in found if attribute})


def product_attributes(product: ProductText, lexicon: Lexicon, terms: Lexicon) -> tuple[Attribute, ...]:
    """All attributes of one product; text may add a type that its fields lack, never contradict one."""
    typed = {attribute.type for attribute in product.fields}
    from_text = (attribute for attribute in lexicon.match(product.text) if attribute.type not in typed)
    found = dict.fromkeys((*product.fields, *from_text))
    if len(found) < SPARSE_ATTRIBUTES:
        found.update(dict.fromkeys(terms.match(product.title)))
    return tuple(found)


def product_text(source: Mapping[str, Any], text_fields: Sequence[str], types: Mapping[str, str]) -> ProductText:
    """Gathers what extraction needs of a product document; texts are normalised."""
    texts = [normalise(" ".join(field_values(source, path)), 2048) for path in text_fields]
    return ProductText(texts[0] if texts else "", " ; ".join(texts), field_attributes(source, types))


def _attribute_or_none(type_name: str, value: str) -> Attribute | None:
    if len(value) > MAX_VALUE_CHARS or not words(value.casefold()):
        return None
    try:
        return Attribute.of(type_name, value)
    except CodeError:
        return None


def _phrase_counts(products: Iterable[ProductText], draft: Lexicon) -> tuple[Counter[Attribute], Counter[Attribute]]:
    said, right = Counter[Attribute](), Counter[Attribute]()
    for product in products:
        types, own = {attribute.type for attribute in product.fields}, set(product.fields)
        matched = [attribute for attribute in draft.match(product.text) if attribute.type in types]
        said.update(matched)
        right.update(attribute for attribute in matched if attribute in own)
    return said, right


def _telling(phrase: Phrase, counts: Counter[Phrase], fewest: int, ceiling: int) -> bool:
    parts = [counts[(word,)] for word in phrase]
    return fewest <= counts[phrase] and max(parts) <= ceiling and (len(phrase) == 1 or 2 * counts[phrase] >= min(parts))


def _title_phrases(tokens: Sequence[str]) -> Iterator[Phrase]:
    yield from ((token,) for token in tokens if not _is_bare_number((token,)))
    yield from pairwise(tokens)


def _is_bare_number(phrase: Phrase) -> bool:
    return all(token.replace(".", "").isdecimal() for token in phrase)
