"""Search templates through the shim before a real OpenSearch: rendered there, enriched here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opensearchpy import OpenSearch

from gram_plugin.errors import DecodeError
from gram_plugin.node.node import RunningNode
from gram_plugin.search.query import Mode
from sofas import FULL, FakeGenerator, answer, ask, ids, without_times

Shim = Callable[..., str]

STORED = "sofas"
SOURCE: dict[str, Any] = {
    "query": {"bool": {"must": [{"match": {"title": "{{text}}"}}], "filter": [{"term": {"brand": "{{brand}}"}}]}},
    "size": 200,
}
PARAMETERS = {"text": "settee", "brand": "b1"}


def coded(brand: int) -> list[str]:
    """Sofas and couches of a brand, strongest code first: what `recall` finds for a word that no title has."""
    return [str(number) for number in range(119, -1, -1) if number % 6 in (0, 1, 2) and number % 4 == brand]


@pytest.fixture(scope="module")
def stored(client: OpenSearch) -> Iterator[str]:
    """The template, stored in the cluster."""
    client.put_script(id=STORED, body={"script": {"lang": "mustache", "source": SOURCE}})
    yield STORED
    client.delete_script(id=STORED)


def lines(*documents: Any) -> bytes:
    """NDJSON."""
    return "".join(json.dumps(document) + "\n" for document in documents).encode()


def inline(body: dict[str, Any]) -> dict[str, Any]:
    """A template that stands for one body, with a size that is a parameter."""
    source = json.dumps({**body, "size": "SIZE"}).replace('"SIZE"', "{{size}}")
    return {"source": source, "params": {"size": body.get("size", 10)}}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_template_is_answered_as_the_search_that_it_stands_for(
    node: RunningNode, shop: str, modes: dict[str, str], name: str, mode: Mode
) -> None:
    """In every mode, for every kind of request: the shim's answer to the search, in the form of a template's answer."""
    # OpenSearch takes `explain` and `profile` of a template request from beside the template, not from inside.
    body = {key: value for key, value in FULL[name].items() if key != "explain"}
    template = inline(body)
    found = answer(modes[mode], f"/{shop}/_search/template", template)
    direct = answer(node.url, f"/{shop}/_search/template", template)
    assert found[1]["status"] == direct[1]["status"] == 200
    assert (found[0], without(found[1], "status")) == answer(modes[mode], f"/{shop}/_search", body)
    if mode is Mode.OFF:
        assert found == direct


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    """The document less one key."""
    return {name: value for name, value in document.items() if name != key}


def test_stored_and_inline_templates_are_enriched(shop: str, modes: dict[str, str], stored: str) -> None:
    """By id or with its source, GET or POST: the codes find what the words miss, and the filter binds them."""
    for template in ({"id": stored, "params": PARAMETERS}, {"source": SOURCE, "params": PARAMETERS}):
        for method in ("GET", "POST"):
            target = f"/{shop}/_search/template"
            status, headers, text = ask(modes[Mode.RECALL], target, template, method)
            assert (status, headers["x-gram-status"], ids(json.loads(text))) == (200, "applied", coded(1))


def test_each_template_of_many_is_enriched_by_itself(
    node: RunningNode, shop: str, modes: dict[str, str], stored: str
) -> None:
    """`_msearch/template`: by id, with its source, one without text, one that does not exist; each its own answer."""
    term = {"source": {"query": {"term": {"brand": "b2"}}, "size": 200}}
    items = (
        {"index": shop},
        {"id": stored, "params": PARAMETERS},
        {},
        {"source": SOURCE, "params": {**PARAMETERS, "brand": "b2"}},
        {},
        term,
        {},
        {"id": "nowhere", "params": {}},
    )
    target = f"/{shop}/_msearch/template"
    status, headers, text = ask(modes[Mode.RECALL], target, lines(*items))
    found = json.loads(text)["responses"]
    direct = json.loads(ask(node.url, target, lines(*items))[2])["responses"]
    assert (status, headers["x-gram-status"]) == (200, "applied; items=2/4")
    assert (ids(found[0]), ids(found[1])) == (coded(1), coded(2))
    assert without_times(found[2:]) == without_times(direct[2:])


@pytest.mark.parametrize(
    ("template", "status"),
    [
        ({"id": "nowhere"}, 404),
        ({"source": '{"query": {{/nonsense}}'}, 400),
        ({"source": '{"query": {"match": {"title": "couch"}}, "nope": 1}'}, 400),
        ({"source": "{{#toJson}}x{{/toJson}}", "params": {"x": [1]}}, 400),
        ({"source": {"query": {"match_all": {}}}, "nope": 1}, 400),
        (b"{", 400),
    ],
)
def test_a_template_that_is_wrong_gets_opensearchs_own_error(
    node: RunningNode, shop: str, modes: dict[str, str], template: Any, status: int
) -> None:
    """Status and body of the error are those of the direct request."""
    target = f"/{shop}/_search/template"
    found, direct = ask(modes[Mode.RECALL], target, template), ask(node.url, target, template)
    assert (found[0], found[2]) == (direct[0], direct[2])
    assert found[0] == status
    assert found[1]["x-gram-status"].split(";")[0] in ("off", "degraded")


@pytest.mark.parametrize("text", ['say "hi"', "a {{b}} c", "{{=<% %>=}}", "back\\slash", "🛋️", "<&>", "line\nbreak"])
def test_texts_with_the_signs_of_templates_stay_what_they_are(
    node: RunningNode, shop: str, modes: dict[str, str], text: str
) -> None:
    """Quotes, braces, backslashes in a parameter: the enriched template has the hits of the enriched search."""
    template = {"source": SOURCE, "params": {**PARAMETERS, "text": f"{text} couch"}}
    body = {"query": {"bool": {"must": [{"match": {"title": f"{text} couch"}}], "filter": [{"term": {"brand": "b1"}}]}}}
    found = answer(modes[Mode.RERANK], f"/{shop}/_search/template", template)
    assert ids(found[1]) == ids(answer(modes[Mode.RERANK], f"/{shop}/_search", {**body, "size": 200})[1])
    assert ids(found[1])


def test_ext_gram_of_a_template_is_obeyed_and_taken_out(shop: str, modes: dict[str, str]) -> None:
    """A template may hold `ext.gram`; it decides, and OpenSearch, which would refuse it, never sees it."""
    source = {**SOURCE, "ext": {"gram": {"mode": "{{mode}}", "explain": True}}}
    target = f"/{shop}/_search/template"
    recall = {"source": source, "params": {**PARAMETERS, "mode": "recall"}}
    status, headers, text = ask(modes[Mode.OFF], target, recall)
    told = json.loads(text)["ext"]["gram"]
    assert (status, headers["x-gram-status"], ids(json.loads(text))) == (200, "applied", coded(1))
    assert [code["code"] for code in told["codes"]] == ["type=sofa"]
    assert told["hits"][0]["codes"] == [{"code": "type=sofa"}]
    off = {"source": source, "params": {**PARAMETERS, "mode": "off"}}
    status, headers, text = ask(modes[Mode.RECALL], target, off)
    assert (status, headers["x-gram-status"], ids(json.loads(text))) == (200, "off; reason=mode", [])


def test_without_a_model_a_template_goes_on_as_it_came(node: RunningNode, shop: str, shim: Shim, stored: str) -> None:
    """A broken model: OpenSearch's own answer, marked."""
    template = {"id": stored, "params": {"text": "couch", "brand": "b1"}, "explain": True, "profile": False}
    url, target = shim(FakeGenerator(DecodeError("broken")), mode=Mode.RECALL), f"/{shop}/_search/template"
    assert answer(url, target, template) == answer(node.url, target, template)
    assert ask(url, target, template)[1]["x-gram-status"] == "degraded; reason=model-error"


def test_what_else_a_template_request_says_stays(node: RunningNode, shop: str, modes: dict[str, str]) -> None:
    """`explain` and `profile` beside the template, and parameters of the URL, keep their meaning."""
    template = {"source": SOURCE, "params": {"text": "couch", "brand": "b1"}, "explain": True, "profile": True}
    target = f"/{shop}/_search/template?typed_keys=true&rest_total_hits_as_int=true&preference=x"
    found = json.loads(ask(modes[Mode.RERANK], target, template)[2])
    direct = json.loads(ask(node.url, target, template)[2])
    assert found["hits"]["total"] == direct["hits"]["total"]
    assert sorted(ids(found)) == sorted(ids(direct))
    assert all("_explanation" in hit for hit in found["hits"]["hits"])
    assert sorted(found) == sorted(direct)
    assert "profile" in found


def test_the_usual_client_uses_templates_unchanged(shop: str, modes: dict[str, str], stored: str) -> None:
    """opensearch-py searches by template, by many at once, and renders; only the address is another."""
    template = {"id": stored, "params": PARAMETERS}
    with OpenSearch(modes[Mode.RECALL], timeout=60) as ours:
        assert ids(ours.search_template(index=shop, body=template)) == coded(1)
        many = ours.msearch_template(body=[{"index": shop}, template, {"index": shop}, template])
        assert [ids(found) for found in many["responses"]] == [coded(1)] * 2
        rendered = ours.render_search_template(body=template)["template_output"]
    assert rendered["query"]["bool"]["must"] == [{"match": {"title": PARAMETERS["text"]}}]
