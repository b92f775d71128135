"""Bulk encoding: the library call, the sidecar and the backfill give equal objects, and what the call gave is fresh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from backfills import GRAM, plain_environment, run
from bulkencoding import codes_of, example, furnish, products, untimed
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import component_template
from gram_plugin.serve.productcodes import product_rules
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import create_sidecar
from sidecars import ndjson, served

PRODUCTS = products(40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the catalogue and a bundle."""
    furnish(tmp_path, PRODUCTS)
    return tmp_path


def fill(client: OpenSearch, index: str) -> None:
    """An index of the products without codes, with the gram fields."""
    fields = component_template(weighted=True)["template"]["mappings"]["properties"]
    client.indices.create(index=index, body={"mappings": {"properties": fields}})
    client.bulk(index=index, body=bulk_body(), refresh=True)


def bulk_body() -> bytes:
    """All products as a `_bulk` body."""
    return ndjson(*(line for found in PRODUCTS for line in ({"index": {"_id": found["id"]}}, found)))


def stored(client: OpenSearch, index: str) -> dict[str, Any]:
    """The `gram` objects of an index by id, without their times."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, body={"size": 1000})["hits"]["hits"]
    return {hit["_id"]: untimed(hit["_source"]["gram"]) for hit in hits}


def test_call_sidecar_and_backfill_give_equal_objects(
    node: RunningNode, client: OpenSearch, index_name: str, folder: Path
) -> None:
    """Codes, weights, model and hash of every product are the same on each of the three ways."""
    past, through = f"{index_name}-past", f"{index_name}-through"
    fill(client, past)
    run(folder, plain_environment(), [*GRAM, "backfill", past, "--url", node.url, "--bundle", "bundle"])
    fill(client, through)
    settings = SidecarSettings(upstream_url=node.url, threads=2)
    generator = OnnxGenerator.open(folder / "bundle")
    app = create_sidecar(settings, generator, product_rules(generator, settings))
    with served(app) as url, OpenSearch(url, timeout=30) as coded:
        coded.bulk(index=through, body=bulk_body(), refresh=True)
    expected = codes_of(folder / "bundle", PRODUCTS)
    assert len({gram["source"] for gram in expected.values()}) == len(PRODUCTS)
    assert stored(client, through) == expected
    assert stored(client, past) == expected


def test_the_examples_of_the_page_write_what_a_backfill_finds_fresh(
    node: RunningNode, client: OpenSearch, index_name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gram_of` as the page shows it gives one object a document; its last example leaves a backfill nothing to do."""
    monkeypatch.chdir(folder)
    shown: dict[str, Any] = {}
    exec(example("The call"), shown)  # noqa: S102 - the page's own code
    assert [gram["model"] for gram in shown["grams"]] == ["g1", "g1"]
    fill(client, index_name)
    (folder / "grams").mkdir()
    rows = ({"id": name, "gram": json.dumps(gram)} for name, gram in codes_of(folder / "bundle", PRODUCTS).items())
    (folder / "grams" / "part-0.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code = example("Into the index")
    assert code.count('"products"') == code.count('"http://localhost:9200"') == 1
    here = code.replace('"products"', repr(index_name)).replace('"http://localhost:9200"', repr(node.url))
    exec(here, {})  # noqa: S102 - the page's own code, with the names of this test
    client.indices.refresh(index=index_name)
    words = ["backfill", index_name, "--url", node.url, "--bundle", "bundle", "--dry-run", "--json"]
    survey = json.loads(run(folder, plain_environment(), [*GRAM, *words]).stdout)
    assert (survey["products"], survey["stale"]) == (len(PRODUCTS), 0)
