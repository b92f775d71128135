"""`gram init`: looks at a catalogue file or an index and writes a gram.toml that says why it chose what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opensearchpy import OpenSearch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gram_exporter.clicks import read_clicks
from gram_exporter.config import DEFAULT_URL, CatalogueConfig, Config, FeedbackConfig, SearchConfig, render_config
from gram_exporter.feedback import read_judgments
from gram_exporter.proposal import Proposal, propose, search_fields
from gram_exporter.source import INDEX_TIMEOUT_S, sampled_products
from gram_exporter.survey import sample, survey
from gram_plugin.contract.records import RecordReader
from gram_plugin.errors import CatalogueError, ConfigError
from gram_plugin.search.client import PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE, address, asking, connect

SAMPLED_PRODUCTS = 5_000
INDEX_ID = "_id"

_FILE_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".gz", ".txt"})
_NO_SECRETS = (
    f"The credentials in the URL were not written: later commands read {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}."
)
_TEXT_TYPES = {"text": "text", "match_only_text": "text", "search_as_you_type": "text", "keyword": "keyword"}


@dataclass(frozen=True)
class InitRequest:
    """What `gram init` was asked: a catalogue (file or index), feedback files, and where to write."""

    catalogue: str
    output: Path
    url: str | None = None
    judgments: Path | None = None
    queries: Path | None = None
    clicks: tuple[Path, ...] = ()
    force: bool = False


@dataclass(frozen=True)
class _Look:
    """What was seen of a catalogue; `searchable` is field to mapping type, None for a file."""

    sources: Sequence[Mapping[str, Any]]
    broken_lines: int = 0
    searchable: Mapping[str, str] | None = None


def run_init(request: InitRequest, console: Console) -> Config:
    """Proposes a gram.toml, explains it on the console and writes it.

    Raises:
        ConfigError: the output exists and `force` is not given, or it cannot be written.
        CatalogueError: the catalogue cannot be read, or has no id or no text.
        SearchError: the index cannot be read.
        JudgmentsError: a feedback file cannot be read.
    """
    if request.output.exists() and not request.force:
        raise ConfigError(f"{request.output} exists", next_step="overwrite it with --force, or name another --output")
    if not request.output.resolve().parent.is_dir():
        raise _unwritable(request.output, "there is no such folder")
    feedback = _feedback(request)
    is_file = _is_file(request)
    look = _look_at_file(Path(request.catalogue)) if is_file else _look_at_index(request)
    proposal = propose(survey(look.sources), id_field=None if is_file else INDEX_ID)
    config = _config(request, proposal, look, feedback)
    folder = request.output.resolve().parent
    try:
        request.output.write_text(render_config(config, folder=folder, notes=_notes(proposal)), encoding="utf-8")
    except OSError as error:
        raise _unwritable(request.output, error.strerror or str(error)) from error
    _explain(proposal, look, console)
    if (request.url or not is_file) and urlsplit(request.url or os.environ.get(URL_VARIABLE, "")).username:
        console.print(_NO_SECRETS, soft_wrap=True)
    console.print(f"Wrote {request.output}. Look at it, then: gram train --config {request.output}", soft_wrap=True)
    return config


def _unwritable(output: Path, reason: str) -> ConfigError:
    return ConfigError(f"{output} cannot be written: {reason}", next_step="make the folder, or name another --output")


def _is_file(request: InitRequest) -> bool:
    path = Path(request.catalogue)
    if path.exists():
        return True
    if request.url is None and (path.suffix.lower() in _FILE_SUFFIXES or len(path.parts) > 1):
        raise CatalogueError(f"{path}: no such file", next_step="check the path; an index is named without a suffix")
    return False


def _look_at_file(path: Path) -> _Look:
    reader = RecordReader(path, skip_invalid=True)
    sources = sample((record.source for record in reader), SAMPLED_PRODUCTS)
    if not sources:
        first = reader.skipped[0]
        raise CatalogueError(
            f"{path}:{first.line}: {first.reason}; no other line is a record either",
            next_step="the formats are in docs/catalogue.md",
        )
    return _Look(sources, broken_lines=len(reader.skipped))


def _look_at_index(request: InitRequest) -> _Look:
    client = connect(request.url, timeout_s=INDEX_TIMEOUT_S)
    products = sampled_products(client, request.catalogue, SAMPLED_PRODUCTS)
    return _Look([product.source for product in products], searchable=_searchable(client, request.catalogue))


def _searchable(client: OpenSearch, index: str) -> dict[str, str]:
    """Field paths that hold text to search, with `text` or `keyword`; of an alias, those of all its indices."""
    with asking(client, f"reading the mapping of {index}"):
        mappings = client.indices.get_mapping(index=index)
    found: dict[str, str] = {}
    for answer in mappings.values():
        _collect(answer["mappings"].get("properties", {}), "", found)
    return found


def _collect(properties: Mapping[str, Any], path: str, found: dict[str, str]) -> None:
    for name, definition in properties.items():
        place = f"{path}.{name}" if path else name
        if definition.get("type") in _TEXT_TYPES and definition.get("index", True):
            found[place] = _TEXT_TYPES[definition["type"]]
        _collect(definition.get("properties", {}), place, found)


def _feedback(request: InitRequest) -> FeedbackConfig:
    """Reads the files once, so that a broken one is told now and not after training has begun."""
    if len(request.clicks) not in (0, 2):
        raise ConfigError("--clicks takes two files", next_step="give --clicks UBI_QUERIES --clicks UBI_EVENTS")
    if request.judgments:
        read_judgments(request.judgments, queries=request.queries)
    if request.clicks:
        read_clicks(request.clicks[0], request.clicks[1])
    return FeedbackConfig(
        judgments=request.judgments and request.judgments.resolve(),
        queries=request.queries and request.queries.resolve(),
        clicks=tuple(path.resolve() for path in request.clicks),
    )


def _config(request: InitRequest, proposal: Proposal, look: _Look, feedback: FeedbackConfig) -> Config:
    is_file = look.searchable is None
    return Config(
        catalogue=CatalogueConfig(
            path=Path(request.catalogue).resolve() if is_file else None,
            index=None if is_file else request.catalogue,
            url=catalogue_url(request, os.environ) if request.url or not is_file else DEFAULT_URL,
            id=proposal.id.field,
            text=tuple(choice.field for choice in proposal.texts),
            attributes={choice.field: choice.use for choice in proposal.attributes},
        ),
        feedback=feedback,
        search=SearchConfig(
            index=index_name(Path(request.catalogue)) if is_file else request.catalogue,
            fields=search_fields(proposal, look.searchable),
        ),
    )


def catalogue_url(request: InitRequest, environ: Mapping[str, str]) -> str:
    """The address that was asked, for gram.toml: without credentials, which belong into the environment."""
    return address(request.url, environ=environ).url


def index_name(catalogue: Path) -> str:
    """A name that OpenSearch takes for an index, from the name of a file: `My Shop.DE.csv.gz` → `my-shop-de`."""
    stem = catalogue.name.lower()
    while (suffix := Path(stem).suffix) in _FILE_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_") or "products"


def _notes(proposal: Proposal) -> dict[str, str]:
    notes = {f"catalogue.attributes.{choice.field}": choice.reason for choice in proposal.attributes}
    notes["catalogue.id"] = proposal.id.reason
    notes["catalogue.text"] = "; ".join(f"{choice.field}: {choice.reason}" for choice in proposal.texts)
    return notes


def _explain(proposal: Proposal, look: _Look, console: Console) -> None:
    table = Table(title=f"Seen in {len(look.sources)} products", title_justify="left")
    for heading in ("field", "use", "why"):
        table.add_column(heading, overflow="fold")
    for choice in proposal.choices:
        table.add_row(Text(choice.field), Text(choice.use), Text(choice.reason))
    console.print(table)
    for line in _remarks(proposal, look):
        console.print(Text(line), soft_wrap=True)


def _remarks(proposal: Proposal, look: _Look) -> Iterator[str]:
    for reason, count in proposal.left_out.items():
        yield f"{count} {'field' if count == 1 else 'fields'} left out: {reason}"
    if look.broken_lines:
        yield f"{look.broken_lines} broken lines among those read; train and ingest need --skip-invalid"
    if not proposal.attributes:
        yield "no attribute fields: attributes are learned from the titles"
