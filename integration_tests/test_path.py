"""The whole path on a real node: shop, training, export, mapping, ingest, tuning, evaluation, and the model gone."""

from __future__ import annotations

import csv
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from opensearchpy import OpenSearch, helpers
from typer.testing import CliRunner

from gram_exporter.arms import BASELINE, DIRECT, Arm, ask, search_body
from gram_exporter.config import load_config, render_config
from gram_exporter.evaluate import QUALITY_BUDGET_MS
from gram_exporter.feedback import positives, read_judgments
from gram_exporter.lexical import Lexical, lexical_query
from gram_exporter.measures import ALL, Judgments
from gram_exporter.package import export_bundle
from gram_exporter.servers import MEASURED, running
from gram_exporter.shop import make_shop, write_shop
from gram_exporter.train import train
from gram_plugin.cli import build_app
from gram_plugin.contract.catalogue import read_catalogue
from gram_plugin.node.node import RunningNode
from gram_plugin.search.client import connect
from gram_plugin.search.mappings import IndexCalibration, read_calibration, write_calibration
from gram_plugin.search.query import Mode

PRODUCTS = 600
QUERIES = 24
SMALL = {
    "linear_steps": 60,
    "steps": 40,
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "batch_texts": 8,
    "vocabulary": 1000,
}
FIELDS = ("title^3", "product_type", "brand", "description")
RERANK, RECALL = (f"{BASELINE} + codes, {mode.value}" for mode in (Mode.RERANK, Mode.RECALL))


@dataclass(frozen=True)
class Path600:
    """Where the path stands after tuning; `folder` holds gram.toml, bundle/, training/, dev.csv and test.csv."""

    folder: Path
    url: str
    client: OpenSearch
    index: str
    lexical: Lexical
    test: Judgments
    tuned: Result

    def gram(self, verb: str, judgments: str, *options: str) -> Result:
        """Runs a verb that measures, as a person would."""
        return measure(self.folder, self.url, verb, judgments, *options)


def gram(*arguments: str) -> Result:
    """Runs `gram` in this process."""
    return CliRunner().invoke(build_app(), list(arguments))


def measure(folder: Path, url: str, verb: str, judgments: str, *options: str) -> Result:
    """Runs `gram tune` or `gram evaluate` on what lies in the folder."""
    places = ("--config", str(folder / "gram.toml"), "--bundle", str(folder / "bundle"), "--url", url)
    return gram(verb, "--judgments", str(folder / judgments), *places, *options)


def make_bundle(folder: Path, index: str) -> None:
    """A shop, a short training of a small model on it, and its bundle; gram.toml names the index."""
    write_shop(make_shop(1, PRODUCTS), folder)
    config = load_config(folder / "gram.toml")
    config = replace(
        config,
        training=replace(config.training, **SMALL),  # type: ignore[arg-type]
        search=replace(config.search, index=index, fields=FIELDS),
    )
    (folder / "gram.toml").write_text(render_config(config, folder=folder), encoding="utf-8")
    train(documents(folder), positives(config).wanted, config, folder / "training")
    export_bundle(folder / "training", folder / "bundle")


def documents(folder: Path) -> dict[str, dict[str, Any]]:
    """The shop's products by id."""
    return {product.id: product.source for product in read_catalogue(folder / "products.jsonl", id_field="id")}


def sample_judgments(folder: Path, split: str) -> None:
    """The judgments of a few queries of a split, drawn evenly from its whole."""
    judged = read_judgments(folder / f"judgments-{split}.csv")
    with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("query", "docid", "rating"))
        for query in list(judged)[:: max(1, len(judged) // QUERIES)][:QUERIES]:
            writer.writerows((query, docid, grade) for docid, grade in judged[query].items())


def ingest(folder: Path, url: str, index: str) -> None:
    """Plain opensearch-py through a `gram sidecar` process."""
    actions = ({"_index": index, "_id": key, "_source": source} for key, source in documents(folder).items())
    with running("sidecar", folder / "bundle", url, {}) as sidecar, OpenSearch(sidecar, timeout=120) as client:
        assert helpers.bulk(client, actions, chunk_size=200, refresh=True) == (PRODUCTS, [])


@pytest.fixture(scope="module")
def path(node: RunningNode, client: OpenSearch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path600]:
    """The path up to tuning, walked once."""
    folder, index = tmp_path_factory.mktemp("path"), f"test-path-{secrets.token_hex(4)}"
    make_bundle(folder, index)
    for split in ("dev", "test"):
        sample_judgments(folder, split)
    client.indices.create(index=index, body={"settings": {"number_of_shards": 1, "number_of_replicas": 0}})
    applied = gram("mapping", "apply", index, "--url", node.url)
    assert applied.exit_code == 0, applied.output
    ingest(folder, node.url, index)
    tuned = measure(folder, node.url, "tune", "dev.csv", "--lexical")
    lexical = lexical_query(load_config(folder / "gram.toml").search)
    yield Path600(folder, node.url, client, index, lexical, read_judgments(folder / "test.csv"), tuned)
    client.indices.delete(index=index)


def answers(path: Path600, arm: Arm) -> dict[str, tuple[list[str], str]]:
    """Ids and status of every test query; all of the matching products fit on the page."""
    found = {}
    for text in path.test:
        answer, status = ask(
            arm, path.index, search_body(path.lexical(text), text, arm.mode, PRODUCTS, QUALITY_BUDGET_MS)
        )
        found[text] = [hit["_id"] for hit in answer["hits"]["hits"]], status
    return found


def test_every_product_carries_codes_of_its_generation(path: Path600) -> None:
    """After ingest through the sidecar no product is without codes, and none waits."""
    found = path.client.search(index=path.index, body={"size": PRODUCTS, "_source": ["gram"]})["hits"]["hits"]
    assert {(hit["_source"]["gram"]["model"], bool(hit["_source"]["gram"]["codes"])) for hit in found} == {("g1", True)}
    assert {hit["_id"] for hit in found} == set(documents(path.folder))


def test_tune_keeps_its_choice_in_the_index_and_prints_the_query(path: Path600) -> None:
    """`gram tune --lexical` ends well, prints a [search] for this index, and the index is calibrated for g1."""
    assert path.tuned.exit_code == 0, path.tuned.output
    kept = read_calibration(path.client, path.index, generation="g1")
    assert kept.points > 0
    assert "[search]" in path.tuned.stdout
    assert f'index = "{path.index}"' in path.tuned.stdout
    assert f"{kept.points:g} points" in " ".join(path.tuned.output.split())


def test_rerank_keeps_hits_and_recall_adds(path: Path600) -> None:
    """Through a real shim every search is applied; `rerank` has the same hits, `recall` a superset and more of them."""
    direct = answers(path, Arm(BASELINE, path.client))
    with running("shim", path.folder / "bundle", path.url, MEASURED) as url, connect(url, timeout_s=60) as shim:
        rerank, recall = (answers(path, Arm(mode.value, shim, mode)) for mode in (Mode.RERANK, Mode.RECALL))
    assert {status for _, status in direct.values()} == {DIRECT}
    assert {status for arm in (rerank, recall) for _, status in arm.values()} == {"applied"}
    assert {text: sorted(ids) for text, (ids, _) in rerank.items()} == {
        text: sorted(ids) for text, (ids, _) in direct.items()
    }
    assert rerank != direct
    assert {text for text, (ids, _) in direct.items() if not set(ids) <= set(recall[text][0])} == set()
    assert sum(len(ids) for ids, _ in recall.values()) > sum(len(ids) for ids, _ in direct.values())


def test_without_a_model_the_answer_is_lexical_and_says_so(path: Path600, tmp_path: Path) -> None:
    """A shim whose bundle is gone gives OpenSearch's own answer, marked degraded or off with a reason."""
    direct = answers(path, Arm(BASELINE, path.client))
    with running("shim", tmp_path / "gone", path.url, {}) as url, connect(url, timeout_s=60) as shim:
        recall, off = (answers(path, Arm(mode.value, shim, mode)) for mode in (Mode.RECALL, Mode.OFF))
    assert {text: ids for text, (ids, _) in recall.items()} == {text: ids for text, (ids, _) in direct.items()}
    assert {status for _, status in recall.values()} == {"degraded; reason=no-model"}
    assert {status for _, status in off.values()} == {"off; reason=mode"}


def test_evaluate_writes_all_arms(path: Path600, tmp_path: Path) -> None:
    """`gram evaluate` starts its shim and writes measures, differences, times and statuses of every arm."""
    figures = tmp_path / "figures.json"
    families = str(path.folder / "queries-test.csv")
    done = path.gram("evaluate", "test.csv", "--json", str(figures), "--families", families)
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in found["rows"]}
    assert (list(rows), found["queries"]) == ([BASELINE, RERANK, RECALL], len(path.test))
    assert [row["statuses"] for row in rows.values()] == [
        {DIRECT: len(path.test)},
        {"applied": len(path.test)},
        {"applied": len(path.test)},
    ]
    assert all(set(row["measures"]) == set(ALL) for row in rows.values())
    assert all(sum(row["timed_statuses"].values()) == len(path.test) for row in rows.values())
    assert {tuple(arms) for arms in found["families"].values()} == {(RERANK, RECALL)}
    assert BASELINE in done.stdout


def test_both_fail_without_a_relevant_product(path: Path600) -> None:
    """Judgments whose grades are all 0 measure and tune nothing."""
    (path.folder / "zeros.csv").write_text("query,docid,rating\nsofa,p1,0\n", encoding="utf-8")
    failed = [path.gram(verb, "zeros.csv") for verb in ("tune", "evaluate")]
    assert [result.exit_code for result in failed] == [1, 1]
    assert all("no query has a product with a grade above 0" in result.output for result in failed)


def test_judgments_of_another_catalogue_are_told(path: Path600) -> None:
    """When no product of the judgments is found, the ids do not fit: no table of zeros."""
    query = next(iter(path.test))
    (path.folder / "foreign.csv").write_text(f"query,docid,rating\n{query},other-1,3\n", encoding="utf-8")
    failed = [path.gram(verb, "foreign.csv") for verb in ("tune", "evaluate")]
    assert [result.exit_code for result in failed] == [1, 1]
    assert all("docid in the judgments is the _id of the index" in " ".join(r.output.split()) for r in failed)


def test_both_fail_on_an_index_without_the_fields(path: Path600, index_name: str) -> None:
    """An index that `gram mapping apply` has not seen is refused with that command."""
    path.client.indices.create(index=index_name)
    failed = [path.gram(verb, "test.csv", "--index", index_name) for verb in ("tune", "evaluate")]
    assert [result.exit_code for result in failed] == [1, 1]
    assert all(f"run `gram mapping apply {index_name}`" in " ".join(result.output.split()) for result in failed)


def test_evaluate_refuses_an_index_of_another_calibration(path: Path600, index_name: str) -> None:
    """Uncalibrated, or calibrated for another generation: the shim would serve no codes."""
    path.client.indices.create(index=index_name)
    assert gram("mapping", "apply", index_name, "--url", path.url).exit_code == 0
    plain = path.gram("evaluate", "test.csv", "--index", index_name)
    write_calibration(path.client, index_name, IndexCalibration("g2", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    other = path.gram("evaluate", "test.csv", "--index", index_name)
    said = [" ".join(result.output.split()) for result in (plain, other)]
    assert (plain.exit_code, other.exit_code) == (1, 1)
    assert f"index {index_name} is not calibrated" in said[0]
    assert "was calibrated for generation g2, the bundle is g1" in said[1]


def test_tune_refuses_an_index_without_codes(path: Path600, index_name: str) -> None:
    """Products that were indexed past the sidecar cannot be tuned: every strength would be as good."""
    path.client.indices.create(index=index_name)
    assert gram("mapping", "apply", index_name, "--url", path.url).exit_code == 0
    found = documents(path.folder)
    helpers.bulk(
        path.client, ({"_index": index_name, "_id": key, "_source": found[key]} for key in found), refresh=True
    )
    failed = path.gram("tune", "dev.csv", "--index", index_name)
    assert failed.exit_code == 1
    assert f"no product of {index_name} has codes of generation g1" in " ".join(failed.output.split())


def test_evaluate_refuses_a_shim_that_is_none(path: Path600) -> None:
    """OpenSearch's own address given as that of the shim would show no difference, which is no finding."""
    failed = path.gram("evaluate", "test.csv", "--shim", path.url)
    assert failed.exit_code == 1
    assert "is no gram shim" in " ".join(failed.output.split())
