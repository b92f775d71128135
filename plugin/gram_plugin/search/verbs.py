"""The verbs `gram mapping apply|check` and `gram calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gram_plugin.search.calibrate import DEFAULT_STRENGTH, MAX_QUERIES, calibrate_index
from gram_plugin.search.client import CA_VARIABLE, DEFAULT_URL, URL_VARIABLE, connect
from gram_plugin.search.lexical import MATCH_TYPES, multi_match, own_query, queries_of_catalogue, queries_of_file
from gram_plugin.search.mappings import (
    TEMPLATE_NAME,
    IndexFields,
    apply_template,
    apply_to_index,
    check_index,
    write_calibration,
)

_Index = Annotated[str, typer.Argument(help="Name of an index or alias.")]
_Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of OpenSearch.")]
_Authority = Annotated[str | None, typer.Option("--ca", envvar=CA_VARIABLE, help="PEM file to trust for https.")]

Fields = Annotated[list[str] | None, typer.Option(help="Field to search, such as title^3; repeat it.")]
Match = Annotated[str, typer.Option("--type", help=f"How fields combine: {', '.join(MATCH_TYPES)}.")]
Operator = Annotated[str, typer.Option(help="or: any word is enough; and: all words.")]
OwnQuery = Annotated[Path | None, typer.Option(help="JSON file: your own query, with %QUERY% for the text.")]
"""Options that say what the customer's lexical query is; of every verb that needs it."""


def register(app: typer.Typer) -> None:
    """Adds the verbs of this room to the program."""
    mapping = typer.Typer(help="The fields that codes live in.", no_args_is_help=True)
    mapping.command("apply")(_apply)
    mapping.command("check")(_check)
    app.add_typer(mapping, name="mapping")
    app.command("calibrate")(_calibrate)


def _apply(index: _Index, url: _Url = DEFAULT_URL, ca: _Authority = None) -> None:
    """Put the component template gram-codes, and add its fields to INDEX if that exists."""
    with connect(url, ca_file=ca) as client:
        weighted = apply_template(client)
        _say(f"component template {TEMPLATE_NAME}: {_kind(weighted)}")
        found = apply_to_index(client, index)
    if not found.indices:
        _say(f'{index} does not exist yet: name "{TEMPLATE_NAME}" in composed_of of its index template')
    for name in found.indices:
        _say(f"{name}: {'fields added' if name in found.changed else 'has the fields already'}")


def _check(index: _Index, url: _Url = DEFAULT_URL, ca: _Authority = None) -> None:
    """Fail unless INDEX, or every index of the alias INDEX, has the fields."""
    with connect(url, ca_file=ca) as client:
        found = check_index(client, index)
    _say(_fields_line(found))


def _calibrate(
    index: _Index,
    queries: Annotated[
        Path | None,
        typer.Option(help="Queries of your shop: text, one a line, or CSV, TSV or JSONL. Else made from the products."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of the file with the query; else a usual name.")] = None,
    fields: Fields = None,
    match: Match = "best_fields",
    operator: Operator = "or",
    query: OwnQuery = None,
    strength: Annotated[float, typer.Option(help="What a certain code may count, in spreads of a page.")] = (
        DEFAULT_STRENGTH
    ),
    generation: Annotated[str | None, typer.Option(help="Model generation; else the one that INDEX holds.")] = None,
    url: _Url = DEFAULT_URL,
    ca: _Authority = None,
) -> None:
    """Measure the lexical scores of INDEX and keep in it how strong codes are."""
    texts = queries_of_file(queries, column, MAX_QUERIES) if queries else None
    lexical = own_query(query) if query else multi_match(fields or [], match, operator)
    with connect(url, ca_file=ca, timeout_s=60) as client:
        check_index(client, index)
        if texts is None:
            texts = queries_of_catalogue(client, index, fields or [], MAX_QUERIES)
            _say(f"no --queries: {len(texts)} made from the products, such as {', '.join(map(repr, texts[:3]))}")
        found = calibrate_index(client, index, texts, lexical, generation=generation, strength=strength)
        write_calibration(client, index, found)
    _say(
        f"{index}: generation {found.generation}, score scale {found.score_scale:g} points over {found.queries} "
        f"queries, strength {found.strength:g}: one certain code is worth {found.points:g} points"
    )


def _say(text: str) -> None:
    Console().print(text, soft_wrap=True, markup=False, highlight=False)


def _kind(weighted: bool) -> str:
    return "codes and weights" if weighted else "codes alone, this OpenSearch lacks the field type rank_features"


def _fields_line(found: IndexFields) -> str:
    return f"{found.index}: {', '.join(found.indices)} with {_kind(found.weighted)}"
