"""Calibration on a real index, and the verbs `gram mapping` and `gram calibrate`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch, helpers
from typer.testing import CliRunner

from gram_plugin.cli import build_app
from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.errors import CalibrationError, MappingError, SearchError
from gram_plugin.node.node import RunningNode
from gram_plugin.search.calibrate import MAX_QUERIES, calibrate_index, generation_of
from gram_plugin.search.document import gram_object, pending_object
from gram_plugin.search.lexical import multi_match, queries_of_catalogue
from gram_plugin.search.mappings import IndexCalibration, apply_to_index, read_calibration, write_calibration
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.serve.settings import ShimSettings
from sofas import SOFA, FakeGenerator, answer, ask, running

AT = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = ("red", "shoe", "boot", "sofa", "lamp")
QUERIES = ("red shoe", "boot", "red sofa", "lamp shoe", "nothing at all")
CODE = ScoredCode(Code.parse("type=shoe"), 0.5)


def title(number: int) -> str:
    """A title of one to five words, some of them more than once."""
    return " ".join(WORDS[(number * step) % 5] for step in range(1, 2 + number % 5))


@pytest.fixture(scope="module")
def index(client: OpenSearch) -> Iterator[str]:
    """An index of forty titles, every third product with a code, and one product that waits for codes."""
    name = f"test-calibrate-{secrets.token_hex(4)}"
    client.indices.create(index=name, body={"settings": {"number_of_shards": 1}})
    apply_to_index(client, name)
    coded, uncoded = gram_object([CODE], "g1", "", AT), gram_object([], "g1", "", AT)
    sources = [{"title": title(number), "gram": coded if number % 3 == 0 else uncoded} for number in range(40)]
    sources.append({"title": "red", "gram": pending_object(AT)})
    helpers.bulk(client, ({"_index": name, "_source": source} for source in sources), refresh=True)
    yield name
    client.indices.delete(index=name)


def matching(boost: float) -> Callable[[str], dict[str, Any]]:
    """A lexical query whose scores are `boost` times those of BM25, as between versions of OpenSearch."""
    return lambda text: {"match": {"title": {"query": text, "boost": boost}}}


def test_scale_follows_the_scores_and_the_order_stays(client: OpenSearch, index: str) -> None:
    """Where BM25 is 2.2 times larger, so is λ, and every query has the same hits in the same order."""
    orders = []
    for boost in (1.0, 2.2):
        found = calibrate_index(client, index, QUERIES, matching(boost), strength=0.7, now=lambda: AT)
        assert found == IndexCalibration("g1", 0.7, found.score_scale, 4, "2026-01-01T00:00:00+00:00")
        settings = ClauseSettings(strength=found.points)
        bodies = [{"query": matching(boost)(text), "size": 50, "sort": ["_score", "_doc"]} for text in QUERIES]
        enriched = [enrich(body, [CODE], "g1", settings, Mode.RECALL) for body in bodies]
        answers = [client.search(index=index, body=body)["hits"]["hits"] for body in enriched]
        orders.append((found.points, [[hit["_id"] for hit in hits] for hits in answers]))
    assert orders[1][0] == pytest.approx(2.2 * orders[0][0], rel=1e-4)
    assert orders[1][1] == orders[0][1]


def test_generation_is_read_from_the_index(client: OpenSearch, index: str, index_name: str) -> None:
    """The one generation of the index is taken, pending documents aside; with none or two it must be named."""
    assert generation_of(client, index) == "g1"
    client.indices.create(index=index_name)
    apply_to_index(client, index_name)
    with pytest.raises(CalibrationError, match="holds codes of no generation — name the one"):
        generation_of(client, index_name)
    for generation in ("g1", "g2"):
        body = {"title": "red", "gram": gram_object([], generation, "", AT)}
        client.index(index=index_name, body=body, refresh=True)
    with pytest.raises(CalibrationError, match="holds codes of g1, g2"):
        calibrate_index(client, index_name, ["red"], matching(1.0))
    assert calibrate_index(client, index_name, ["red"], matching(1.0), generation="g2").generation == "g2"


def test_queries_that_find_nothing_are_refused(client: OpenSearch, index: str) -> None:
    """A scale cannot be measured on empty pages, nor on filters."""
    with pytest.raises(CalibrationError, match="none of 2 queries found anything"):
        calibrate_index(client, index, ["xyzzy", "plugh"], matching(1.0))
    with pytest.raises(CalibrationError, match="give every hit the score 0"):
        calibrate_index(client, index, ["red"], lambda text: {"bool": {"filter": {"match": {"title": text}}}})
    with pytest.raises(CalibrationError, match=r"a lexical query on .* was refused: failed to parse date"):
        calibrate_index(client, index, ["red"], lambda text: {"match": {"gram.at": text}})
    with pytest.raises(SearchError, match=r"unknown query \[no_such_query\]"):
        calibrate_index(client, index, ["red"], lambda text: {"no_such_query": {}})


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `gram`, as without a terminal."""
    found = CliRunner().invoke(build_app(plugins=[]), list(arguments))
    return found.exit_code, found.output


def test_verbs_lead_from_a_bare_index_to_a_calibrated_one(
    node: RunningNode, client: OpenSearch, index_name: str, tmp_path: Path
) -> None:
    """`mapping check` fails, `mapping apply` mends it, `calibrate` keeps what the shim reads."""
    queries = tmp_path / "queries.txt"
    queries.write_text("red shoe\n\nboot\nred shoe\n", encoding="utf-8")
    url = ("--url", node.url)
    documents = [{"_index": index_name, "_source": {"title": title(number)}} for number in range(20)]
    helpers.bulk(client, documents, refresh=True)
    code, said = run("mapping", "check", index_name, *url)
    assert (code, f"next:  run `gram mapping apply {index_name}`" in said) == (1, True)
    code, said = run("mapping", "apply", index_name, *url)
    assert (code, said) == (0, f"component template gram-codes: codes and weights\n{index_name}: fields added\n")
    code, said = run("mapping", "check", index_name, *url)
    assert (code, said) == (0, f"{index_name}: {index_name} with codes and weights\n")
    code, said = run("calibrate", index_name, "--queries", str(queries), *url)
    assert (code, "name the one that will be served with --generation" in said) == (1, True)
    options = ("--fields", "title^2", "--type", "most_fields", "--strength", "0.5", "--generation", "g4")
    code, said = run("calibrate", index_name, "--queries", str(queries), *options, *url)
    found = read_calibration(client, index_name, generation="g4")
    assert (code, found.queries, found.strength) == (0, 2, 0.5)
    assert f"one certain code is worth {found.points:g} points" in said


def test_own_query_is_calibrated(node: RunningNode, client: OpenSearch, index: str, tmp_path: Path) -> None:
    """A shop's own query, as a JSON file with %QUERY% in it, gives the scale of exactly that query."""
    queries, query = tmp_path / "queries.txt", tmp_path / "query.json"
    queries.write_text("\n".join(QUERIES), encoding="utf-8")
    query.write_text('{"query": {"match": {"title": {"query": "%QUERY%", "boost": 1.0}}}}', encoding="utf-8")
    write_calibration(client, index, IndexCalibration("g1", 9.0, 9.0, 9, ""))
    code, said = run("calibrate", index, "--queries", str(queries), "--query", str(query), "--url", node.url)
    assert code == 0, said
    expected = calibrate_index(client, index, QUERIES, matching(1.0))
    assert read_calibration(client, index).score_scale == expected.score_scale


def test_without_a_log_queries_are_made_from_the_products(node: RunningNode, client: OpenSearch, index: str) -> None:
    """One to three words that stand together in a title, the same ones each time; the scale is that of such queries."""
    made = queries_of_catalogue(client, index, [], 30)
    assert made == queries_of_catalogue(client, index, ["title^3"], 30)
    titles = [title(number) for number in range(40)]
    assert {len(query.split()) for query in made} == {1, 2, 3}
    assert [query for query in made if not any(f" {query} " in f" {one} " for one in titles)] == []
    code, said = run("calibrate", index, "--fields", "title", "--url", node.url)
    assert (code, "made from the products, such as" in said) == (0, True), said
    every = queries_of_catalogue(client, index, ["title"], MAX_QUERIES)
    lexical = multi_match(["title"], "best_fields", "or")
    expected = calibrate_index(client, index, every, lexical)
    found = read_calibration(client, index)
    assert (found.score_scale, found.queries) == (expected.score_scale, expected.queries)


def test_queries_cannot_be_made_of_nothing(client: OpenSearch, index_name: str) -> None:
    """An index without text, or without products, says what to give instead."""
    client.indices.create(index=index_name, body={"mappings": {"properties": {"price": {"type": "integer"}}}})
    with pytest.raises(CalibrationError, match=r"has no text field .* — name a field with --fields"):
        queries_of_catalogue(client, index_name, [], 10)
    with pytest.raises(CalibrationError, match=r"no product of .* has words in 'title' — index the products first"):
        queries_of_catalogue(client, index_name, ["title"], 10)


def test_a_log_with_columns_is_read(node: RunningNode, client: OpenSearch, index: str, tmp_path: Path) -> None:
    """A CSV of a query log calibrates as the same queries in a text file do."""
    log = tmp_path / "log.csv"
    log.write_text("at,user_query\n" + "".join(f"1,{query}\n" for query in QUERIES), encoding="utf-8")
    code, said = run("calibrate", index, "--queries", str(log), "--fields", "title", "--url", node.url)
    assert code == 0, said
    lexical = multi_match(["title"], "best_fields", "or")
    assert read_calibration(client, index).score_scale == calibrate_index(client, index, QUERIES, lexical).score_scale


def test_calibrating_without_fields_says_what_to_run(node: RunningNode, index_name: str, tmp_path: Path) -> None:
    """An index that does not exist is named before anything is measured."""
    queries = tmp_path / "queries.txt"
    queries.write_text("red\n", encoding="utf-8")
    app = build_app(plugins=[])
    found = CliRunner().invoke(app, ["--debug", "calibrate", index_name, "--queries", str(queries), "--url", node.url])
    assert isinstance(found.exception, MappingError)
    assert found.exception.message == f"{node.url} has no index {index_name!r}"


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL, Mode.RESCUE])
def test_an_uncalibrated_index_is_served_as_it_is_until_the_command_was_run(
    node: RunningNode, client: OpenSearch, index_name: str, mode: Mode
) -> None:
    """No λ is guessed: the direct answer, with header and metric that name the command; which ends it."""
    client.indices.create(index=index_name, body={"settings": {"number_of_shards": 1}})
    apply_to_index(client, index_name)
    coded = gram_object([ScoredCode(SOFA, 0.5)], "g1", "", AT)
    titles = ("red couch", "grey settee", "a lamp", "red lamp", "couch table")
    sources = [{"title": text, "gram": coded} if "ett" in text else {"title": text} for text in titles]
    helpers.bulk(client, ({"_index": index_name, "_source": source} for source in sources), refresh=True)
    target, body = f"/{index_name}/_search", {"query": {"match": {"title": "sofa"}}}
    with running(ShimSettings(upstream_url=node.url, budget_ms=10_000, mode=mode), FakeGenerator()) as shim:
        before, (_, headers, _) = answer(shim, target, body), ask(shim, target, body)
        metrics = ask(shim, "/-/metrics", method="GET")[2].decode()
    assert before == answer(node.url, target, body)
    assert headers["x-gram-status"] == 'off; reason=uncalibrated; next="gram calibrate"'
    assert 'gram_commands_needed_total{command="gram calibrate"} 2.0' in metrics
    code, said = run("calibrate", index_name, "--fields", "title", "--url", node.url)
    assert code == 0, said
    with running(ShimSettings(upstream_url=node.url, budget_ms=10_000, mode=mode), FakeGenerator()) as shim:
        status, headers, text = ask(shim, target, body)
    found = [hit["_source"]["title"] for hit in json.loads(text)["hits"]["hits"]]
    assert (status, headers["x-gram-status"]) == (200, "applied")
    assert found == ([] if mode is Mode.RERANK else ["grey settee"])
