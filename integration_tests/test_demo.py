"""`gram demo` as a whole on a real node, small: what it leaves, and what a second run takes from the first."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opensearchpy import OpenSearch
from rich.console import Console

from gram_exporter.arms import BASELINE
from gram_exporter.demo import BUNDLE, FIGURES, INDEX, PAGE, TRAINING, DemoSettings, run_demo, work_folder
from gram_exporter.record import RECORD
from gram_plugin.contract.bundle import MANIFEST, open_bundle
from gram_plugin.node.node import RunningNode
from gram_plugin.search.query import Mode

PRODUCTS = 500
STEPS = 15
ARMS = [BASELINE, *(f"{BASELINE} + codes, {mode.value}" for mode in (Mode.RERANK, Mode.RECALL))]


@dataclass(frozen=True)
class Walk:
    """One run of the demo: what it said on the console, its stages, and when it wrote record and manifest."""

    said: str
    stages: tuple[str, ...]
    written_ns: tuple[int, int]


def walk(settings: DemoSettings) -> Walk:
    """Runs the demo to its end."""
    said, stages = io.StringIO(), dict[str, None]()
    run_demo(settings, Console(file=said, width=200), lambda stage, _done, _total: stages.update({stage: None}))
    work = work_folder(settings)
    written = [(work / name).stat().st_mtime_ns for name in (f"{TRAINING}/{RECORD}", f"{BUNDLE}/{MANIFEST}")]
    return Walk(said.getvalue(), tuple(stages), (written[0], written[1]))


@pytest.fixture(scope="module")
def settings(node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> DemoSettings:
    """A small shop and a short training, on the session's node."""
    return DemoSettings(tmp_path_factory.mktemp("demo"), PRODUCTS, steps=STEPS, url=node.url)


@pytest.fixture(scope="module")
def walks(client: OpenSearch, settings: DemoSettings) -> Iterator[list[Walk]]:
    """The demo run twice; its index is deleted afterwards."""
    yield [walk(settings) for _ in range(2)]
    client.indices.delete(index=INDEX)


def test_it_ends_with_a_page_figures_and_an_index_with_codes(
    walks: list[Walk], settings: DemoSettings, client: OpenSearch
) -> None:
    """The page is named at the end, the figures have every arm, and every product has codes of the bundle."""
    work = work_folder(settings)
    figures = json.loads((work / FIGURES).read_text(encoding="utf-8"))
    found = client.search(index=INDEX, body={"size": PRODUCTS + 1, "_source": ["gram"]})["hits"]["hits"]
    generation = open_bundle(work / BUNDLE).manifest.generation
    assert walks[0].said.splitlines()[-1].endswith(f"Page: {(work / PAGE).as_uri()}")
    assert all(arm in (work / PAGE).read_text(encoding="utf-8") for arm in ARMS)
    assert ([row["name"] for row in figures["rows"]], figures["queries"] > 0) == (ARMS, True)
    assert figures["facts"]["Training"].startswith(f"{STEPS} steps in ")
    assert len(found) == PRODUCTS
    assert {(hit["_source"]["gram"]["model"], bool(hit["_source"]["gram"]["codes"])) for hit in found} == {
        (generation, True)
    }


def test_a_second_run_trains_and_exports_nothing(walks: list[Walk]) -> None:
    """It finds the bundle of the first, leaves it and the training as they are, and measures anew."""
    first, second = walks
    making = [stage for stage in first.stages if stage not in second.stages]
    assert second.written_ns == first.written_ns
    assert {stage.partition(": ")[0] for stage in making} == {"prepare", "train", "train the linear arm", "export"}
    assert second.stages == tuple(stage for stage in first.stages if stage not in making)
