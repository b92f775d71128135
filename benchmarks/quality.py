"""Quality on every catalogue at hand, with ablations: `python benchmarks/quality.py [--data FOLDER] [--only NAME]`.

The synthetic sample shop is always there; `--data` may hold `msrd/` (films with judgments) and `icecat/`
(electronics with ratings). Everything is made in `--work`; a training or a bundle that is there is used again. Writes
a table of each catalogue to `--work`/quality.md, and every figure to `--work`/NAME/figures.json. The dense rivals
need an encoder: the extra [rivals], or `--encoder`; without one they are left out, and the page says so.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch, helpers
from rich.console import Console

from gram_exporter.align import align
from gram_exporter.arms import DEFAULT_ARMS, DENSE_ARMS, ArmName
from gram_exporter.comparing import Comparison
from gram_exporter.config import CatalogueConfig, Config, FeedbackConfig, SearchConfig, load_config
from gram_exporter.evaluate import FAMILY_MEASURES, Evaluation, Row
from gram_exporter.feedback import Judgments, positives, read_judgments
from gram_exporter.init import InitRequest, run_init
from gram_exporter.linear import train_linear
from gram_exporter.measures import Interval
from gram_exporter.package import export_bundle
from gram_exporter.prepare import prepare
from gram_exporter.record import RECORD, read_record
from gram_exporter.rivals.encoder import check_checkpoint, packaged_encoder
from gram_exporter.rivals.lineup import RivalSettings
from gram_exporter.servers import running
from gram_exporter.shop.folder import write_shop
from gram_exporter.shop.shop import make_shop
from gram_exporter.train import train
from gram_exporter.tuning import Tuning
from gram_plugin.contract.bundle import LINEAR, MANIFEST
from gram_plugin.contract.catalogue import read_catalogue
from gram_plugin.errors import ExtraMissingError, TrainingError
from gram_plugin.node.node import NodeSettings, start_node
from gram_plugin.progress import Progress, reporting
from gram_plugin.search.client import connect
from gram_plugin.search.mappings import apply_template, apply_to_index

ALL_ATTRIBUTES = "all_attributes"
"""Field that every attribute is copied to: a lexical query over three fields beats one over forty."""
MOST_SEARCHED_FIELDS = 8
"""A lexical query over more fields than this searches the texts and `ALL_ATTRIBUTES` instead."""


@dataclass(frozen=True)
class Stage:
    """One bundle of an ablation: what of it differs from the full one.

    `linear_share` None is what held-out queries say; with `settings` of `[training]` the linear arm is made anew, and
    where `whole` the generator too: another training of as many steps, so that chance is part of what it shows.
    """

    linear_share: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


STAGES: Mapping[str, Stage] = {
    "full": Stage(),
    "generator alone": Stage(linear_share=0.0),
    "linear arm alone": Stage(linear_share=1.0),
    "generator alone, not aligned": Stage(linear_share=0.0, settings={"prefer_steps": 0}, whole=True),
    "generator not aligned": Stage(settings={"prefer_steps": 0}, whole=True),
    "co-trained": Stage(settings={"cotrain_steps": 160}, whole=True),
    "without alignment": Stage(settings={"align_steps": 0}),
    "without neighbours": Stage(settings={"nearest_share": 0.0}),
}
MEASURES = ("nDCG@10", "R@10", "R@100", "R@300", "judged@10")
RIVALS = (ArmName.FUZZY, ArmName.EXPANSION, ArmName.ORACLE, *DENSE_ARMS)
"""Compared once for each catalogue, beside the full bundle."""
DEVELOPMENT_SHARE = 10
"""One judged training query in so many is kept out of training, for tuning."""


@dataclass(frozen=True)
class Case:
    """One catalogue; `dev` None where nobody judged anything, `kinds` query to family."""

    name: str
    config: Config
    test: Judgments
    dev: Judgments | None = None
    kinds: Mapping[str, str] | None = None


def main() -> None:
    """Reads the command line, runs every case, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with msrd/ and icecat/")
    parser.add_argument("--work", type=Path, default=Path("work/quality"), help="where everything is made")
    parser.add_argument("--only", help="one case: shop, msrd or icecat")
    parser.add_argument("--minutes", type=float, default=3.0, help="training time of the generator")
    parser.add_argument("--checkpoint", type=Path, help="folder that the generator begins with, else from scratch")
    parser.add_argument("--encoder", type=Path, help="checkpoint folder for the dense rivals")
    parser.add_argument("--encoder-minutes", type=float, default=30.0, help="longest fine-tuning of the dense rival")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    left_out = _left_out(chosen.encoder, console)
    pages = []
    with start_node(NodeSettings(heap="2g")) as node, reporting(console) as report:
        for case in cases(chosen.work, chosen.data):
            if chosen.only in (None, case.name):
                folder = chosen.work / case.name
                rivals = RivalSettings(folder / "rivals", case.dev, chosen.encoder, chosen.encoder_minutes)
                found = run(
                    _trained(case, minutes=chosen.minutes, checkpoint=chosen.checkpoint),
                    folder,
                    node.url,
                    rivals,
                    left_out,
                    report,
                )
                pages.append(page_of(case, found))
                (chosen.work / "quality.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    Console().print("\n\n".join(pages), markup=False, soft_wrap=True)


def cases(work: Path, data: Path | None) -> Iterator[Case]:
    """Every catalogue at hand."""
    yield shop_case(work / "shop" / "data")
    if data and (data / "msrd").is_dir():
        yield msrd_case(data / "msrd", work / "msrd")
    if data and (data / "icecat").is_dir():
        yield icecat_case(data / "icecat", work / "icecat")


def shop_case(folder: Path) -> Case:
    """The synthetic sample shop, with clicks to train on."""
    if not (folder / "gram.toml").is_file():
        write_shop(make_shop(1), folder)
    config = load_config(folder / "gram.toml")
    with (folder / "queries-test.csv").open(encoding="utf-8", newline="") as stream:
        kinds = {row["query"]: row["kind"] for row in csv.DictReader(stream)}
    judged = {split: read_judgments(folder / f"judgments-{split}.csv") for split in ("dev", "test")}
    return Case("shop", config, judged["test"], judged["dev"], kinds)


def msrd_case(data: Path, work: Path) -> Case:
    """Films; a tenth of the judged training queries tunes, the rest trains."""
    work.mkdir(parents=True, exist_ok=True)
    rows = list(_msrd_rows(data / "judgments-train.tsv.gz"))
    kept = set(list(dict.fromkeys(row[0] for row in rows))[::DEVELOPMENT_SHARE])
    for name, inside in (("train", False), ("dev", True)):
        with (work / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("query", "docid", "rating"), *(r for r in rows if (r[0] in kept) is inside)])
    test: Judgments = {}
    for query, docid, grade in _msrd_rows(data / "judgments-test.tsv.gz"):
        test.setdefault(" ".join(query.split()), {})[docid] = float(grade)
    catalogue = CatalogueConfig(
        path=data / "movies.jsonl.gz",
        id="id",
        text=("title", "overview", "characters"),
        attributes={"genres": "type", "tags": "tag", "director": "director", "actors": "actor"},
    )
    fields = ("title^3", "overview", "tags", "genres", "director^2", "actors^2", "characters")
    search = SearchConfig(type="most_fields", fields=fields)
    config = Config(catalogue=catalogue, feedback=FeedbackConfig(judgments=work / "train.csv"), search=search)
    return Case("msrd", config, test, read_judgments(work / "dev.csv"))


def icecat_case(data: Path, work: Path) -> Case:
    """Electronics on a shop's first day: no query to train on, none to tune on, `gram init`'s own proposal."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "gram.toml").is_file():
        run_init(InitRequest(str(data / "products.jsonl.gz"), work / "gram.toml"), Console(stderr=True))
    return Case("icecat", load_config(work / "gram.toml"), read_judgments(data / "ratings.csv"))


def run(
    case: Case, folder: Path, url: str, rivals: RivalSettings, left_out: Sequence[ArmName], report: Progress
) -> dict[str, Evaluation]:
    """Trains, exports each bundle, indexes, tunes and evaluates; rivals stand beside the full bundle."""
    index = f"gram-quality-{case.name}"
    config = replace(case.config, search=replace(case.config.search, index=index))
    path = config.catalogue.path or Path()
    documents = {product.id: product.source for product in read_catalogue(path, id_field=config.catalogue.id)}
    training = folder / "training"
    wanted = positives(config).wanted
    if not (training / RECORD).is_file():
        train(documents, wanted, config, training, resume=True, progress=report)
    stages = {name: stage for name, stage in STAGES.items() if wanted or not stage.settings}
    bundles: dict[str, Path] = {}
    for name, stage in stages.items():
        made = _remade(training, folder, stage, documents, wanted, config, report) if stage.settings else training
        bundles[name] = _bundle(made, folder, name, stage.linear_share, report)
    with connect(url, timeout_s=120) as client:
        config = _index(client, config, index, documents, bundles["full"], url, report)
    found: dict[str, Evaluation] = {}
    search = config.search
    for name, bundle in bundles.items():
        with Tuning.open(replace(config, search=search), index, bundle, url, report) as tuning:
            if case.dev is not None and name == "full":
                search = tuning.with_lexical(case.dev).search
            replace(tuning, search=search).calibrate(case.dev, training)
        arms = [*DEFAULT_ARMS, *(_rivals_of(config, search, left_out) if name == "full" else ())]
        comparison = Comparison(config, search, index, url, bundle, arms, rivals=rivals)
        found[name] = comparison.run(case.test, case.kinds or {}, report)
        (folder / "figures.json").write_text(json.dumps({n: asdict(e) for n, e in found.items()}, indent=2))
    return found


def page_of(case: Case, found: Mapping[str, Evaluation]) -> str:
    """One catalogue as Markdown tables: the baseline, what each arm adds to it, and that by kind of query."""
    first = next(iter(found.values()))
    lines = [
        f"## {case.name}: {first.queries} test queries",
        "",
        f"| arm | {' | '.join(MEASURES)} | found of missed@100 | median ms |",
        f"| --- |{' --- |' * (len(MEASURES) + 2)}",
        _line(first.rows[0].name, first.rows[0], "{:.3f}", is_base=True),
    ]
    for bundle, evaluation in found.items():
        for row in evaluation.rows[1:]:
            name = row.name if row.benchmark_only or "codes" not in row.name else f"{row.name} ({bundle})"
            lines.append(_line(name, row, "{:+.3f}", is_base=False))
    return "\n".join([*lines, *_kinds(first)])


def _line(name: str, row: Row, form: str, *, is_base: bool) -> str:
    values = row.measures if is_base else row.differences
    cells = [_cell(values[measure], form) for measure in MEASURES]
    share = None if is_base else row.found_of_missed[100]
    milliseconds = f"{row.median_ms.value:.1f}" if row.median_ms else "benchmark only"
    return f"| {name} | {' | '.join(cells)} | {_cell(share, '{:.2f}') if share else ''} | {milliseconds} |"


def _kinds(evaluation: Evaluation) -> list[str]:
    """Differences of each arm by kind of query; nothing where kinds are not known."""
    lines: list[str] = []
    for measure in FAMILY_MEASURES if evaluation.families else ():
        arms = [row.name for row in evaluation.rows[1:]]
        lines += ["", f"{measure} by kind of query:", "", f"| kind | queries | {' | '.join(arms)} |"]
        lines.append(f"| --- | --- |{' --- |' * len(arms)}")
        for kind, by_arm in evaluation.families.items():
            cells = [_cell(by_arm[arm][measure], "{:+.3f}") for arm in arms]
            lines.append(f"| {kind} | {evaluation.family_queries[kind]} | {' | '.join(cells)} |")
    return lines


def _cell(found: Interval, form: str) -> str:
    return f"{form} [{form}, {form}]".format(found.value, found.low, found.high)


def _left_out(encoder: Path | None, console: Console) -> Sequence[ArmName]:
    """The dense arms, and a word on them, where there is no encoder."""
    try:
        check_checkpoint(encoder or packaged_encoder())
    except ExtraMissingError as error:
        console.print(f"The dense rivals are left out. {error}", soft_wrap=True, markup=False)
        return DENSE_ARMS
    return ()


def _rivals_of(config: Config, search: SearchConfig, left_out: Sequence[ArmName]) -> list[ArmName]:
    """Those that make sense here: no fuzzy arm beside a fuzzy query, no fine-tuning without feedback."""
    without = set(left_out)
    if search.fuzzy:
        without.add(ArmName.FUZZY)
    if config.feedback.judgments is None and not config.feedback.clicks:
        without.add(ArmName.DENSE_TUNED)
    return [name for name in RIVALS if name not in without]


def _remade(
    training: Path,
    folder: Path,
    stage: Stage,
    documents: Mapping[str, Mapping[str, Any]],
    wanted: Judgments,
    config: Config,
    report: Progress,
) -> Path:
    """The training with its linear arm made by other settings, all else the same; of a whole stage all made by them."""
    copy = folder / "-".join(["training", *(f"{name}-{value}" for name, value in stage.settings.items())])
    if not copy.is_dir():
        settings = replace(config.training, **stage.settings)
        draft = copy.with_name(f".{copy.name}")
        if stage.whole:
            same = replace(settings, steps=int(read_record(training).figures["steps"]))
            train(documents, wanted, replace(config, training=same), draft, progress=report)
            return draft.rename(copy)
        prepared = prepare(documents, wanted, config)
        arm = train_linear(prepared, settings, report)
        if arm is None:
            raise TrainingError("there is no linear arm to take a stage from", next_step="set training.linear_steps")
        shutil.copytree(training, draft, dirs_exist_ok=True)
        align(arm, prepared, settings, report).arm.save(draft / LINEAR)
        draft.rename(copy)
    return copy


def _bundle(training: Path, folder: Path, name: str, share: float | None, report: Progress) -> Path:
    bundle = folder / f"bundle-{name.replace(' ', '-')}"
    if not (bundle / MANIFEST).is_file():
        export_bundle(
            training,
            bundle,
            share=share,
            progress=lambda step, done: report(f"export: {step}", round(100 * done), 100),
        )
    return bundle


def _index(
    client: OpenSearch,
    config: Config,
    index: str,
    documents: Mapping[str, Mapping[str, Any]],
    bundle: Path,
    url: str,
    report: Progress,
) -> Config:
    """An index as its owner would have it, filled through the sidecar; the configuration that searches it."""
    english = {"type": "text", "analyzer": "english"}
    searched = [name.partition("^")[0] for name in config.search.fields]
    attributes = [name for name in config.catalogue.attributes if "." not in name]
    properties = {
        **{name: english for name in (*config.catalogue.text, *searched) if "." not in name},
        **{name: {**english, "copy_to": ALL_ATTRIBUTES} for name in attributes},
        ALL_ATTRIBUTES: english,
    }
    client.indices.delete(index=index, ignore_unavailable=True)
    settings = {"number_of_shards": 1, "number_of_replicas": 0, "index.mapping.total_fields.limit": 10_000}
    client.indices.create(index=index, body={"settings": settings, "mappings": {"properties": properties}})
    apply_template(client)
    apply_to_index(client, index)
    with running("sidecar", bundle, url, {}) as sidecar, connect(sidecar, timeout_s=300) as writer:
        actions = ({"_index": index, "_id": key, "_source": dict(source)} for key, source in documents.items())
        for done, _ in enumerate(helpers.streaming_bulk(writer, actions, chunk_size=200), start=1):
            report("ingest", done, len(documents))
    client.indices.refresh(index=index)
    if len(searched) <= MOST_SEARCHED_FIELDS:
        return config
    return replace(config, search=replace(config.search, fields=(*config.catalogue.text, ALL_ATTRIBUTES)))


def _trained(case: Case, **settings: Any) -> Case:
    return replace(case, config=replace(case.config, training=replace(case.config.training, **settings)))


def _msrd_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield row["query"], row["doc_id"], row["grade"]


if __name__ == "__main__":
    main()
