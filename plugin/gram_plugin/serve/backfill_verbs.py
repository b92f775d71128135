"""The verbs `gram backfill` and `gram clean-up`: their options, and nothing that is slow to import."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gram_plugin.errors import ConfigError
from gram_plugin.search.client import CA_VARIABLE, DEFAULT_URL, URL_VARIABLE

if TYPE_CHECKING:
    from gram_plugin.serve.backfill_program import Done, Wish

_INTERRUPTED = 130


_Index = Annotated[str, typer.Argument(help="Index, alias or data stream whose products get codes.")]
_Bundle = Annotated[Path, typer.Option("--bundle", envvar="GRAM_BUNDLE", help="Folder that `gram export` wrote.")]
_Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="URL of OpenSearch.")]
_Part = Annotated[str, typer.Option("--slice", help="Part of the index, such as 0/4, 1/4, 2/4, 3/4 in four processes.")]
_Follow = Annotated[
    bool, typer.Option("--follow", help="Go on watching for products written past the sidecar, until SIGTERM.")
]
_Interval = Annotated[
    float, typer.Option("--interval", min=0.1, max=86_400, help="With --follow: seconds between two looks.")
]
_Into = Annotated[
    str | None,
    typer.Option("--into", help="Copy to this new index instead, then move the alias there; auto names it."),
]
_Alias = Annotated[str | None, typer.Option("--alias", help="With --into: the alias that moves.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Write nothing: count, estimate the time, show codes of some products.")
]
_Rate = Annotated[float, typer.Option("--rate", min=0, help="Most products coded in a second; 0 for no bound.")]
_Bulk = Annotated[int, typer.Option("--bulk", min=1, max=10_000, help="Most products in one page and bulk.")]
_Threads = Annotated[
    int, typer.Option("--threads", min=1, help="Products that the model reads at once, each on a core of its own.")
]
_Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="File that keeps the position; else INDEX.backfill.json here.")
]
_Letters = Annotated[
    Path | None,
    typer.Option("--dead-letters", help="File for what failed; else INDEX.backfill.dead-letters.jsonl here."),
]
_Json = Annotated[bool, typer.Option("--json", help="Write the report as JSON to the standard output.")]
_Authority = Annotated[str | None, typer.Option("--ca", envvar=CA_VARIABLE, help="PEM file to trust for https.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the program."""
    app.command("backfill")(_backfill)
    app.command("clean-up")(_clean_up)


def _backfill(
    index: _Index,
    bundle: _Bundle,
    url: _Url = DEFAULT_URL,
    part: _Part = "0/1",
    follow: _Follow = False,
    interval: _Interval = 30.0,
    into: _Into = None,
    alias: _Alias = None,
    dry_run: _DryRun = False,
    rate: _Rate = 0,
    bulk: _Bulk = 500,
    threads: _Threads = 2,
    checkpoint: _Checkpoint = None,
    dead_letters: _Letters = None,
    as_json: _Json = False,
    ca: _Authority = None,
) -> None:
    """Give codes to the products of INDEX that have none, or those of another model or another text.

    An interrupted run goes on where it stopped when it is started with the same arguments. Ends with exit code 1 when
    something failed: the dead-letter file has the reasons.
    """
    from gram_plugin.serve import backfill_program as program

    shared = program.slice_of(part)
    _check_into(into, alias, follow=follow, parts=shared.of)
    stem = f"{index}.backfill" + (f"-{shared.number}-of-{shared.of}" if shared.of > 1 else "")
    console = Console(stderr=True, soft_wrap=True)
    wish = program.Wish(
        index=index,
        url=url,
        bundle=bundle,
        ca_file=ca,
        part=shared,
        rate=rate,
        follow_s=interval if follow else None,
        into=into,
        alias=alias,
        bulk=bulk,
        threads=threads,
        checkpoint=checkpoint or Path(f"{stem}.json"),
        dead_letters=dead_letters or Path(f"{stem}.dead-letters.jsonl"),
        environment=os.environ,
    )
    if dry_run:
        found = program.survey(wish, console)
        _say(console, program.survey_lines(found, wish), program.survey_document(found) if as_json else None)
        return
    done = _run(wish, console)
    _say(console, program.report_lines(done, wish), program.report_document(done) if as_json else None)
    if done.report.stopped and not follow:
        console.print("interrupted — run the same command again, it goes on where it stopped")
        raise typer.Exit(_INTERRUPTED)
    raise typer.Exit(1 if done.report.tally.failed else 0)


def _check_into(into: str | None, alias: str | None, *, follow: bool, parts: int) -> None:
    if (into is None) != (alias is None):
        raise ConfigError("--into and --alias belong together", next_step="pass both, or none to write in place")
    if into is not None and (follow or parts > 1):
        raise ConfigError("--into works alone, without --follow and --slice", next_step="leave them out")


def _run(wish: Wish, console: Console) -> Done:
    from gram_plugin.serve.backfill_into import backfill_into
    from gram_plugin.serve.backfill_program import backfill

    return backfill(wish, console) if wish.into is None else backfill_into(wish, console)


def _clean_up(
    alias: Annotated[str, typer.Argument(help="The alias that the indices were made for.")],
    url: _Url = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it they are only named.")] = False,
    ca: _Authority = None,
) -> None:
    """Name, or with --yes delete, the indices that `gram backfill --into` made for ALIAS and nothing leads to.

    Only indices called ALIAS-gram-GENERATION-YYYYMMDDHHMMSS that carry the mark of a backfill and no alias.
    """
    from gram_plugin.serve.backfill_into import clean_up

    names = clean_up(url, alias, ca, delete=yes)
    for name in names:
        typer.echo(f"{name}: {'deleted' if yes else 'would be deleted with --yes'}")
    if not names:
        typer.echo(f"nothing to clean up for {alias}")


def _say(console: Console, lines: Iterable[str], document: Mapping[str, Any] | None) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)
    if document is not None:
        typer.echo(json.dumps(document))
