"""The verbs that measure: `gram tune`, `gram evaluate` and `gram demo`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gram_exporter.console import workshop
from gram_plugin.errors import ConfigError, JudgmentsError
from gram_plugin.progress import reporting
from gram_plugin.search.client import DEFAULT_URL, URL_VARIABLE

if TYPE_CHECKING:
    from gram_exporter.config import Config
    from gram_exporter.evaluate import Evaluation
    from gram_exporter.tune import Tuned

_ConfigFile = Annotated[Path, typer.Option("--config", help="The gram.toml to go by.")]
_Bundle = Annotated[Path, typer.Option("--bundle", help="Folder that `gram export` wrote.")]
_Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of OpenSearch.")]
_Index = Annotated[str | None, typer.Option("--index", help="Index or alias; else that of gram.toml.")]
_Queries = Annotated[Path | None, typer.Option("--queries", help="Texts of TREC qrels: qid<TAB>text.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    app.command("tune")(_tune)
    app.command("evaluate")(_evaluate)
    app.command("demo")(_demo)


def _tune(
    config: _ConfigFile = Path("gram.toml"),
    bundle: _Bundle = Path("gram-bundle"),
    training: Annotated[Path, typer.Option("--training", help="Folder of the training.")] = Path("gram-training"),
    judgments: Annotated[
        Path | None, typer.Option("--judgments", help="Development judgments; never those of a test.")
    ] = None,
    queries: _Queries = None,
    lexical: Annotated[
        bool, typer.Option("--lexical", help="First find the best lexical query, and print its [search].")
    ] = False,
    index: _Index = None,
    url: _Url = DEFAULT_URL,
) -> None:
    """Measure the index's scores and choose how strong codes are; keep both in the index."""
    from gram_exporter.config import load_config, render_search

    with workshop("tune"):
        from gram_exporter.tuning import Tuning
    from gram_exporter.feedback import read_judgments

    console = Console(stderr=True)
    settings = load_config(config)
    if lexical and judgments is None:
        raise ConfigError("--lexical needs development judgments", next_step="pass --judgments FILE")
    name = _index_of(settings, index)
    dev = read_judgments(judgments, queries=queries) if judgments else None
    with reporting(console) as report, Tuning.open(settings, name, bundle, url, report) as tuning:
        if lexical and dev is not None:
            tuning = tuning.with_lexical(dev)
        compared: list[Tuned] = []
        kept = tuning.calibrate(dev, training, tell=compared.append)
    for line in (line for tuned in compared for line in _strength_lines(tuned)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if lexical:
        Console().print(render_search(tuning.search), markup=False, highlight=False)
    console.print(
        f"{tuning.index}: one certain code is worth {kept.points:g} points "
        f"(strength {kept.strength:g} × scale {kept.score_scale:g}, generation {kept.generation})",
        soft_wrap=True,
    )


def _evaluate(
    judgments: Annotated[Path, typer.Option("--judgments", help="query,docid,rating as CSV or TSV, or TREC qrels.")],
    config: _ConfigFile = Path("gram.toml"),
    bundle: _Bundle = Path("gram-bundle"),
    queries: _Queries = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            help="rerank, recall, rescue, fuzzy, expansion, oracle, dense or dense-tuned; repeat it. "
            "Else rerank and recall.",
        ),
    ] = None,
    families: Annotated[Path | None, typer.Option("--families", help="CSV query,kind to report by.")] = None,
    shim: Annotated[str | None, typer.Option("--shim", help="A shim that runs; else one is started.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure into this file.")] = None,
    development: Annotated[
        Path | None, typer.Option("--development", help="Judgments to tune rivals by; never those of the test.")
    ] = None,
    training: Annotated[
        Path, typer.Option("--training", help="Folder of the training: its held-out feedback, without --development.")
    ] = Path("gram-training"),
    encoder: Annotated[
        Path | None, typer.Option("--encoder", help="Checkpoint folder for the dense arms; else the packaged MiniLM.")
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Keeps vectors and fine-tuned encoders.")] = Path("gram-rivals"),
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Longest fine-tuning of dense-tuned.")] = 30.0,
    index: _Index = None,
    url: _Url = DEFAULT_URL,
) -> None:
    """Compare the lexical query alone with codes added, and with rivals of codes, on judgments, on a live index."""
    from gram_exporter.arms import DEFAULT_ARMS
    from gram_exporter.config import load_config
    from gram_exporter.feedback import read_judgments

    with workshop("evaluate"):
        from gram_exporter.comparing import Comparison
        from gram_exporter.report import family_tables, table_of
        from gram_exporter.rivals.lineup import RivalSettings
        from gram_exporter.tuning import held_feedback

    console = Console(stderr=True)
    settings = load_config(config)
    name = _index_of(settings, index)
    _check_folder(json_file)
    judged, kinds = read_judgments(judgments, queries=queries), _kinds(families)
    if kinds and not kinds.keys() & judged.keys():
        raise JudgmentsError(f"no query of {families} is in {judgments}", next_step="check that both are of one split")
    dev = read_judgments(development, queries=queries) if development else held_feedback(training)
    rivals = RivalSettings(work, dev, encoder, minutes)
    chosen = tuple(arms or DEFAULT_ARMS)
    comparison = Comparison(settings, settings.search, name, url, bundle, chosen, shim, rivals)
    with reporting(console) as report:
        found = comparison.run(judged, kinds, report)
    if json_file:
        _write_json(json_file, found)
    for line in _unenriched_lines(found):
        console.print(line, soft_wrap=True, markup=False)
    Console().print(table_of(found, f"{name}, {judgments.name}"), *family_tables(found), sep="\n")


def _demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where everything that it makes goes.")] = Path("work"),
    products: Annotated[int, typer.Option("--products", min=500, help="Size of the sample shop.")] = 4000,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample shop.")] = 1,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Steps of training; five of the linear arm for each.")
    ] = 120,
    url: Annotated[str | None, typer.Option("--url", help="An OpenSearch that runs, instead of one's own.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave all of it running until Ctrl-C.")] = False,
) -> None:
    """Walk the whole path on the synthetic sample shop: train, export, ingest, search, a table and a page."""
    with workshop("demo"):
        from gram_exporter.demo import DemoSettings, run_demo

    console = Console(stderr=True)
    settings = DemoSettings(folder, products, seed, steps, url, keep)
    with reporting(console) as report:
        run_demo(settings, Console(), report)


def _strength_lines(tuned: Tuned) -> list[str]:
    """What every strength gave, so that a person sees how much hangs on the choice."""
    lines = ["mean of nDCG@10 and R@100 on the development queries:"]
    for strength, score in tuned.scores.items():
        name = f"strength {strength:g}" if strength else "without codes"
        lines.append(f"  {name:<14} {score:.4f}{'  kept' if strength == tuned.strength else ''}")
    return lines


def _index_of(settings: Config, given: str | None) -> str:
    index = given or settings.search.index
    if not index:
        raise ConfigError("no index is named", next_step="pass --index, or set index in [search] of gram.toml")
    return index


def _kinds(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            # white space as in judgments, or the queries would not be found among them
            return {" ".join(row["query"].split()): row["kind"].strip() for row in csv.DictReader(stream)}
    except (OSError, KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise JudgmentsError(
            f"{path} is no CSV with the columns query and kind: {error!r}",
            next_step="give a CSV whose first line is query,kind, or leave --families out",
        ) from error


def _check_folder(json_file: Path | None) -> None:
    """An evaluation takes minutes: a folder that is not there should be told before."""
    if json_file and not json_file.parent.is_dir():
        raise ConfigError(f"{json_file.parent} is no folder", next_step="make it, or name another file with --json")


def _write_json(path: Path, found: Evaluation) -> None:
    try:
        path.write_text(json.dumps(found.to_json(), indent=2), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", next_step="name another file with --json"
        ) from error


def _unenriched_lines(found: Evaluation) -> list[str]:
    """One line for each arm and reason, for a table must not pass lexical answers for those with codes."""
    return [
        f"{row.name}: {count} of {sum(row.statuses.values()) + sum(row.timed_statuses.values())} searches "
        f"were answered without codes: {status}"
        for row in found.rows
        for status, count in row.unenriched.items()
    ]
