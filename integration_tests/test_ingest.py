"""`gram ingest` as a person runs it, against a real OpenSearch: killed, resumed, refused, through a sidecar."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import component_template

GRAM = [sys.executable, "-m", "gram_plugin.cli"]
TEXT = {"title": {"type": "text"}, "price": {"type": "double"}}


@pytest.fixture
def index(client: OpenSearch, index_name: str) -> str:
    """An index with the gram fields."""
    gram = component_template(weighted=True)["template"]["mappings"]["properties"]
    body = {"mappings": {"properties": {**TEXT, **gram}}, "settings": {"number_of_shards": 1, "number_of_replicas": 0}}
    client.indices.create(index=index_name, body=body)
    return index_name


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}


def products(number: int) -> Iterator[dict[str, Any]]:
    """Products of a catalogue."""
    return ({"id": f"p{n}", "title": f"shoe number {n}", "price": n} for n in range(number))


def write(path: Path, lines: Iterator[dict[str, Any]]) -> Path:
    """Makes a catalogue; `.gz` in the name packs it."""
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """One `gram ingest` to its end."""
    command = [*GRAM, "ingest", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def stored(client: OpenSearch, index: str) -> dict[str, Any]:
    """Every document of an index by id."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, body={"size": 10_000, "query": {"match_all": {}}})["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


def wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    """Until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)


def test_killed_at_any_moment_the_next_run_completes_the_same_index(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """After kill -9 in the middle, the same command goes on; every product is there once, the checkpoint is gone."""
    expected = {product["id"]: product for product in products(6_000)}
    catalogue = write(tmp_path / "products.jsonl.gz", products(6_000))
    arguments = [str(catalogue), "--index", index, "--url", node.url, "--bulk", "20"]
    checkpoint = tmp_path / f"{index}.ingest.json"
    first = subprocess.Popen([*GRAM, "ingest", *arguments], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: checkpoint.exists() or first.poll() is not None)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert checkpoint.exists()
    second = run(tmp_path, environment, *arguments)
    assert second.returncode == 0, second.stderr
    assert "resumed after line" in second.stderr
    assert "6000 products indexed, 0 refused, 0 lines skipped" in second.stderr
    assert stored(client, index) == expected
    assert not checkpoint.exists()


def heed_ctrl_c() -> None:
    """A shell's background job ignores SIGINT and hands that on; a person's terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    node: RunningNode, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """An interrupted run keeps its checkpoint."""
    catalogue = write(tmp_path / "products.jsonl", products(6_000))
    command = [*GRAM, "ingest", str(catalogue), "--index", index, "--url", node.url, "--bulk", "20"]
    checkpoint = tmp_path / f"{index}.ingest.json"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    wait_for(lambda: checkpoint.exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "run the same command again" in said) == (130, True), said
    assert checkpoint.exists()


def test_refused_documents_end_with_1_and_lie_in_the_dead_letter_file(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Only what OpenSearch refuses is missing from the index, and its reason is OpenSearch's."""
    lines = [*products(3), {"id": "bad", "title": "x", "price": "cheap"}, {"id": "odd", "title": "\ud800 👟 \u0000"}]
    catalogue = write(tmp_path / "products.jsonl", iter(lines))
    done = run(tmp_path, environment, str(catalogue), "--index", index, "--url", node.url)
    assert done.returncode == 1, done.stderr
    (letter,) = [json.loads(line) for line in (tmp_path / f"{index}.dead-letters.jsonl").read_text().splitlines()]
    assert (letter["id"], letter["line"], letter["status"], letter["document"]) == ("bad", 4, 400, lines[3])
    assert "failed to parse field [price]" in letter["reason"]
    assert set(stored(client, index)) == {"p0", "p1", "p2", "odd"}


def test_an_index_without_the_fields_is_refused_before_anything_is_sent(
    node: RunningNode, client: OpenSearch, index_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """The error names the command to run."""
    catalogue = write(tmp_path / "products.jsonl", products(3))
    done = run(tmp_path, environment, str(catalogue), "--index", index_name, "--url", node.url)
    assert done.returncode == 1
    assert f"gram mapping apply {index_name}" in done.stderr
    assert not client.indices.exists(index=index_name)


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"id": "1"}\n{oops\n', "products.jsonl:2"), ('{"id": "1"}\n{"id": "1"}\n', "duplicate"), ("{}\n", "no id")],
)
def test_a_broken_catalogue_is_refused_before_anything_is_sent(
    node: RunningNode,
    client: OpenSearch,
    index: str,
    environment: dict[str, str],
    tmp_path: Path,
    content: str,
    said: str,
) -> None:
    """A broken line, a repeated or a missing id is found first, with its line."""
    (tmp_path / "products.jsonl").write_text(content)
    done = run(tmp_path, environment, "products.jsonl", "--index", index, "--url", node.url)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert stored(client, index) == {}


def test_broken_lines_are_skipped_and_counted_when_told_so(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """`--skip-invalid` leaves them out and says how many."""
    (tmp_path / "products.jsonl").write_text('{"id": "1"}\n{oops\n{"id": "2"}\n')
    done = run(tmp_path, environment, "products.jsonl", "--index", index, "--url", node.url, "--skip-invalid")
    assert done.returncode == 0, done.stderr
    assert "2 products indexed, 0 refused, 1 lines skipped" in done.stderr
    assert set(stored(client, index)) == {"1", "2"}


def test_an_unreachable_opensearch_is_named(index: str, environment: dict[str, str], tmp_path: Path) -> None:
    """The error says which address."""
    catalogue = write(tmp_path / "products.jsonl", products(3))
    done = run(tmp_path, environment, str(catalogue), "--index", index, "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "could not be read" in done.stderr


def test_a_sidecar_without_a_usable_bundle_indexes_everything_as_pending(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """`gram sidecar` starts, says what is wrong, and no document is lost; `gram ingest` through it tells."""
    catalogue = write(tmp_path / "products.jsonl", products(30))
    command = [*GRAM, "sidecar", "--url", node.url, "--port", "0", "--bundle", str(tmp_path / "missing")]
    sidecar = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert sidecar.stderr is not None
        url = next(line.split()[-1] for line in sidecar.stderr if line.startswith("listening on "))
        done = run(tmp_path, environment, str(catalogue), "--index", index, "--url", url)
    finally:
        sidecar.terminate()
        sidecar.communicate(timeout=30)
    assert done.returncode == 0, done.stderr
    assert "1 bulks degraded; reason=no-model" in done.stderr
    assert [found["gram"]["model"] for found in stored(client, index).values()] == ["pending"] * 30


def test_with_a_bundle_every_product_is_coded_here_and_the_same_run_again_changes_nothing(
    node: RunningNode, client: OpenSearch, index: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Documents carry the bundle's generation; a second run gives the same index but for the times."""
    bundle = Path(__file__).parents[1] / "plugin/tests/decode/tiny_bundle"
    generation = json.loads((bundle / "manifest.json").read_text())["generation"]
    catalogue = write(tmp_path / "products.jsonl", products(40))
    arguments = [str(catalogue), "--index", index, "--url", node.url, "--bundle", str(bundle), "--id-field", "id"]
    indices = []
    for _ in range(2):
        done = run(tmp_path, environment, *arguments)
        assert done.returncode == 0, done.stderr
        assert "40 coded, 0 pending" in done.stderr
        found = stored(client, index)
        for document in found.values():
            del document["gram"]["at"]
        indices.append(found)
    assert indices[0] == indices[1]
    assert {document["gram"]["model"] for document in indices[0].values()} == {generation}
    assert len(indices[0]) == 40
