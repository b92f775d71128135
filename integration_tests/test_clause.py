"""The clause on a real index: what it finds, what it leaves alone, and the points that it gives."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from opensearchpy import OpenSearch, helpers

from gram_plugin.contract.codes import Attribute, Code, ScoredCode
from gram_plugin.search.document import gram_object, pending_object, replacing
from gram_plugin.search.mappings import apply_to_index
from gram_plugin.search.query import ClauseSettings, Mode, code_clause, enrich

AT = datetime(2026, 1, 1, tzinfo=UTC)
STRENGTH, TIE_BREAKER = 7.0, 0.3
SETTINGS = ClauseSettings(strength=STRENGTH, tie_breaker=TIE_BREAKER)
KEYWORD_SETTINGS = ClauseSettings(strength=STRENGTH, tie_breaker=TIE_BREAKER, weighted=False)
NINE_BITS = 2.0**-8
"""Largest relative error of a weight that keeps 9 significant bits."""

WORDS = ("red", "blue", "shoe", "boot", "light", "trail", "kids", "leather")
BRANDS = ("acme", "bolt", "core")
CODES = tuple(
    Code.parse(text)
    for text in ("type=shoe", "type=shoe|brand=acme", "type=shoe|brand=bolt", "type=boot", "brand=acme", "colour=red")
)
QUERY_CODES = tuple(map(ScoredCode, CODES, (0.9, 0.5, 0.25, 0.4, 0.35, 0.0625)))


@dataclass(frozen=True)
class Product:
    """A document of the test shop, as Python sees it."""

    id: str
    source: dict[str, Any]
    weights: dict[Code, float]

    def gains(self, codes: Sequence[ScoredCode] = QUERY_CODES, *, weighted: bool = True) -> float:
        """The slow reference of the clause: points of this product, families summed, dis_max within."""
        families: dict[Attribute, list[float]] = {}
        for scored in codes:
            weight = self.weights.get(scored.code)
            if weight is not None:
                points = STRENGTH * scored.probability * (weight if weighted else 1.0)
                families.setdefault(scored.code.family, []).append(points)
        return sum(max(points) + TIE_BREAKER * (sum(points) - max(points)) for points in families.values())


@dataclass(frozen=True)
class Shop:
    """An index and the products in it."""

    client: OpenSearch
    index: str
    products: Mapping[str, Product]

    def hits(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a search."""
        answer: dict[str, Any] = self.client.search(index=self.index, body=body)
        return answer

    def scores(self, body: Mapping[str, Any]) -> dict[str, float]:
        """Score by id, best first."""
        return {hit["_id"]: hit["_score"] for hit in self.hits(body)["hits"]["hits"]}

    def matching(self, fits: Callable[[Product], bool]) -> set[str]:
        """Ids of the products that a reference in Python accepts."""
        return {product.id for product in self.products.values() if fits(product)}


def make_products(count: int = 120) -> list[Product]:
    """Products with random titles, brands, prices and codes, always the same."""
    random = np.random.default_rng(7)
    products = []
    for number in range(count):
        carried = [code for code in CODES if random.random() < 0.25]
        weights = {code: float(f"{random.uniform(0.01, 1):.4g}") for code in carried}
        source = {
            "title": " ".join(random.choice(WORDS, size=random.integers(2, 6))),
            "brand": str(random.choice(BRANDS)),
            "price": int(random.integers(1, 100)),
            "in_stock": bool(random.random() < 0.7),
            "offers": [{"seller": str(random.choice(("one", "two"))), "note": str(random.choice(WORDS))}],
        }
        codes = [ScoredCode(code, weight) for code, weight in weights.items()]
        source["gram"] = gram_object(codes, "g1", "", AT)
        products.append(Product(f"p{number:03}", source, weights))
    return products


@pytest.fixture(scope="module")
def shop(client: OpenSearch) -> Iterator[Shop]:
    """One index of 120 products for the module; no test changes it."""
    index = f"test-clause-{secrets.token_hex(4)}"
    properties = {
        "title": {"type": "text"},
        "brand": {"type": "keyword"},
        "price": {"type": "integer"},
        "in_stock": {"type": "boolean"},
        "offers": {"type": "nested", "properties": {"seller": {"type": "keyword"}, "note": {"type": "text"}}},
    }
    settings = {"index": {"number_of_shards": 1, "number_of_replicas": 0}}
    client.indices.create(index=index, body={"settings": settings, "mappings": {"properties": properties}})
    apply_to_index(client, index)
    products = make_products()
    helpers.bulk(client, ({"_index": index, "_id": p.id, "_source": p.source} for p in products), refresh=True)
    yield Shop(client, index, {product.id: product for product in products})
    client.indices.delete(index=index)


TEXT = "red shoe"
MATCH = {"match": {"title": TEXT}}
IN_STOCK = {"term": {"in_stock": True}}
ACME = {"term": {"brand": "acme"}}
CHEAP = {"range": {"price": {"lt": 50}}}


def in_stock(product: Product) -> bool:
    """The reference of `IN_STOCK`."""
    return bool(product.source["in_stock"])


def acme(product: Product) -> bool:
    """The reference of `ACME`."""
    return bool(product.source["brand"] == "acme")


def cheap(product: Product) -> bool:
    """The reference of `CHEAP`."""
    return bool(product.source["price"] < 50)


def seller_one(product: Product) -> bool:
    """The reference of a nested filter on the seller."""
    return bool(product.source["offers"][0]["seller"] == "one")


Fits = Callable[[Product], bool]
QUERIES: dict[str, tuple[dict[str, Any], Fits]] = {
    "words": (MATCH, lambda p: True),
    "filter": ({"bool": {"must": MATCH, "filter": IN_STOCK}}, in_stock),
    "must_not": ({"bool": {"must": [MATCH], "must_not": [ACME]}}, lambda p: not acme(p)),
    "all three": (
        {"bool": {"must": [MATCH, CHEAP], "filter": [IN_STOCK], "must_not": ACME, "should": [{"term": {"price": 7}}]}},
        lambda p: cheap(p) and in_stock(p) and not acme(p),
    ),
    "should only": ({"bool": {"should": [MATCH, {"match_phrase": {"title": TEXT}}]}}, lambda p: True),
    "should beside filter": ({"bool": {"should": [MATCH], "filter": [CHEAP]}}, cheap),
    "required should": (
        {"bool": {"must": [MATCH], "should": [ACME, CHEAP], "minimum_should_match": 1}},
        lambda p: acme(p) or cheap(p),
    ),
    "two of three": (
        {"bool": {"should": [MATCH, ACME, CHEAP], "minimum_should_match": "67%"}},
        lambda p: acme(p) or cheap(p),
    ),
    "function_score": (
        {"function_score": {"query": {"bool": {"must": MATCH, "filter": IN_STOCK}}, "functions": [{"weight": 2}]}},
        in_stock,
    ),
    "boosting": ({"boosting": {"positive": MATCH, "negative": ACME, "negative_boost": 0.5}}, lambda p: True),
    "dis_max": (
        {"dis_max": {"queries": [{"bool": {"must": MATCH, "filter": CHEAP}}, {"bool": {"must": [MATCH, ACME]}}]}},
        lambda p: cheap(p) or acme(p),
    ),
    "nested": (
        {
            "nested": {
                "path": "offers",
                "query": {
                    "bool": {"must": {"match": {"offers.note": TEXT}}, "filter": {"term": {"offers.seller": "one"}}}
                },
                "inner_hits": {},
            }
        },
        seller_one,
    ),
    "constant_score": ({"constant_score": {"filter": {"bool": {"must": [MATCH, ACME]}}, "boost": 3}}, acme),
    "min_score of functions": (
        {
            "function_score": {
                "query": MATCH,
                "functions": [{"filter": IN_STOCK, "weight": 10}],
                "boost_mode": "replace",
                "min_score": 5,
            }
        },
        in_stock,
    ),
    "min_score of a script": (
        {"script_score": {"query": MATCH, "script": {"source": "100 - doc['price'].value"}, "min_score": 50.5}},
        cheap,
    ),
    "min_score of words": (
        {"function_score": {"query": MATCH, "min_score": 0.01}},
        lambda p: bool({"red", "shoe"} & set(p.source["title"].split())),
    ),
    "syntax": (
        {"simple_query_string": {"query": "+red +shoe -boot", "fields": ["title"]}},
        lambda p: "boot" not in p.source["title"].split(),
    ),
    "syntax in parentheses": (
        {
            "simple_query_string": {
                "query": "(red shoe -boot) (-kids)",
                "fields": ["title"],
                "minimum_should_match": "100%",
            }
        },
        lambda p: not {"boot", "kids"} & set(p.source["title"].split()),
    ),
    "negated group": (
        {"query_string": {"query": "red OR shoe AND NOT(boot AND kids)", "default_field": "title"}},
        lambda p: not {"boot", "kids"} <= set(p.source["title"].split()),
    ),
    "named": (
        {"bool": {"must": MATCH, "filter": [{"term": {"brand": {"value": "acme", "_name": "brand"}}}]}},
        acme,
    ),
}

FACETS = {"brands": {"terms": {"field": "brand"}}, "prices": {"stats": {"field": "price"}}}


@pytest.mark.parametrize("name", QUERIES)
def test_rerank_changes_order_only(shop: Shop, name: str) -> None:
    """Hits, total and facets are those of the lexical query; each hit gains exactly its codes' points."""
    body = {"query": QUERIES[name][0], "size": 200, "aggs": FACETS, "track_total_hits": True}
    lexical, enriched = shop.hits(body), shop.hits(enrich(body, QUERY_CODES, "g1", SETTINGS, Mode.RERANK))
    assert lexical["hits"]["total"]["value"] > 0
    assert enriched["hits"]["total"] == lexical["hits"]["total"]
    assert enriched["aggregations"] == lexical["aggregations"]
    before = {hit["_id"]: hit["_score"] for hit in lexical["hits"]["hits"]}
    after = {hit["_id"]: hit["_score"] for hit in enriched["hits"]["hits"]}
    expected = {key: score + shop.products[key].gains() for key, score in before.items()}
    assert after == pytest.approx(expected, rel=NINE_BITS)


@pytest.mark.parametrize("name", QUERIES)
def test_recall_adds_what_carries_a_code_and_obeys_the_query(shop: Shop, name: str) -> None:
    """The hits are the lexical ones and those products with a code that satisfy everything but the words."""
    query, fits = QUERIES[name]
    body = {"query": query, "size": 200, "track_total_hits": True}
    lexical = shop.scores(body)
    answer = shop.hits(enrich(body, QUERY_CODES, "g1", SETTINGS, Mode.RECALL))
    found = {hit["_id"]: hit["_score"] for hit in answer["hits"]["hits"]}
    coded = shop.matching(lambda product: bool(product.weights) and fits(product))
    assert set(found) == set(lexical) | coded
    assert answer["hits"]["total"] == {"value": len(found), "relation": "eq"}
    gains = {key: shop.products[key].gains() if key in coded else 0.0 for key in found}
    expected = {key: lexical.get(key, 0.0) + gains[key] for key in found}
    assert found == pytest.approx(expected, rel=NINE_BITS)


@pytest.mark.parametrize("settings", [SETTINGS, KEYWORD_SETTINGS], ids=["weights", "keywords"])
def test_order_is_that_of_the_reference(shop: Shop, settings: ClauseSettings) -> None:
    """Sorting by the reference sum in numpy gives the order of the index, but for differences below rounding."""
    body = {"query": MATCH, "size": 200}
    lexical = shop.scores(body)
    order = list(shop.scores(enrich(body, QUERY_CODES, "g1", settings, Mode.RECALL)))
    points = [shop.products[key].gains(weighted=settings.weighted) for key in order]
    sums = np.array([lexical.get(key, 0.0) + gained for key, gained in zip(order, points, strict=True)])
    assert (np.diff(sums) <= NINE_BITS * sums[:-1]).all()
    assert np.ptp(sums) > 1


@pytest.mark.parametrize("settings", [SETTINGS, KEYWORD_SETTINGS], ids=["weights", "keywords"])
def test_clause_alone_finds_the_carriers_of_a_code(shop: Shop, settings: ClauseSettings) -> None:
    """A code of coarse and fine attributes finds its products, and names itself in the answer."""
    code = CODES[1]
    clause = code_clause([ScoredCode(code, 0.5)], "g1", settings)
    hits = shop.hits({"query": clause, "size": 200})["hits"]["hits"]
    assert {hit["_id"] for hit in hits} == shop.matching(lambda product: code in product.weights)
    assert {tuple(hit["matched_queries"]) for hit in hits} == {("gram:type=shoe|brand=acme",)}


def test_codes_of_another_generation_match_nothing(shop: Shop) -> None:
    """Products coded by one model are never found by the codes of another."""
    for settings in (SETTINGS, KEYWORD_SETTINGS):
        clause = code_clause(QUERY_CODES, "g2", settings)
        assert shop.scores({"query": clause}) == {}


def test_min_score_keeps_its_meaning_in_rerank(shop: Shop) -> None:
    """Hits below the limit stay out however many codes they carry."""
    body = {"query": MATCH, "size": 200, "aggs": FACETS}
    limit = float(np.median(list(shop.scores(body).values())))
    limited = {**body, "min_score": limit}
    lexical, enriched = shop.hits(limited), shop.hits(enrich(limited, QUERY_CODES, "g1", SETTINGS, Mode.RERANK))
    assert 0 < lexical["hits"]["total"]["value"] < len(shop.scores(body))
    assert {hit["_id"] for hit in enriched["hits"]["hits"]} == {hit["_id"] for hit in lexical["hits"]["hits"]}
    assert (enriched["hits"]["total"], enriched["aggregations"]) == (lexical["hits"]["total"], lexical["aggregations"])


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_pages_fit_together(shop: Shop, mode: Mode) -> None:
    """Paging by from/size and by search_after walks through the same order without gaps or repeats."""
    body = enrich(
        {"query": MATCH, "sort": ["_score", {"price": "asc"}, {"brand": "asc"}, {"_id": "asc"}]},
        QUERY_CODES,
        "g1",
        SETTINGS,
        mode,
    )
    whole = list(shop.scores({**body, "size": 200}))
    pages = [key for start in range(0, len(whole), 7) for key in shop.scores({**body, "from": start, "size": 7})]
    assert pages == whole
    walked: list[str] = []
    after: dict[str, Any] = {}
    while hits := shop.hits({**body, "size": 7, **after})["hits"]["hits"]:
        walked += [hit["_id"] for hit in hits]
        after = {"search_after": hits[-1]["sort"]}
    assert walked == whole


def test_sorted_by_price_recall_has_the_hits_of_the_relevance_page(shop: Shop) -> None:
    """Hits, total and facets do not change when a shopper changes the sort order; rerank sends the request as it is."""
    body = {"query": MATCH, "size": 200, "aggs": FACETS, "track_total_hits": True}
    by_price = {**body, "sort": [{"price": "asc"}]}
    relevance = shop.hits(enrich(body, QUERY_CODES, "g1", SETTINGS, Mode.RECALL))
    price = shop.hits(enrich(by_price, QUERY_CODES, "g1", SETTINGS, Mode.RECALL))
    assert {hit["_id"] for hit in price["hits"]["hits"]} == {hit["_id"] for hit in relevance["hits"]["hits"]}
    assert (price["hits"]["total"], price["aggregations"]) == (relevance["hits"]["total"], relevance["aggregations"])
    assert enrich(by_price, QUERY_CODES, "g1", SETTINGS, Mode.RERANK) == by_price


def test_rest_of_the_request_keeps_its_meaning(shop: Shop) -> None:
    """Post filter, collapse, highlight, source filtering, rescore, explain and profile work as on the lexical query."""
    rest = {
        "post_filter": ACME,
        "highlight": {"fields": {"title": {}}},
        "collapse": {"field": "price", "inner_hits": {"name": "same_price"}},
        "_source": ["title"],
        "explain": True,
        "profile": True,
        "rescore": {"window_size": 5, "query": {"rescore_query": {"match_phrase": {"title": TEXT}}}},
    }
    for key, value in rest.items():
        body = {"query": QUERIES["filter"][0], "size": 200, key: value}
        lexical, enriched = shop.hits(body), shop.hits(enrich(body, QUERY_CODES, "g1", SETTINGS, Mode.RERANK))
        kept = [{hit["_id"]: hit.get("highlight") for hit in answer["hits"]["hits"]} for answer in (lexical, enriched)]
        if key != "collapse":  # the best of each group may be another
            assert kept[0] == kept[1], key
        assert lexical["hits"]["total"] == enriched["hits"]["total"], key


VALUES = (
    "50% off",
    "a.b|c=d",
    "😀",
    "a*b?c",
    "quote\"'",
    "日本 語",
    "שלום",
    "x,y;z[1]{2}",
    "back\\slash",
    "+-/&!^~`@#$",
)


def test_any_value_can_be_a_code(client: OpenSearch, index_name: str) -> None:
    """Dots, slashes, wildcards, quotes and other scripts in a value are found by exactly their own code."""
    codes = [Code.of([Attribute.of("type", value), Attribute.of("brand", "hp")]) for value in VALUES]
    client.indices.create(index=index_name)
    apply_to_index(client, index_name)
    for number, code in enumerate(codes):
        client.index(index=index_name, id=number, body={"gram": gram_object([ScoredCode(code, 0.5)], "g1", "", AT)})
    client.indices.refresh(index=index_name)
    for settings in (SETTINGS, KEYWORD_SETTINGS):
        searches = [code_clause([ScoredCode(code, 1.0)], "g1", settings) for code in codes]
        found = [client.search(index=index_name, body={"query": search})["hits"]["hits"] for search in searches]
        assert [[hit["_id"] for hit in hits] for hits in found] == [[str(number)] for number in range(len(codes))]


def test_partial_update_leaves_no_old_weight(client: OpenSearch, index_name: str) -> None:
    """After an update by `doc` a product is found by its new codes only; a pending one by none."""
    client.indices.create(index=index_name)
    apply_to_index(client, index_name)
    old, new = CODES[0], CODES[3]
    clause = code_clause([ScoredCode(old, 1.0), ScoredCode(new, 1.0)], "g1", SETTINGS)
    client.index(index=index_name, id="1", body={"gram": gram_object([ScoredCode(old, 0.5)], "g1", "a", AT)})
    updates = [
        (replacing(gram_object([ScoredCode(new, 0.25)], "g1", "b", AT)), [["gram:type=boot"]]),
        (replacing(pending_object(AT)), []),
        (replacing(gram_object([], "g1", "c", AT)), []),
    ]
    for update, expected in updates:
        client.update(index=index_name, id="1", body={"doc": {"gram": update}}, refresh=True)
        hits = client.search(index=index_name, body={"query": clause})["hits"]["hits"]
        assert [hit["matched_queries"] for hit in hits] == expected
