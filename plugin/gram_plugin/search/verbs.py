"""The verbs `gram mapping apply|check` and `gram calibrate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gram_plugin.errors import CalibrationError, ConfigError
from gram_plugin.search.calibrate import DEFAULT_STRENGTH, calibrate_index
from gram_plugin.search.client import CA_VARIABLE, DEFAULT_URL, URL_VARIABLE, connect
from gram_plugin.search.mappings import (
    TEMPLATE_NAME,
    IndexFields,
    apply_template,
    apply_to_index,
    check_index,
    write_calibration,
)

MATCH_TYPES = ("best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix")

_Index = Annotated[str, typer.Argument(help="Name of an index or alias.")]
_Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Address of OpenSearch.")]
_Authority = Annotated[str | None, typer.Option("--ca", envvar=CA_VARIABLE, help="PEM file to trust for https.")]


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
    queries: Annotated[Path, typer.Option(help="Text file: one query a line, as shoppers type them.")],
    fields: Annotated[list[str] | None, typer.Option(help="Field to search, such as title^3; repeat it.")] = None,
    match: Annotated[
        str, typer.Option("--type", help=f"How fields combine: {', '.join(MATCH_TYPES)}.")
    ] = "best_fields",
    operator: Annotated[str, typer.Option(help="or: any word is enough; and: all words.")] = "or",
    query: Annotated[Path | None, typer.Option(help="JSON file: your own query, with %QUERY% for the text.")] = None,
    strength: Annotated[float, typer.Option(help="What a certain code may count, in spreads of a page.")] = (
        DEFAULT_STRENGTH
    ),
    generation: Annotated[str | None, typer.Option(help="Model generation; else the one that INDEX holds.")] = None,
    url: _Url = DEFAULT_URL,
    ca: _Authority = None,
) -> None:
    """Measure the lexical scores of INDEX and keep in it how strong codes are."""
    texts = _read_queries(queries)
    lexical = _own_query(query) if query else multi_match(fields or [], match, operator)
    with connect(url, ca_file=ca, timeout_s=60) as client:
        check_index(client, index)
        found = calibrate_index(client, index, texts, lexical, generation=generation, strength=strength)
        write_calibration(client, index, found)
    _say(
        f"{index}: generation {found.generation}, score scale {found.score_scale:g} points over {found.queries} "
        f"queries, strength {found.strength:g}: one certain code is worth {found.points:g} points"
    )


def multi_match(fields: list[str], match: str, operator: str) -> Callable[[str], dict[str, Any]]:
    """A lexical query over fields, `index.query.default_field` where none are given.

    Raises:
        ConfigError: the type or the operator is none of OpenSearch's.
    """
    if match not in MATCH_TYPES:
        raise ConfigError(f"--type is {match!r}", next_step=f"use one of {', '.join(MATCH_TYPES)}")
    if operator not in ("or", "and"):
        raise ConfigError(f"--operator is {operator!r}", next_step="use 'or' or 'and'")
    chosen = {"fields": fields} if fields else {}
    return lambda text: {"multi_match": {"query": text, "type": match, "operator": operator, **chosen}}


def _own_query(path: Path) -> Callable[[str], dict[str, Any]]:
    try:
        template = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a query: {error}", next_step="give a file with JSON") from error
    query = template.get("query", template) if isinstance(template, dict) else None
    if not isinstance(query, dict) or "%QUERY%" not in json.dumps(query):
        raise ConfigError(f"{path} has no %QUERY%", next_step='write "%QUERY%" where the text of a query belongs')
    return lambda text: _filled(query, text)


def _filled(part: Any, text: str) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, text) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(item, text) for item in part]
    return part.replace("%QUERY%", text) if isinstance(part, str) else part


def _read_queries(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path} cannot be read: {error}", next_step="give a UTF-8 text file, one query a line"
        ) from error
    queries = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not queries:
        raise CalibrationError(f"{path} holds no query", next_step="write one query a line")
    return queries


def _say(text: str) -> None:
    Console().print(text, soft_wrap=True, markup=False, highlight=False)


def _kind(weighted: bool) -> str:
    return "codes and weights" if weighted else "codes alone, this OpenSearch lacks the field type rank_features"


def _fields_line(found: IndexFields) -> str:
    return f"{found.index}: {', '.join(found.indices)} with {_kind(found.weighted)}"
