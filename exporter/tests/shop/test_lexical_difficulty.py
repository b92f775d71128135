"""Tests that keyword search finds the shop neither trivial nor hopeless, measured with a BM25 of the test's own."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gram_exporter.shop import Query, Shop
from gram_exporter.shop.shopper import Kind

_BOOSTS = {"title": 3, "product_type": 2, "brand": 2, "model": 2}


@dataclass
class Bm25:
    """A plain BM25 over all fields as one, with the boosts of the shop's own `gram.toml`."""

    documents: Sequence[Mapping[str, Any]]
    words: list[set[str]] = field(default_factory=list)
    postings: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for number, document in enumerate(self.documents):
            counts: Counter[str] = Counter()
            for name, value in document.items():
                for text in value if isinstance(value, list) else [value]:
                    counts.update(dict.fromkeys(stems(str(text)), _BOOSTS.get(name, 1)))
            self.words.append(set(counts))
            for stem, count in counts.items():
                self.postings[stem].append((number, count))

    def search(self, text: str) -> list[int]:
        """Numbers of the best 100 documents."""
        scores: npt.NDArray[np.float64] = np.zeros(len(self.documents))
        for stem in set(stems(text)) & set(self.postings):
            found = np.array(self.postings[stem])
            rarity = math.log(1 + (len(self.documents) - len(found) + 0.5) / (len(found) + 0.5))
            scores[found[:, 0]] += rarity * found[:, 1] * 2.2 / (found[:, 1] + 1.2)
        best = np.argsort(-scores, kind="stable")[:100]
        return [int(number) for number in best if scores[number] > 0]


def stems(text: str) -> list[str]:
    """Words without a plural s."""
    return [re.sub(r"(?<=[a-z]{3})s$", "", word) for word in re.findall(r"\w+", text.casefold())]


@pytest.fixture(scope="module")
def engine(shop: Shop) -> Bm25:
    """The demo's catalogue, indexed."""
    return Bm25(shop.documents)


def _ndcg(grades: Mapping[str, int], ranked: Sequence[str]) -> float:
    gains = [2 ** grades.get(identifier, 0) - 1 for identifier in ranked[:10]]
    ideal = sorted((2**grade - 1 for grade in grades.values()), reverse=True)[:10]
    best = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(ideal))
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains)) / best


def _mean_ndcg(shop: Shop, engine: Bm25, queries: Sequence[Query]) -> float:
    ids = [str(document["id"]) for document in shop.documents]
    scores = [_ndcg(shop.grades[query.family], [ids[n] for n in engine.search(query.text)]) for query in queries]
    return sum(scores) / len(scores)


def test_keyword_search_is_decent_overall(shop: Shop, engine: Bm25) -> None:
    """BM25 over all test queries scores an nDCG@10 between 0.5 and 0.75, as in a shop that is worth improving."""
    assert 0.5 <= _mean_ndcg(shop, engine, shop.queries["test"]) <= 0.75


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (Kind.HEAD, 0.75, 1.0),
        (Kind.IDENTIFIER, 0.75, 1.0),
        (Kind.ATTRIBUTE, 0.65, 0.95),
        (Kind.UNIT, 0.5, 0.9),
        (Kind.SYNONYM, 0.25, 0.6),
        (Kind.SCENARIO, 0.2, 0.55),
        (Kind.MISSPELLING, 0.2, 0.6),
    ],
)
def test_keyword_search_is_weak_only_where_words_differ(
    shop: Shop, engine: Bm25, kind: Kind, low: float, high: float
) -> None:
    """BM25 is good where shoppers use the merchants' words and weak where they do not."""
    queries = [query for query in shop.queries["test"] if query.kind is kind]
    assert low <= _mean_ndcg(shop, engine, queries) <= high


def test_many_relevant_products_share_no_word_with_their_query(shop: Shop, engine: Bm25) -> None:
    """For one test query in ten and more, most products of grade 2 and 3 cannot be found by any word."""
    numbers = {str(document["id"]): number for number, document in enumerate(shop.documents)}
    shares = []
    for query in shop.queries["test"]:
        good = [numbers[identifier] for identifier, grade in shop.grades[query.family].items() if grade >= 2]
        asked = set(stems(query.text))
        shares.append(sum(not asked & engine.words[number] for number in good) / max(1, len(good)))
    assert sum(share > 0.5 for share in shares) / len(shares) > 0.1
    assert 0.1 < sum(shares) / len(shares) < 0.3
