"""Exact matches on a real index: whatever codes say, what holds the shopper's own words exactly stays on top."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from opensearchpy import OpenSearch, helpers

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.search.document import gram_object
from gram_plugin.search.mappings import apply_to_index
from gram_plugin.search.query import ClauseSettings, Mode, enrich

AT = datetime(2026, 1, 1, tzinfo=UTC)
MOUSE = Code.parse("type=mouse")
CODES = (ScoredCode(MOUSE, 1.0, 1.0), ScoredCode(Code.parse("type=mouse|brand=x"), 0.8, 1.0))
OVERWHELMING = ClauseSettings(strength=1e6)
TEXT = {
    "title": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
    "german": {"type": "text", "analyzer": "german"},
    "japanese": {"type": "text", "analyzer": "cjk"},
    "sku": {"type": "keyword"},
    "price": {"type": "integer"},
    "terse": {"type": "text", "index_options": "docs"},
    "offers": {"type": "nested", "properties": {"sku": {"type": "text"}}},
}


def store(client: OpenSearch, index: str, products: Mapping[str, Mapping[str, Any]]) -> None:
    """Products in order; those whose id begins with `code` carry every code of the query for sure."""
    settings = {"number_of_shards": 1, "number_of_replicas": 0}
    client.indices.create(index=index, body={"settings": settings, "mappings": {"properties": TEXT}})
    apply_to_index(client, index)
    coded = {"gram": gram_object([ScoredCode(code.code, 1.0) for code in CODES], "g1", "0" * 32, AT)}
    actions = [
        {"_index": index, "_id": key, "_source": {**source, **(coded if key.startswith("code") else {})}}
        for key, source in products.items()
    ]
    helpers.bulk(client, actions, refresh=True)


def answer(client: OpenSearch, index: str, body: Mapping[str, Any], mode: Mode, **changed: Any) -> dict[str, Any]:
    """The answer to an enriched search."""
    settings = ClauseSettings(**{"strength": 1e6, **changed})
    found: dict[str, Any] = client.search(index=index, body=enrich(body, CODES, "g1", settings, mode))
    return found


def order(found: Mapping[str, Any]) -> list[str]:
    """Ids, best first."""
    return [hit["_id"] for hit in found["hits"]["hits"]]


QUERIES: dict[str, dict[str, Any]] = {
    "match": {"match": {"title": "%s"}},
    "multi-match": {"multi_match": {"query": "%s", "fields": ["title^3", "sku", "price"], "lenient": True}},
    "all-fields": {"multi_match": {"query": "%s"}},
    "query-string": {"query_string": {"query": "%s", "default_field": "title"}},
    "simple-query-string": {"simple_query_string": {"query": "%s", "fields": ["title", "ti*"]}},
    "combined": {"combined_fields": {"query": "%s", "fields": ["title"]}},
    "function-score": {"function_score": {"query": {"match": {"title": "%s"}}, "boost": 2}},
    "without-positions": {"multi_match": {"query": "%s", "fields": ["title", "terse"]}},
}


def asking(query: Any, text: str) -> Any:
    """The query with a text in place of `%s`."""
    if isinstance(query, dict):
        return {key: asking(value, text) for key, value in query.items()}
    return query.replace("%s", text) if isinstance(query, str) else query


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
@pytest.mark.parametrize("kind", QUERIES)
def test_the_exact_model_number_stays_first(client: OpenSearch, index_name: str, kind: str, mode: Mode) -> None:
    """Overwhelming codes of others, found by the words or not, do not push the product with the number down."""
    products = {
        "exact": {"title": "Voltessa keyboard VL-9983X", "terse": "x"},
        "code-near": {"title": "Voltessa mouse VL-9984X"},
        "code-far": {"title": "Optical device"},
    }
    store(client, index_name, products)
    body = {"query": asking(QUERIES[kind], "VL-9983X")}
    kept = order(answer(client, index_name, body, mode))
    lost = order(answer(client, index_name, body, mode, keep_exact=False))
    assert (kept[0], lost[0]) == ("exact", "code-near")
    assert sorted(kept) == sorted(lost)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
@pytest.mark.parametrize("title", ["Transport Box, Sand", "Low-top Shoe", "Haldemar Oak Night Table"])
def test_a_copied_title_stays_first(client: OpenSearch, index_name: str, title: str, mode: Mode) -> None:
    """From three words on, as they stand in the title, whatever the codes of products that share some of them."""
    part = title.split()[0]
    store(client, index_name, {"exact": {"title": title}, "code-near": {"title": f"{part} mouse"}})
    body = {"query": {"match": {"title": title}}}
    assert order(answer(client, index_name, body, mode)) == ["exact", "code-near"]
    assert order(answer(client, index_name, body, mode, keep_exact=False)) == ["code-near", "exact"]


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
@pytest.mark.parametrize(
    ("title", "typed"),
    [
        ("Lamp", "lamp"),
        ("Night Lamp", " night  LAMP"),
        ("Tischlampe", "tischlampe"),
        ("夜灯", "夜灯"),
        ("ÜBERZUG", "überzug"),
        ("Лампа", "лампа"),
        ("Haldemar Oak Night Table", "haldemar oak night table"),
        ("WH-1000XM5", "wh-1000xm5"),
    ],
)
def test_a_title_that_is_the_query_stays_first(
    client: OpenSearch, index_name: str, title: str, typed: str, mode: Mode
) -> None:
    """Of any length and in any case, above a title that holds it and more, where the index keeps titles whole."""
    store(client, index_name, {"exact": {"title": title}, "code-more": {"title": f"{title} {title} mouse"}})
    body = {"query": {"match": {"title": typed}}}
    titles = ("title.raw", "title.keyword")  # the first is another index's
    assert order(answer(client, index_name, body, mode, titles=titles)) == ["exact", "code-more"]
    assert order(answer(client, index_name, body, mode, titles=("title.raw",))) == ["code-more", "exact"]
    assert order(answer(client, index_name, body, mode, titles=titles, keep_exact=False)) == ["code-more", "exact"]


@pytest.mark.parametrize("typed", ["ub5379k", "UB 5379K", "ub-5379k"])
def test_however_the_number_is_written(client: OpenSearch, index_name: str, typed: str) -> None:
    """With, without and in place of its hyphen the number leads to its product, once the search finds it."""
    store(client, index_name, {"exact": {"title": "Chair UB-5379K"}, "code-other": {"title": "Chair 5379"}})
    lexical = {"multi_match": {"query": typed, "fields": ["title"], "fuzziness": "AUTO"}}
    assert order(answer(client, index_name, {"query": lexical}, Mode.RECALL)) == ["exact", "code-other"]


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_codes_still_order_the_bearers_and_the_rest(client: OpenSearch, index_name: str, mode: Mode) -> None:
    """The whole query first, then what has the number, by codes, then the rest, by codes: an accessory may lead."""
    products = {
        "other-case": {"title": "case for headphones"},
        "code-other-case": {"title": "travel case"},
        "headphones": {"title": "headphones WH-1000XM5"},
        "code-for-it": {"title": "case for WH-1000XM5"},
        "whole": {"title": "WH-1000XM5 case"},
    }
    store(client, index_name, products)
    found = order(answer(client, index_name, {"query": {"match": {"title": "wh-1000xm5 case"}}}, mode))
    assert found == ["whole", "code-for-it", "headphones", "code-other-case", "other-case"]


@pytest.mark.parametrize(
    ("typed", "written"),
    [("usb 64 gb", "usb stick 64 gb"), ("ddr4-3200 usb", "usb DDR4-3200"), ("usb 100000 mah", "usb bank 100000 mah")],
)
def test_a_measure_leaves_the_order_to_codes(client: OpenSearch, index_name: str, typed: str, written: str) -> None:
    """A measure beside other words is no identifier: a code moves a product that says it otherwise."""
    store(client, index_name, {"words": {"title": written}, "code": {"title": "usb memory"}})
    found = answer(client, index_name, {"query": {"match": {"title": typed}}}, Mode.RERANK)
    assert order(found) == ["code", "words"]


@pytest.mark.parametrize(
    ("field", "text", "exact", "near"),
    [
        ("german", "„dunkle Röstung“ Kaffee", "Kaffee, dunkle Röstung", "Kaffee, Röstung: dunkle Bohnen"),
        ("german", '"dunkle Röstung" Kaffee', "Kaffee, dunkle Röstung", "Kaffee, Röstung: dunkle Bohnen"),
        ("japanese", "「無線イヤホン」黒", "黒の無線イヤホン", "黒の無線マウスとイヤホン"),
        ("japanese", "黑色“无线耳机”", "黑色无线耳机", "黑色耳机，无线鼠标"),
    ],
)
@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_quoted_phrases_of_other_languages_stay_first(
    client: OpenSearch, index_name: str, mode: Mode, field: str, text: str, exact: str, near: str
) -> None:
    """German and CJK quotes: the product with the phrase stays above those that only have its words and a code."""
    store(client, index_name, {"exact": {field: exact}, "code-near": {field: near}})
    body = {"query": {"multi_match": {"query": text, "fields": [field]}}}
    assert order(answer(client, index_name, body, mode)) == ["exact", "code-near"]
    assert order(answer(client, index_name, body, mode, keep_exact=False)) == ["code-near", "exact"]


def test_nested_numbers_are_kept_too(client: OpenSearch, index_name: str) -> None:
    """A number in an offer keeps its product on top."""
    offers = {"exact": {"offers": [{"sku": "AB-12345"}]}, "code-near": {"offers": [{"sku": "AB-1"}, {"sku": "12346"}]}}
    store(client, index_name, offers)
    nested = {"nested": {"path": "offers", "query": {"match": {"offers.sku": "ab-12345"}}}}
    assert order(answer(client, index_name, {"query": nested}, Mode.RECALL)) == ["exact", "code-near"]


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_hits_totals_facets_and_highlights_are_the_same(client: OpenSearch, index_name: str, mode: Mode) -> None:
    """The guard changes order and scores alone: not what is found, counted, kept by filters or highlighted."""
    products = {f"code-{n}": {"title": f"mouse G502 {n}", "sku": f"s{n % 2}", "price": n} for n in range(8)}
    products |= {f"plain-{n}": {"title": f"G502 pad {n}", "sku": "s2", "price": n} for n in range(8)}
    products["unfound"] = {"title": "nothing", "sku": "s3", "price": 1}
    store(client, index_name, products)
    words = {"multi_match": {"query": "g502 pad", "fields": ["title"]}}
    body = {
        "query": {"bool": {"must": [words], "filter": [{"range": {"price": {"lt": 6}}}]}},
        "size": 50,
        "aggs": {"skus": {"terms": {"field": "sku"}}},
        "highlight": {"fields": {"title": {}}},
    }
    kept, lost = (answer(client, index_name, body, mode, keep_exact=keep) for keep in (True, False))
    shown = [{hit["_id"]: hit.get("highlight") for hit in found["hits"]["hits"]} for found in (kept, lost)]
    assert shown[0] == shown[1]
    assert (kept["hits"]["total"], kept["aggregations"]) == (lost["hits"]["total"], lost["aggregations"])
    limited = enrich({**body, "min_score": 1e3}, CODES, "g1", OVERWHELMING, Mode.RERANK)
    assert client.search(index=index_name, body=limited)["hits"]["total"]["value"] == 0
