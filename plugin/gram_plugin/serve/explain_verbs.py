"""The verb `gram explain`: its options, and nothing that is slow to import."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gram_plugin.search.client import CA_VARIABLE, DEFAULT_URL, URL_VARIABLE
from gram_plugin.search.lexical import multi_match, own_query
from gram_plugin.search.query import Mode
from gram_plugin.search.verbs import Fields, Match, Operator, OwnQuery

_TABLE_WIDTH = 160


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command("explain")(_explain)


def _explain(
    index: Annotated[str, typer.Argument(help="Name of an index or alias.")],
    text: Annotated[str, typer.Argument(help="The query, as a shopper types it.")],
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Folder of the bundle. [GRAM_BUNDLE]")] = None,
    fields: Fields = None,
    match: Match = "best_fields",
    operator: Operator = "or",
    query: OwnQuery = None,
    mode: Annotated[Mode | None, typer.Option(help="What codes may do. [GRAM_MODE, else rerank]")] = None,
    size: Annotated[int, typer.Option(min=1, max=1000, help="Products of each table.")] = 10,
    label: Annotated[
        str | None, typer.Option(help="Field that tells people the product; else the first of --fields, or a text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    url: Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of OpenSearch.")] = DEFAULT_URL,
    ca: Annotated[str | None, typer.Option("--ca", envvar=CA_VARIABLE, help="PEM file to trust for https.")] = None,
) -> None:
    """Show the codes of a query, what each gave to each product, and from which rank to which it moved.

    Searches OpenSearch directly, by the words alone and with codes, as a shim with the same GRAM_ settings would.
    """
    from gram_plugin.serve.explain_program import Wish, explain, show

    shown = label or (fields[0].partition("^")[0] if fields else None)
    wish = Wish(
        index=index,
        text=text,
        lexical=own_query(query) if query else multi_match(fields or [], match, operator),
        url=url,
        bundle=bundle,
        ca_file=ca,
        mode=mode,
        shown=size,
        label_field=shown,
        environment=os.environ,
    )
    found = explain(wish)
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2, ensure_ascii=False))
        return
    console = Console()
    show(found, console if console.is_terminal else Console(width=_TABLE_WIDTH))
