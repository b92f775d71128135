"""The verbs `gram sidecar` and `gram ingest`: their options, and nothing that is slow to import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gram_plugin.search.client import CA_VARIABLE, DEFAULT_URL, URL_VARIABLE

_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Adds the verbs of this room to the program."""
    app.command("sidecar")(_sidecar)
    app.command("ingest")(_ingest)


def _sidecar(
    url: Annotated[str | None, typer.Option("--url", help="OpenSearch to write to. [GRAM_UPSTREAM_URL]")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Folder of the bundle. [GRAM_BUNDLE]")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. [GRAM_HOST]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on, 0 for a free one. [GRAM_PORT]")] = None,
) -> None:
    """Serve an OpenSearch address for writers that adds codes to documents.

    Every other setting comes from GRAM_ variables of the environment; see docs/settings.md.
    """
    from gram_plugin.serve.running import serve_sidecar
    from gram_plugin.serve.settings import SidecarSettings, variable

    options = {"upstream_url": url, "bundle": bundle, "host": host, "port": port}
    given = {variable(name): str(value) for name, value in options.items() if value is not None}
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    serve_sidecar(SidecarSettings.from_mapping({**os.environ, **given}), console)


def _ingest(
    catalogue: Annotated[Path, typer.Argument(help="Products: JSONL, CSV or TSV, each also gzip.")],
    index: Annotated[str, typer.Option("--index", help="Index or alias to write to.")],
    url: Annotated[
        str, typer.Option("--url", envvar=URL_VARIABLE, help="OpenSearch, or without --bundle a sidecar before it.")
    ] = DEFAULT_URL,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Code here with this bundle.")] = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", help="Field with the id; else the bundle's, else 'id'.")
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave broken lines out, and count them.")
    ] = False,
    bulk: Annotated[int, typer.Option("--bulk", min=1, max=100_000, help="Documents in one bulk.")] = 500,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Products that the model reads at once, each on a core of its own.")
    ] = 2,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="File that keeps the progress; else INDEX.ingest.json here.")
    ] = None,
    dead_letters: Annotated[
        Path | None,
        typer.Option("--dead-letters", help="File for refused documents; else INDEX.dead-letters.jsonl here."),
    ] = None,
    ca: Annotated[str | None, typer.Option("--ca", envvar=CA_VARIABLE, help="PEM file to trust for https.")] = None,
) -> None:
    """Put the products of CATALOGUE into an index, with codes; an interrupted run goes on where it stopped.

    Ends with exit code 1 when OpenSearch refused documents: they and the reasons are in the dead-letter file.
    """
    from gram_plugin.serve.running import Wish, ingest, report_lines

    console = Console(stderr=True)
    wish = Wish(
        catalogue=catalogue,
        index=index,
        url=url,
        ca_file=ca,
        bundle=bundle,
        id_field=id_field,
        skip_invalid=skip_invalid,
        bulk=bulk,
        threads=threads,
        checkpoint=checkpoint or Path(f"{index}.ingest.json"),
        dead_letters=dead_letters or Path(f"{index}.dead-letters.jsonl"),
        environment=os.environ,
    )
    try:
        done = ingest(wish, console)
    except KeyboardInterrupt:
        console.print("interrupted — run the same command again, it goes on where it stopped")
        raise typer.Exit(_INTERRUPTED) from None
    for line in report_lines(done, wish):
        console.print(line, highlight=False)
    raise typer.Exit(1 if done.report.counts.dead_lettered else 0)
