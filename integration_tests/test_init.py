"""`gram init` and the workshop's intake on an index of a real node."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk
from rich.console import Console

from gram_exporter.config import CatalogueConfig, Config, SearchConfig, load_config
from gram_exporter.init import InitRequest, run_init
from gram_exporter.source import Intake
from gram_plugin.errors import CatalogueError, SearchError
from gram_plugin.node.node import RunningNode

KINDS, COLOURS = ["sofa", "lamp", "chair", "table"], ["red", "blue", "grey"]


def product(number: int) -> dict[str, Any]:
    """A document with a number and a category."""
    kind, colour = KINDS[number % 4], COLOURS[number % 3]
    return {
        "title": f"{colour} {kind} {number}",
        "category": kind,
        "colour": colour,
        "price": number + 0.5,
        "new": True,
    }


def store(client: OpenSearch, index: str, count: int) -> None:
    """Indexes products as a dynamic mapping would have them, one with codes of an earlier model."""
    documents = ({"_index": index, "_id": f"p{n}", "_source": product(n)} for n in range(count))
    bulk(client, documents, refresh=True)
    client.update(index=index, id="p0", body={"doc": {"gram": {"model": "g1"}}}, refresh=True)


def test_an_index_becomes_a_config_and_a_training_set(
    node: RunningNode, client: OpenSearch, index_name: str, tmp_path: Path
) -> None:
    """An index proposes itself as catalogue and as what is searched; intake reads all of it, without old codes."""
    store(client, index_name, 700)
    output = tmp_path / "gram.toml"
    run_init(InitRequest(index_name, output, url=node.url), Console(file=io.StringIO()))
    config = load_config(output)
    assert config == Config(
        catalogue=CatalogueConfig(
            index=index_name,
            url=node.url,
            id="_id",
            text=("title",),
            attributes={"category": "type", "colour": "colour"},
        ),
        search=SearchConfig(index=index_name, fields=("title^3", "category^2", "colour")),
    )
    assert Intake(config.catalogue).read() == {f"p{n}": product(n) for n in range(700)}


def test_missing_and_empty_indices(node: RunningNode, client: OpenSearch, index_name: str, tmp_path: Path) -> None:
    """An index that is not there is a SearchError, an empty one a CatalogueError; nothing is written."""
    request = InitRequest(index_name, tmp_path / "gram.toml", url=node.url)
    with pytest.raises(SearchError, match="sampling the products"):
        run_init(request, Console(file=io.StringIO()))
    client.indices.create(index=index_name)
    with pytest.raises(CatalogueError, match="holds no products"):
        run_init(request, Console(file=io.StringIO()))
    with pytest.raises(CatalogueError, match="holds no products"):
        Intake(CatalogueConfig(index=index_name, url=node.url, id="_id", text=("title",))).read()
    assert not request.output.exists()
