"""The workshop's verbs; they join `gram` through the entry-point group `gram.commands`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gram_exporter.console import workshop
from gram_exporter.shop_verbs import register as register_shop
from gram_plugin.progress import reporting

DEFAULT_CONFIG = Path("gram.toml")
DEFAULT_TRAINING = Path("gram-training")
DEFAULT_BUNDLE = Path("gram-bundle")

_Config = Annotated[Path, typer.Option("--config", help="The gram.toml to go by.")]
_Training = Annotated[Path, typer.Option("--training", help="Folder of the training.")]
_SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Leave broken lines out, and count them.")]


def register(app: typer.Typer) -> None:
    """Adds the workshop's verbs to `gram`. Nothing heavy is imported before a verb runs."""
    from gram_exporter.measuring_verbs import register as register_measuring

    app.command("init")(_init)
    app.command("train")(_train)
    app.command("export")(_export)
    register_shop(app)
    register_measuring(app)


def _init(
    catalogue: Annotated[str, typer.Argument(help="File of products (JSONL, CSV, TSV, each also .gz), or an index.")],
    url: Annotated[str | None, typer.Option("--url", help="OpenSearch that holds the index.")] = None,
    judgments: Annotated[Path | None, typer.Option("--judgments", help="CSV query,docid,rating, or qrels.")] = None,
    queries: Annotated[Path | None, typer.Option("--queries", help="Texts of the qrels: qid<TAB>text.")] = None,
    clicks: Annotated[
        list[Path] | None, typer.Option("--clicks", help="UBI queries, and again for UBI events.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="File to write.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Look at a catalogue and propose a gram.toml: its id, text and attribute fields."""
    from gram_exporter.init import InitRequest, run_init

    request = InitRequest(catalogue, output, url, judgments, queries, tuple(clicks or ()), force)
    run_init(request, Console())


def _train(
    config: _Config = DEFAULT_CONFIG,
    training: _Training = DEFAULT_TRAINING,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Instead of gram.toml's.")] = None,
    skip_invalid: _SkipInvalid = False,
) -> None:
    """Train GRAM on the catalogue and the feedback of gram.toml."""
    from gram_exporter.config import load_config
    from gram_exporter.feedback import positives
    from gram_exporter.source import Intake

    console = Console(stderr=True)
    settings = load_config(config)
    if minutes is not None:
        settings = replace(settings, training=replace(settings.training, minutes=minutes))
    with workshop("train"):
        from gram_exporter.train import train
    feedback = positives(settings)
    intake = Intake(settings.catalogue, skip_invalid=skip_invalid)
    products = intake.read()
    _report_counts(console, "lines left out of the catalogue", intake.skipped)
    _report_counts(console, "left out of the click log", feedback.ignored)
    console.print(f"{len(products)} products, {len(feedback.wanted)} queries with feedback")
    with reporting(console) as report:
        train(products, feedback.wanted, settings, training, resume=resume, progress=report)
    console.print(f"Trained into {training}. Next: gram export --training {training}", soft_wrap=True)


def _export(
    training: _Training = DEFAULT_TRAINING,
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder to write.")] = DEFAULT_BUNDLE,
    precision: Annotated[str, typer.Option("--precision", help="int8 or fp32.")] = "int8",
    linear_share: Annotated[
        float | None,
        typer.Option("--linear-share", help="Part of the linear arm, 0 to 1; else what held-out queries say."),
    ] = None,
    linear_codes: Annotated[
        int | None,
        typer.Option("--linear-codes", min=1, help="Codes of the linear arm that a query looks at; else 8192."),
    ] = None,
) -> None:
    """Turn a finished training into the bundle that serving reads, behind the parity gate."""
    with workshop("export"):
        from gram_exporter.clusters import SCORED_CODES
        from gram_exporter.package import export_bundle
    console = Console(stderr=True)
    with reporting(console) as report:
        export_bundle(
            training,
            bundle,
            precision=precision,
            share=linear_share,
            scored_codes=SCORED_CODES if linear_codes is None else linear_codes,
            progress=lambda step, share: report(f"export: {step}", round(100 * share), 100),
        )
    console.print(f"Exported to {bundle}. Next: gram mapping apply INDEX, then gram ingest", soft_wrap=True)


def _report_counts(console: Console, what: str, counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        console.print(f"{what}: {count} × {reason}", soft_wrap=True, markup=False)
