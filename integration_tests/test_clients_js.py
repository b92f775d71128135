"""opensearch-js, unchanged but for its address: through shim and sidecar, and straight to OpenSearch, side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import RunningNode
from javascript import JavaScript
from sidecars import Pair, create, plain, settled, stored
from sofas import answer, ids, without_times

TEMPLATE = "js-template"
SOFAS = {str(number) for number in range(120) if number % 6 in (0, 1, 2)}
ENRICHED = ("search", "stored_template", "inline_template")


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> JavaScript:
    """Runs programs of `integration_tests/js`."""
    return JavaScript.ready(tmp_path_factory.mktemp("js"), os.environ)


@pytest.fixture(scope="module")
def template(client: OpenSearch) -> Iterator[str]:
    """A search template that is stored in the cluster."""
    source = {"query": {"match": {"title": "{{text}}"}}, "size": 200}
    client.put_script(id=TEMPLATE, body={"script": {"lang": "mustache", "source": source}})
    yield TEMPLATE
    client.delete_script(id=TEMPLATE)


def unmarked(seen: Any) -> Any:
    """What a program saw, without our headers."""
    if isinstance(seen, dict):
        return {name: unmarked(value) for name, value in seen.items() if name != "x-gram-status"}
    return [unmarked(value) for value in seen] if isinstance(seen, list) else seen


def marks(seen: dict[str, Any]) -> dict[str, Any]:
    """The header `x-gram-status` of every answer that had it, those of pages in a list."""
    pages = {name: [page["x-gram-status"] for page in seen[name]] for name in ("pages", "scroll")}
    single = {name: value.get("x-gram-status") for name, value in seen.items() if isinstance(value, dict)}
    return {name: mark for name, mark in single.items() if mark} | pages


def hits_of(seen: dict[str, Any]) -> dict[str, list[str]]:
    """Ids of the hits of each way to search, in order."""
    return {
        **{name: ids(seen[name]["body"]) for name in ENRICHED},
        "msearch": ids(seen["msearch"]["body"]["responses"][0]),
        "msearch_template": ids(seen["msearch_template"]["body"]["responses"][0]),
        "msearch_template_inline": ids(seen["msearch_template"]["body"]["responses"][1]),
        "pages": [name for page in seen["pages"] for name in ids(page["body"])],
        "scroll": [name for page in seen["scroll"] for name in ids(page["body"])],
    }


@pytest.mark.parametrize("compression", [(), ("gzip",)], ids=["plain", "gzip"])
def test_in_off_every_search_of_it_is_answered_as_directly(
    javascript: JavaScript, node: RunningNode, shop: str, modes: dict[str, str], template: str, compression: tuple[str]
) -> None:
    """Searches, templates, pages, helpers, errors: status, encoding and body are equal; ours are marked."""
    direct, off = (
        javascript.run("search.mjs", url, shop, template, "couch", *compression) for url in (node.url, modes["off"])
    )
    assert without_times(unmarked(off)) == without_times(unmarked(direct))
    assert marks(direct) == {"pages": [None] * 4, "scroll": [None] * 3}
    assert {name: marks(off)[name] for name in ENRICHED} == dict.fromkeys(ENRICHED, "off; reason=mode")
    assert direct["search"]["content-encoding"] == (compression[0] if compression else None)
    assert len(ids(direct["search"]["body"])) == 60


def test_in_recall_every_search_of_it_finds_what_the_words_miss(
    javascript: JavaScript, shop: str, modes: dict[str, str], template: str
) -> None:
    """A word that no title has finds the sofas in every way that the client can search, and says so in a header."""
    seen = javascript.run("search.mjs", modes["recall"], shop, template, "settee")
    body = {"query": {"match": {"title": "settee"}}, "size": 200}
    expected = ids(answer(modes["recall"], f"/{shop}/_search", body)[1])
    found = hits_of(seen)
    assert {name: set(hits) for name, hits in found.items()} == dict.fromkeys(found, SOFAS)
    assert [found[name] for name in (*ENRICHED, "msearch", "msearch_template")] == [expected] * 5
    assert {name: len(hits) for name, hits in found.items()} == dict.fromkeys(found, 60)
    assert [document["title"] for document in seen["documents"]] == [
        hit["_source"]["title"] for hit in seen["search"]["body"]["hits"]["hits"]
    ]
    assert ids(seen["in_off"]["body"]) == []
    assert [len(seen["scrolled_documents"]), *map(len, seen["msearch_helper"])] == [60, 60, 60 - 5]
    assert marks(seen) == {
        **dict.fromkeys(ENRICHED, "applied"),
        "in_off": "off; reason=mode",
        "without_body": "off; reason=no-body",
        "msearch": "applied; items=1/3",
        "msearch_template": "applied; items=2/3",
        "pages": ["applied"] * 4,
        "scroll": ["applied", None, None],
        "bad_query": "off; reason=no-query-text",
        "no_index": 'off; reason=no-mapping; next="gram mapping apply"',
    }


def test_in_rerank_its_search_finds_the_same_in_a_better_order(
    javascript: JavaScript, node: RunningNode, shop: str, modes: dict[str, str], template: str
) -> None:
    """Hits and totals are those of the direct search in every way to search; products with the code lead."""
    direct, seen = (javascript.run("search.mjs", url, shop, template, "red") for url in (node.url, modes["rerank"]))
    found, expected = hits_of(seen), hits_of(direct)
    assert {name: sorted(hits) for name, hits in found.items()} == {
        name: sorted(hits) for name, hits in expected.items()
    }
    lamps = {name: [hit not in SOFAS for hit in hits] for name, hits in found.items()}
    assert lamps == dict.fromkeys(found, [False] * 40 + [True] * 20)
    totals = [one["search"]["body"]["hits"]["total"] for one in (seen, direct)]
    assert totals == [{"value": 60, "relation": "eq"}] * 2


@pytest.mark.parametrize("compression", [(), ("gzip",)], ids=["plain", "gzip"])
def test_its_writes_get_the_answers_of_direct_ones_and_codes(
    javascript: JavaScript, node: RunningNode, pair: Pair, index_name: str, compression: tuple[str]
) -> None:
    """Bulk helper, bulk, index, create, update, delete: answers, drops, errors item by item, and the documents."""
    direct, coded = f"{index_name}-direct", f"{index_name}-behind"  # as long as each other: the helper counts bytes
    create(pair.direct, direct)
    create(pair.direct, coded)
    expected = javascript.run("ingest.mjs", node.url, direct, *compression)
    found = javascript.run("ingest.mjs", pair.url, coded, *compression)
    # The helper's bulks overtake each other, so the sequence number that this answer tells differs from run to run.
    assert [one["same_title"]["body"].pop("_seq_no") >= 0 for one in (expected, found)] == [True, True]
    assert expected["same_title"]["body"]["result"] == "noop"
    assert unmarked(settled(found, coded)) == unmarked(settled(expected, direct))
    documents = stored(pair.direct, coded)
    assert plain(documents) == stored(pair.direct, direct)
    codes = {
        name: [code.removeprefix("g1/type=") for code in found["gram"]["codes"]] for name, found in documents.items()
    }
    assert codes == {name: sorted(set(found["title"].split())) for name, found in documents.items()}
