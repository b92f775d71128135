"""The sample shop as a whole: products, documents, queries in three splits, and judgments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gram_exporter.shop.dice import Dice
from gram_exporter.shop.intent import Intent, Shape, TraitIndex, draw_intents, graded_by_id
from gram_exporter.shop.merchant import write_document
from gram_exporter.shop.product import Product, draw_product
from gram_exporter.shop.shopper import Query, write_queries
from gram_exporter.shop.vocabulary import Trait, Vocabulary, load_vocabulary

LABEL = "synthetic sample shop"
SPLITS = ("train", "dev", "test")
_ENDS = {"train": 0.58, "dev": 0.69, "test": 1.0}
_GOLDEN_RATIO = 0.6180339887498949  # its multiples spread evenly over [0, 1)


@dataclass(frozen=True)
class Offer:
    """A product and the document that its merchant wrote about it."""

    product: Product
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Shop:
    """Everything of one shop; `grades` holds only grades above 0, by family and document id."""

    seed: int
    offers: Sequence[Offer]
    intents: Mapping[str, Intent]
    queries: Mapping[str, Sequence[Query]]
    grades: Mapping[str, Mapping[str, int]]

    @property
    def documents(self) -> list[Mapping[str, Any]]:
        """All documents in catalogue order."""
        return [offer.document for offer in self.offers]


def stream_products(seed: int, products: int) -> Iterator[Offer]:
    """Makes the catalogue one product at a time; holds nothing, so a million costs time alone."""
    vocabulary = load_vocabulary()
    for index in range(products):
        product = draw_product(vocabulary, seed, index)
        yield Offer(product, write_document(vocabulary, seed, product))


def make_shop(seed: int, products: int = 4000) -> Shop:
    """Makes the whole shop: the same seed and number of products give the same shop on every machine."""
    vocabulary = load_vocabulary()
    offers = list(stream_products(seed, products))
    index = TraitIndex([offer.product for offer in offers])
    intents = draw_intents(vocabulary, index, seed)
    queries = _queries(vocabulary, intents, offers, seed)
    used = {query.family for split in queries.values() for query in split}
    asked = [intent for intent in intents if intent.family in used]
    return Shop(seed, offers, {intent.family: intent for intent in asked}, queries, graded_by_id(index, asked))


def bag_of_words(text: str) -> str:
    """The words of a query, case-folded, sorted: equal for two texts that no lexical search tells apart."""
    return " ".join(sorted(re.findall(r"\w+", text.casefold())))


def _queries(
    vocabulary: Vocabulary, intents: Sequence[Intent], offers: Sequence[Offer], seed: int
) -> dict[str, list[Query]]:
    """Writes every intent's queries into its split; a text that an earlier intent asked in is dropped."""
    identifiers = _identifiers(offers)
    splits: dict[str, list[Query]] = {name: [] for name in SPLITS}
    seen: set[str] = set()
    for intent, split in _assigned(intents, seed):
        for query in write_queries(vocabulary, intent, identifiers, seed):
            bag = bag_of_words(query.text)
            if bag not in seen:
                seen.add(bag)
                splits[split].append(query)
    return splits


def _identifiers(offers: Sequence[Offer]) -> dict[Trait, list[str]]:
    """By model trait the texts that name this product alone: its number where it is printed, its title if unique."""
    titles = Counter(bag_of_words(str(offer.document["title"])) for offer in offers)
    found: dict[Trait, list[str]] = {}
    for offer in offers:
        number, title = offer.product.first("model") or "", str(offer.document["title"])
        texts = (title, offer.document.get("description", ""), offer.document.get("model", ""))
        printed = [number] * any(number in text for text in texts)
        found[Trait("model", number)] = printed + [title] * (titles[bag_of_words(title)] == 1)
    return found


def _assigned(intents: Sequence[Intent], seed: int) -> Iterator[tuple[Intent, str]]:
    """Gives each intent, with its whole family, one split.

    An intent of dev or test with an attribute that no train intent has goes to train: what is
    measured are new combinations of known attributes, asked for in words that may be new.
    """
    drawn = list(zip(intents, _drawn_splits(intents, seed), strict=True))
    known = {trait for intent, split in drawn if split == "train" for trait in intent.traits}
    for intent, split in drawn:
        is_fair = intent.shape is Shape.IDENTIFIER or intent.traits <= known
        yield intent, split if is_fair else "train"


def _drawn_splits(intents: Iterable[Intent], seed: int) -> Iterator[str]:
    """Every shape in the same proportions, at every length."""
    taken = dict.fromkeys(Shape, 0)
    offset = Dice(seed, "splits").fraction()
    for intent in intents:
        place = (offset + taken[intent.shape] * _GOLDEN_RATIO) % 1
        taken[intent.shape] += 1
        yield next(split for split, end in _ENDS.items() if place < end)
