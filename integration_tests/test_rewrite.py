"""`POST /v1/rewrite` against a real OpenSearch, put in place as the plugin ml-commons says in its source.

The plugin itself is not available here. What it does is small: it reads a path of the request, fills the connector's
body, and sets a path of the request to what a path of the answer holds. That is done by hand below, with the very files
of mappings/ and the example requests of its README.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gram_plugin.errors import DecodeError
from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import read_mapping_file
from gram_plugin.search.query import Mode
from sofas import FakeGenerator, answer, ask, ids

Shim = Callable[..., str]
Request = dict[str, Any]

TEXT = "red couch"
EXAMPLE = re.compile(r"GET products/_search\?search_pipeline=gram\n(\{.*?\})\n```", re.S)
README = Path(__file__).parents[1] / "mappings/README.md"
RERANK, RECALL = (
    json.loads(example.replace("red running shoes", TEXT)) for example in EXAMPLE.findall(README.read_text("utf-8"))
)
"""The two requests of mappings/README.md; the first has the clause beside `must`, the second beside the query."""


def steps(path: str) -> list[str | int]:
    """`query.bool.should[0]` → query, bool, should, 0."""
    return [int(step) if step.isdecimal() else step for step in re.findall(r"\w+", path)]


def found_at(document: Any, path: str) -> Any:
    """What stands at a path; a missing one is a KeyError."""
    for step in steps(path):
        document = document[step]
    return document


def set_at(document: Any, path: str, value: Any) -> Any:
    """A copy with another value at a path that is there."""
    copy = json.loads(json.dumps(document))
    *way, last = steps(path)
    place = copy
    for step in way:
        place = place[step]
    assert place[last] == {"match_none": {}}
    place[last] = value
    return copy


def connector_request(parameters: dict[str, str]) -> tuple[str, bytes]:
    """Path and body of the request that the connector sends; every text is escaped as JSON."""
    connector = read_mapping_file("gram-connector.json")
    (action,) = connector["actions"]
    escaped = {name: json.dumps(value)[1:-1] for name, value in parameters.items()}
    body = re.sub(r"\$\{parameters\.(\w+)\}", lambda found: escaped[found[1]], action["request_body"])
    url = action["url"].replace("${parameters.endpoint}", connector["parameters"]["endpoint"])
    return url.partition("9201")[2], body.encode()


def through_gson(document: Any) -> Any:
    """What OpenSearch 2.19 makes of an answer: every number becomes a double."""
    return json.loads(json.dumps(document), parse_int=float)


def processed(shim: str, index: str, request: Request, parse: Callable[[Any], Any] = lambda found: found) -> Request:
    """A request as it leaves the pipeline."""
    (processor,) = read_mapping_file("gram-pipeline.json")["request_processors"]
    native = processor["ml_inference"]
    ((parameter, source),) = native["input_map"][0].items()
    path, body = connector_request({"index": index, parameter: found_at(request, source)})
    status, _, text = ask(shim, path, body)
    assert status == 200
    ((place, output),) = native["output_map"][0].items()
    return set_at(request, place, found_at(parse(json.loads(text)), output))


def sent(request: Request, **more: Any) -> Request:
    """Without `ext.ml_inference`, which only the plugin's servers know; all of the index on one page."""
    return {"query": request["query"], "size": 200, **more}


def hits(url: str, index: str, body: Request, **headers: str) -> Any:
    """Ids and scores of a search, best first."""
    status, found = answer(url, f"/{index}/_search", body, **headers)
    assert status == 200
    return [(hit["_id"], hit["_score"]) for hit in found["hits"]["hits"]]


@pytest.mark.parametrize("parse", [lambda found: found, through_gson], ids=["3.x", "2.19"])
@pytest.mark.parametrize(
    ("request_body", "mode"), [(RERANK, Mode.RERANK), (RECALL, Mode.RECALL)], ids=["rerank", "recall"]
)
def test_a_search_through_the_pipeline_is_that_through_the_shim(
    node: RunningNode, shop: str, modes: dict[str, str], request_body: Request, mode: Mode, parse: Callable[[Any], Any]
) -> None:
    """The clause in place of the placeholder gives the hits, the order and the scores of the shim itself."""
    native = processed(modes[mode], shop, request_body, parse)
    lexical = {"query": {"multi_match": {"query": TEXT}}, "size": 200}
    through_shim = hits(modes[mode], shop, lexical)
    assert hits(node.url, shop, sent(native)) == through_shim
    assert through_shim != hits(node.url, shop, lexical)


@pytest.mark.parametrize("request_body", [RERANK, RECALL], ids=["rerank", "recall"])
def test_a_neutral_clause_changes_nothing(node: RunningNode, shop: str, shim: Shim, request_body: Request) -> None:
    """With a broken model the search through the pipeline has the hits, the order and the scores of the lexical one."""
    native = processed(shim(FakeGenerator(DecodeError("broken"))), shop, request_body)
    lexical = {"query": {"multi_match": {"query": TEXT}}, "size": 200}
    assert hits(node.url, shop, sent(native)) == hits(node.url, shop, lexical)


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_the_enriched_body_is_the_shims_own(node: RunningNode, shop: str, modes: dict[str, str], mode: Mode) -> None:
    """A body rewritten on request and sent straight to OpenSearch gets the answer of the shim."""
    body = {
        "query": {"bool": {"must": [{"match": {"title": TEXT}}], "filter": [{"term": {"brand": "b1"}}]}},
        "size": 200,
        "aggs": {"brands": {"terms": {"field": "brand"}}},
        "min_score": 0.1,
    }
    status, _, text = ask(modes[mode], "/v1/rewrite", {"body": body, "index": shop})
    rewritten = json.loads(text)
    assert (status, rewritten["status"]) == (200, "applied")
    direct = answer(node.url, f"/{shop}/_search", rewritten["body"])
    assert direct == answer(modes[mode], f"/{shop}/_search", body)
    assert ids(direct[1])


@pytest.mark.parametrize("text", ["42", "true", 'say "hi"', "a\\b", "{", "🛋️", "x" * 5000])
def test_any_text_comes_through_the_connector(shop: str, modes: dict[str, str], text: str) -> None:
    """Texts with quotes, backslashes, brackets and emoji reach the model as they were typed."""
    request = {**RERANK, "ext": {"ml_inference": {"text": text}}}
    native = processed(modes[Mode.RERANK], shop, request)
    assert native["query"]["bool"]["should"][0]["rank_feature"]["_name"] == "gram:type=sofa"
