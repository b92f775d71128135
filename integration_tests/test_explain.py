"""`ext.gram.explain` on a real OpenSearch: the points add up, and the hits stay what they are."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk
from typer.testing import CliRunner

from gram_plugin.cli import build_app
from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.node.node import RunningNode
from gram_plugin.search.document import gram_object
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, write_calibration
from gram_plugin.search.query import Mode
from gram_plugin.serve.explain_program import Wish, explain_with
from gram_plugin.serve.settings import ShimSettings
from sofas import FULL, FakeGenerator, answer, ask, product

Shim = Callable[..., str]

BUNDLE = Path(__file__).parents[1] / "plugin/tests/decode/tiny_bundle"

NINE_BITS = 2.0**-8
"""Largest relative error of a weight that keeps 9 significant bits."""

_OTHERWISE = ("sort", "search-after", "rescore", "collapse", "count-only", "score-sort")
SUMS = [name for name in FULL if name not in _OTHERWISE]
"""Requests whose hits are ranked by the sum alone; the others sort by something else, or score a second time."""


def explained(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a client that wants to know."""
    return {**body, "ext": {"gram": {"explain": True}}}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", FULL)
def test_an_explained_answer_is_the_answer_and_more(shop: str, modes: dict[str, str], name: str, mode: Mode) -> None:
    """But for `ext.gram` the answer is that of the same search unexplained: hits, order, scores, names, all of it."""
    target = f"/{shop}/_search"
    plain = answer(modes[mode], target, FULL[name])
    status, found = answer(modes[mode], target, explained(FULL[name]))
    told = found.pop("ext")["gram"]
    assert (status, without_descriptions(found)) == (plain[0], without_descriptions(plain[1]))
    if told["status"] == "applied":
        assert [hit["_id"] for hit in told["hits"]] == [hit["_id"] for hit in found["hits"]["hits"]]


def without_descriptions(value: Any) -> Any:
    """The value without `_explanation`, which names the very query objects of a run."""
    if isinstance(value, dict):
        return {key: without_descriptions(item) for key, item in value.items() if key != "_explanation"}
    return [without_descriptions(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
@pytest.mark.parametrize("name", SUMS)
def test_words_and_codes_add_up_to_the_score(
    node: RunningNode, shop: str, modes: dict[str, str], name: str, mode: Mode
) -> None:
    """Of every hit: points of the words (those of the lexical search) + of the codes + of exact words = its score."""
    target, body = f"/{shop}/_search", FULL[name]
    whole = {key: value for key, value in body.items() if key != "min_score"} | {"from": 0, "size": 200}
    direct = answer(node.url, target, whole)[1]["hits"]["hits"]
    lexical = {hit["_id"]: hit["_score"] for hit in direct}
    told = answer(modes[mode], target, explained(body))[1]["ext"]["gram"]
    for hit in told["hits"]:
        assert hit["lexical"] == (pytest.approx(lexical[hit["_id"]], rel=1e-5) if hit["_id"] in lexical else None)
        assert (hit["lexical"] or 0) + hit["gained"] + hit["exact"] == pytest.approx(hit["score"], rel=1e-5)


@pytest.fixture(scope="module")
def family(client: OpenSearch) -> Iterator[str]:
    """An index of four products with codes of one family and of another."""
    index = f"test-explain-{secrets.token_hex(4)}"
    client.indices.create(index=index, body={"settings": {"number_of_shards": 1}})
    apply_to_index(client, index)
    write_calibration(client, index, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    bulk(client, [carrier(index, number) for number in range(4)], refresh=True)
    yield index
    client.indices.delete(index=index)


WEIGHTS: tuple[dict[str, float], ...] = (
    {},
    {"type=sofa": 0.5},
    {"type=sofa": 0.5, "type=sofa|colour=red": 0.25},
    {"type=sofa": 0.25, "type=sofa|colour=red": 0.5, "brand=acme": 0.125},
)


def carrier(index: str, number: int) -> dict[str, Any]:
    """A product with codes of these weights."""
    codes = [ScoredCode(Code.parse(text), weight) for text, weight in WEIGHTS[number].items()]
    source = {"title": "red couch", "gram": gram_object(codes, "g1", "", datetime(2026, 1, 1, tzinfo=UTC))}
    return {"_index": index, "_id": str(number), "_source": source}


class Family(FakeGenerator):
    """Sees three codes in every query."""

    def generate(self, texts: Any, role: Any, limit: int = 10) -> list[list[ScoredCode]]:
        """As the protocol says."""
        found = {"type=sofa": 0.5, "type=sofa|colour=red": 1.0, "brand=acme": 0.25}
        return [[ScoredCode(Code.parse(text), weight) for text, weight in found.items()] for _ in texts]


def test_each_code_has_its_points_and_both_weights(shim: Shim, family: str) -> None:
    """λ = 1: points = P(code|query) · P(code|product); the weaker code of a family counts by the tie-breaker."""
    body = explained({"query": {"match": {"title": "couch"}}, "sort": ["_score", "_doc"]})
    told = answer(shim(Family(), mode=Mode.RERANK), f"/{family}/_search", body)[1]["ext"]["gram"]
    assert {code["code"]: code["boost"] for code in told["codes"]} == {
        "type=sofa": 0.5,
        "type=sofa|colour=red": 1.0,
        "brand=acme": 0.25,
    }
    gained = {hit["_id"]: hit["gained"] for hit in told["hits"]}
    weaker = 0.3
    assert gained == pytest.approx(
        {"0": 0, "1": 0.25, "2": 0.25 + weaker * 0.25, "3": 0.5 + weaker * 0.125 + 0.03125}, rel=NINE_BITS
    )
    weights = {hit["_id"]: {code["code"]: code["weight"] for code in hit["codes"]} for hit in told["hits"]}
    assert weights == {str(number): pytest.approx(known, rel=NINE_BITS) for number, known in enumerate(WEIGHTS)}


def test_a_search_by_price_still_tells_points(shop: str, modes: dict[str, str]) -> None:
    """Sorted by something else there is no score, but words and codes have theirs."""
    body = explained({"query": {"match": {"title": "couch"}}, "sort": [{"price": "asc"}], "size": 5})
    told = answer(modes[Mode.RECALL], f"/{shop}/_search", body)[1]["ext"]["gram"]["hits"]
    assert {hit["score"] for hit in told} == {None}
    assert all((hit["lexical"] or 0) + hit["gained"] > 0 for hit in told)


def test_the_answer_is_valid_for_any_text(client: OpenSearch, shop: str, modes: dict[str, str]) -> None:
    """Documents with emoji, right-to-left text and quotes come through an explained answer as they are."""
    titles = ["🛋️ couch", 'a "red" couch\n', "كنبة couch", "couch \u2028"]
    index = f"{shop}-texts"
    client.indices.create(index=index)
    apply_to_index(client, index)
    write_calibration(client, index, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    actions = [{**product(index, number), "_source": {"title": title}} for number, title in enumerate(titles)]
    bulk(client, actions, refresh=True)
    _, headers, text = ask(modes[Mode.RECALL], f"/{index}/_search", explained({"query": {"match": {"title": "couch"}}}))
    client.indices.delete(index=index)
    assert headers["content-type"].startswith("application/json")
    assert sorted(hit["_source"]["title"] for hit in json.loads(text)["hits"]["hits"]) == sorted(titles)


def lexical(text: str) -> dict[str, Any]:
    """The query of a shop that searches titles."""
    return {"match": {"title": text}}


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_the_command_tells_what_the_shim_does(
    node: RunningNode, client: OpenSearch, shop: str, modes: dict[str, str], mode: Mode
) -> None:
    """`gram explain` has the order of OpenSearch before, and the order, scores and points of the shim after."""
    settings = ShimSettings(upstream_url=node.url, mode=mode)
    wish = Wish(index=shop, text="blue lamp", lexical=lexical, url=node.url, shown=100, label_field="title")
    found = explain_with(client, FakeGenerator(), wish, settings).document()
    body = {"query": lexical("blue lamp"), "size": 100}
    direct = answer(node.url, f"/{shop}/_search", body)[1]["hits"]["hits"]
    told = answer(modes[mode], f"/{shop}/_search", explained(body))[1]["ext"]["gram"]
    assert [hit["_id"] for hit in found["lexical"]] == [hit["_id"] for hit in direct]
    keys = ("_id", "score", "gained", "codes")
    assert [[hit[key] for key in keys] for hit in found["hits"]] == [[hit[key] for key in keys] for hit in told["hits"]]
    assert found["codes"] == told["codes"]
    assert [hit["after"] for hit in found["hits"]] == list(range(1, len(found["hits"]) + 1))
    moved = {hit["_id"]: (hit["before"], hit["after"]) for hit in found["hits"]}
    assert any(before and after < before for before, after in moved.values())
    assert any(before is None for before, _ in moved.values()) == (mode is Mode.RECALL)


def test_the_command_prints_tables_and_json(
    node: RunningNode, client: OpenSearch, index_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real bundle, on an index that is calibrated; without that it names the command to run."""
    for name in list(os.environ):
        if name.startswith("GRAM_"):
            monkeypatch.delenv(name)
    client.indices.create(index=index_name)
    apply_to_index(client, index_name)
    client.index(index=index_name, id="1", body={"title": "red couch"}, refresh=True)
    arguments = ["explain", index_name, "red couch", "--bundle", str(BUNDLE), "--fields", "title", "--url", node.url]
    refused = CliRunner().invoke(build_app(plugins=[]), arguments)
    assert (refused.exit_code, f"gram calibrate {index_name}" in refused.output) == (1, True)
    write_calibration(client, index_name, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    tables = CliRunner().invoke(build_app(plugins=[]), arguments)
    document = CliRunner().invoke(build_app(plugins=[]), [*arguments, "--json"])
    assert (tables.exit_code, document.exit_code) == (0, 0), tables.output
    assert "Codes of the query" in tables.output
    found = json.loads(document.stdout)
    assert [(hit["_id"], hit["label"], hit["before"], hit["after"]) for hit in found["hits"]] == [
        ("1", "red couch", 1, 1)
    ]
    assert found["hits"][0]["exact"] > 0  # dynamic mapping keeps titles as keywords too, and this one is the query
    assert found["codes"]
