"""The node room against real servers: start, cluster of three, and nothing left behind."""

from __future__ import annotations

from opensearchpy import OpenSearch


def test_the_node_analyses_english_and_ranks_by_features(client: OpenSearch, index_name: str) -> None:
    """The default version holds the modules that our mappings need: `english` and `rank_features`."""
    properties = {"title": {"type": "text", "analyzer": "english"}, "gram": {"type": "rank_features"}}
    client.indices.create(index=index_name, body={"mappings": {"properties": properties}})
    client.index(index=index_name, body={"title": "running shoes", "gram": {"type=shoe": 0.5}}, refresh=True)

    answer = client.search(index=index_name, body={"query": {"match": {"title": "run"}}})

    assert answer["hits"]["total"]["value"] == 1
