"""The whole path on the synthetic sample shop: what `gram demo` does, step by step."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch, helpers
from rich.console import Console

import gram_exporter
from gram_exporter.arms import arms_of
from gram_exporter.config import Config, SearchConfig, load_config
from gram_exporter.evaluate import Evaluation, evaluate
from gram_exporter.feedback import positives, read_judgments
from gram_exporter.lexical import FORMS_TRIED, lexical_query
from gram_exporter.measures import Judgments, measured_queries
from gram_exporter.package import export_bundle
from gram_exporter.record import RECORD, read_record
from gram_exporter.report import SideBySide, family_tables, page_of, side_by_side_table, table_of
from gram_exporter.servers import MEASURED, running
from gram_exporter.shop.folder import write_shop
from gram_exporter.shop.shop import LABEL, make_shop
from gram_exporter.showing import Showing, telling_queries
from gram_exporter.train import train
from gram_exporter.tune import tune_lexical, tune_strength
from gram_plugin import contract, decode
from gram_plugin.contract.bundle import MANIFEST
from gram_plugin.contract.catalogue import read_catalogue
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import SearchError
from gram_plugin.node.node import NodeSettings, start_node
from gram_plugin.progress import Progress
from gram_plugin.search.calibrate import calibrate_index
from gram_plugin.search.client import asking, connect
from gram_plugin.search.mappings import apply_template, apply_to_index, write_calibration
from gram_plugin.search.query import ClauseSettings, Mode
from gram_plugin.search.titles import read_title_keywords

INDEX = "gram-demo-products"
PAGE = "report.html"
FIGURES = "figures.json"
SHOP = "shop"
TRAINING = "training"
BUNDLE = "bundle"
CHUNK = 200
HEAP = "1g"
ALL_ATTRIBUTES = "attributes"
"""Field that every attribute is copied to: three searched fields instead of forty."""
SHOWN_FIELD = "title"
_MEGABYTE = 1_000_000
_MAKERS = tuple(Path(package.__path__[0]) for package in (gram_exporter, contract, decode))
"""Folders of the programs that make shop, training and bundle."""

Documents = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class DemoSettings:
    """What the demo makes and where; `url` uses a cluster that exists instead of a node of one's own.

    Training is `steps` steps long, however busy the machine: a demo that ran out of time would show a bad model.
    """

    folder: Path
    products: int = 4000
    seed: int = 1
    steps: int = 120
    url: str | None = None
    keep: bool = False


def run_demo(settings: DemoSettings, console: Console, progress: Progress) -> Evaluation:
    """Node, shop, training, export, mapping, ingest, search, table; what an earlier run made is used again.

    Raises:
        GramError: a step failed; what the steps before it made stays for the next run.
    """
    with ExitStack() as stack:
        url = stack.enter_context(_cluster(settings.url, progress))
        work = work_folder(settings)
        console.print(f"{LABEL} in {work}; OpenSearch at {url}", soft_wrap=True)
        config = provide_shop(work / SHOP, settings)
        documents = _documents(config)
        bundle = _bundle(work, config, documents, progress)
        client = stack.enter_context(connect(url, timeout_s=60))
        _make_index(client, config)
        sidecar = stack.enter_context(running("sidecar", bundle, url, {}))
        _ingest(sidecar, documents, progress)
        generator = OnnxGenerator.open(bundle)
        search = _calibrate(client, generator, config, read_judgments(work / SHOP / "judgments-dev.csv"), progress)
        test = read_judgments(work / SHOP / "judgments-test.csv")
        shim = stack.enter_context(running("shim", bundle, url, MEASURED))
        with connect(shim, timeout_s=60) as through_shim:
            arms = arms_of(client, through_shim, [Mode.RERANK, Mode.RECALL])
            kinds = _kinds(work / SHOP / "queries-test.csv")
            found, outcomes = evaluate(arms, INDEX, lexical_query(search), test, families=kinds, progress=progress)
            showing = Showing(arms[0], arms[-1], INDEX, lexical_query(search), test, SHOWN_FIELD, generator)
            pairs = [showing.side_by_side(query, why) for query, why in telling_queries(outcomes[0], outcomes[-1])]
        page = _report(console, found, pairs, _facts(search, bundle, settings), work)
        if settings.keep:
            _wait(console, {"OpenSearch": url, "sidecar": sidecar, "shim": shim, "index": INDEX, "page": str(page)})
    return found


@contextmanager
def _cluster(url: str | None, progress: Progress) -> Iterator[str]:
    if url:
        yield url
        return

    def fetching(done: int, total: int) -> None:
        if total:  # else the repository does not tell
            progress("fetch OpenSearch, MB", done // _MEGABYTE, total // _MEGABYTE)

    progress("start OpenSearch", 0, 1)
    with start_node(NodeSettings(heap=HEAP), progress=fetching) as node:
        progress("start OpenSearch", 1, 1)
        yield node.url


def work_folder(settings: DemoSettings, makers: Sequence[Path] = _MAKERS) -> Path:
    """A folder named after everything that its content depends on, so that a re-run finds its own and no other's."""
    facts = [version("gram-opensearch"), settings.products, settings.seed, settings.steps, _digest(makers)]
    name = hashlib.blake2b(repr(facts).encode(), digest_size=4).hexdigest()
    folder = settings.folder / f"demo-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _digest(folders: Sequence[Path]) -> str:
    """Of every file in them, program or list of words; what Python compiled is left out."""
    found = hashlib.blake2b(digest_size=8)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(folder)}\0".encode())
                found.update(hashlib.blake2b(path.read_bytes()).digest())
    return found.hexdigest()


def provide_shop(folder: Path, settings: DemoSettings) -> Config:
    """The sample shop in `folder`, which is whole or not there; made anew if it lacks its gram.toml."""
    if not (folder / "gram.toml").is_file():
        staging = folder.with_name(folder.name + ".part")
        for remains in (staging, folder):
            shutil.rmtree(remains, ignore_errors=True)
        write_shop(make_shop(settings.seed, settings.products), staging)
        staging.rename(folder)
    config = load_config(folder / "gram.toml")
    return replace(config, training=replace(config.training, steps=settings.steps, linear_steps=5 * settings.steps))


def _documents(config: Config) -> dict[str, Mapping[str, Any]]:
    if config.catalogue.path is None:
        raise SearchError("the sample shop's gram.toml names no catalogue file")
    return {product.id: product.source for product in read_catalogue(config.catalogue.path, id_field="id")}


def _bundle(work: Path, config: Config, documents: Documents, progress: Progress) -> Path:
    training, bundle = work / TRAINING, work / BUNDLE
    if not (training / RECORD).is_file():
        shutil.rmtree(bundle, ignore_errors=True)  # of an earlier training
        train(documents, positives(config).wanted, config, training, resume=True, progress=progress)
    if not (bundle / MANIFEST).is_file():
        export_bundle(
            training, bundle, progress=lambda step, share: progress(f"export: {step}", round(100 * share), 100)
        )
    return bundle


def _make_index(client: OpenSearch, config: Config) -> None:
    """An index as the shop's owner would have it, then the fields for codes."""
    names = (*config.catalogue.attributes, "model", "department")
    english = {"type": "text", "analyzer": "english"}
    properties = {
        **dict.fromkeys(config.catalogue.text, english),
        **{name: {**english, "copy_to": ALL_ATTRIBUTES} for name in names},
        ALL_ATTRIBUTES: english,
    }
    with asking(client, f"creating {INDEX}"):
        client.indices.delete(index=INDEX, ignore_unavailable=True)
        client.indices.create(
            index=INDEX,
            body={
                "settings": {"number_of_shards": 1, "number_of_replicas": 0},
                "mappings": {"properties": properties},
            },
        )
    apply_template(client)
    apply_to_index(client, INDEX)


def _ingest(sidecar: str, documents: Documents, progress: Progress) -> None:
    """Plain opensearch-py, pointed at the sidecar: what a customer changes is the URL."""
    with connect(sidecar, timeout_s=120) as client, asking(client, f"indexing into {INDEX}"):
        actions = ({"_index": INDEX, "_id": key, "_source": source} for key, source in documents.items())
        for done, _ in enumerate(helpers.streaming_bulk(client, actions, chunk_size=CHUNK), start=1):
            progress("ingest through the sidecar", done, len(documents))
        client.indices.refresh(index=INDEX)


def _calibrate(
    client: OpenSearch, generator: OnnxGenerator, config: Config, dev: Judgments, progress: Progress
) -> SearchConfig:
    """Tunes BM25, then the strength of codes beside it, both on the development queries."""
    search = tune_lexical(client, INDEX, config.catalogue.text, [ALL_ATTRIBUTES], dev, progress=progress)
    lexical = lexical_query(search)
    measured = calibrate_index(client, INDEX, measured_queries(dev), lexical, generation=generator.generation)
    tuned = tune_strength(
        client,
        INDEX,
        generator,
        lexical,
        dev,
        score_scale=measured.score_scale,
        settings=ClauseSettings(strength=1.0, titles=read_title_keywords(client, INDEX, config.catalogue.text[0])),
        progress=progress,
    )
    write_calibration(client, INDEX, replace(measured, strength=tuned.strength))
    return search


def _kinds(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["query"]: row["kind"] for row in csv.DictReader(stream)}


def _facts(search: SearchConfig, bundle: Path, settings: DemoSettings) -> dict[str, str]:
    figures = read_record(bundle.parent / TRAINING).figures
    return {
        "BM25": f"{search.type}, operator {search.operator}, fuzzy {search.fuzzy:g}, {search.fields[0]} and "
        f"{len(search.fields) - 1} more fields; the best of {FORMS_TRIED} forms on the development queries",
        "Catalogue": f"{settings.products} products, seed {settings.seed}",
        "Training": f"{figures['steps']} steps in {figures['seconds']} s, {figures['parameters']} parameters, "
        f"{figures['queries_feedback']} clicked queries, {figures['queries_made']} made from the catalogue",
        "Codebook": f"{figures['codebook_codes']:.0f} codes, a median of "
        f"{figures['codebook_products_per_code_median']:g} products each",
    }


def _report(console: Console, found: Evaluation, pairs: list[SideBySide], facts: Mapping[str, str], work: Path) -> Path:
    console.print(table_of(found, LABEL))
    for table in family_tables(found):
        console.print(table)
    for pair in pairs:
        console.print(side_by_side_table(pair))
    page = work / PAGE
    notice = f"{LABEL}: products, queries and judgments are made by a program; figures of a real shop will differ."
    page.write_text(page_of(found, pairs, title="gram demo", facts=facts, notice=notice), encoding="utf-8")
    (work / FIGURES).write_text(json.dumps({**asdict(found), "facts": facts}, indent=2), encoding="utf-8")
    console.print(f"{LABEL}. Page: {page.as_uri()}", soft_wrap=True)
    return page


def _wait(console: Console, places: Mapping[str, str]) -> None:
    for name, place in places.items():
        console.print(f"{name}: {place}", soft_wrap=True)
    console.print("All of it keeps running; Ctrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("Ended.")
