"""The customer's lexical query for a text, as options of a command describe it; and texts to measure it with."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gram_plugin.contract.records import RecordReader
from gram_plugin.contract.text import field_values
from gram_plugin.errors import CalibrationError, ConfigError
from gram_plugin.search.client import asking

if TYPE_CHECKING:  # see client.py
    from opensearchpy import OpenSearch

Lexical = Callable[[str], dict[str, Any]]
"""Query text to the `query` part of a search body."""

MATCH_TYPES = ("best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix")
COLUMNS = ("query", "query_text", "queryText", "user_query", "search_term", "q", "text")
"""Names under which logs hold the text, `user_query` among them as User Behavior Insights writes it."""

MAX_QUERY_WORDS = 3
_TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json"})
_TITLES = ("title", "name", "product_title", "product_name", "title_en", "label")
_WORD = re.compile(r"\w+")
_SEED = 7


def multi_match(fields: list[str], match: str, operator: str) -> Lexical:
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


def own_query(path: Path) -> Lexical:
    """The query of a JSON file, with the text in place of %QUERY%.

    Raises:
        ConfigError: the file cannot be read, or has no %QUERY%.
    """
    try:
        template = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a query: {error}", next_step="give a file with JSON") from error
    query = template.get("query", template) if isinstance(template, dict) else None
    if not isinstance(query, dict) or "%QUERY%" not in json.dumps(query):
        raise ConfigError(f"{path} has no %QUERY%", next_step='write "%QUERY%" where the text of a query belongs')
    return lambda text: _filled(query, text)


def queries_of_file(path: Path, column: str | None, count: int) -> list[str]:
    """Distinct queries of a log, evenly drawn when there are more than `count`; the file is read as a stream.

    A `.csv`, `.tsv` or `.jsonl` file, also gzip, has them in a column; any other file has one a line.

    Args:
        path: the file.
        column: name of the column, else the first of `COLUMNS` that the file has.
        count: most queries.

    Raises:
        CalibrationError: the file cannot be read, has no such column, or holds no query.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    is_table = column is not None or bool(suffixes and suffixes[-1] in _TABLES)
    texts = _column_of(path, column) if is_table else _lines_of(path)
    found = evenly_drawn((text.strip() for text in texts if text.strip()), count)
    if not found:
        raise CalibrationError(f"{path} holds no query", next_step="write one query a line, or name the --column")
    return found


def queries_of_catalogue(client: OpenSearch, index: str, fields: Iterable[str], count: int) -> list[str]:
    """Queries in the words of the products: one to three words that stand together in a product's title.

    The title is the first of `fields`, else a text field of a telling name, else the first text field of the mapping.
    The same index gives the same queries.

    Raises:
        CalibrationError: the index has no text field or no products with words in it.
        SearchError: OpenSearch could not be reached or refused it.
    """
    title = _title_field(client, index, fields)
    body = {
        "size": count,
        "_source": [title],
        "query": {"function_score": {"query": {"match_all": {}}, "random_score": {"seed": _SEED, "field": "_seq_no"}}},
    }
    with asking(client, f"drawing products of {index}"):
        hits = client.search(index=index, body=body)["hits"]["hits"]
    texts = [_words_of(" ".join(field_values(hit.get("_source") or {}, title)), hit["_id"]) for hit in hits]
    found = list(dict.fromkeys(text for text in texts if text))
    if not found:
        raise CalibrationError(
            f"no product of {index} has words in {title!r}",
            next_step="index the products first, or give queries of your shop with --queries FILE",
        )
    return found


def evenly_drawn(texts: Iterable[str], count: int) -> list[str]:
    """At most `count` distinct texts, each as likely as any other, the same ones for the same input; in no order."""
    kept: dict[str, int] = {}
    largest: list[tuple[int, str]] = []
    for text in texts:
        if text in kept:
            continue
        rank = _rank(text)
        if len(kept) == count and -largest[0][0] <= rank:
            continue
        kept[text] = rank
        heapq.heappush(largest, (-rank, text))
        if len(kept) > count:
            del kept[heapq.heappop(largest)[1]]
    return list(kept)


def _words_of(title: str, identifier: str) -> str:
    words = _WORD.findall(title.lower())
    if not words:
        return ""
    rank = _rank(identifier)
    length = min(1 + rank % MAX_QUERY_WORDS, len(words))
    start = rank // MAX_QUERY_WORDS % (len(words) - length + 1)
    return " ".join(words[start : start + length])


def _rank(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _title_field(client: OpenSearch, index: str, fields: Iterable[str]) -> str:
    given = [field.partition("^")[0] for field in fields]
    named = [field for field in given if "*" not in field]
    if named:
        return named[0]
    with asking(client, f"reading the mapping of {index}"):
        mappings = client.indices.get_mapping(index=index)
    properties = [entry.get("mappings", {}).get("properties", {}) for entry in mappings.values()]
    texts = list(dict.fromkeys(name for found in properties for name in _text_fields(found)))
    telling = [name for name in _TITLES if name in texts]
    if not texts:
        raise CalibrationError(
            f"{index} has no text field to make queries of",
            next_step="name a field with --fields, or give queries of your shop with --queries FILE",
        )
    return (telling or texts)[0]


def _text_fields(properties: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, field in properties.items():
        if "properties" in field:
            yield from _text_fields(field["properties"], f"{prefix}{name}.")
        elif field.get("type") == "text":
            yield prefix + name


def _lines_of(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from lines
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path} cannot be read: {error}", next_step="give a UTF-8 file: text, one query a line, or CSV, or JSONL"
        ) from error


def _column_of(path: Path, column: str | None) -> Iterator[str]:
    for record in RecordReader(path, error=CalibrationError):
        names = record.columns or tuple(record.source)
        chosen = column if column else next((name for name in COLUMNS if name in names), None)
        if chosen is None or (record.columns and chosen not in record.columns):
            raise CalibrationError(
                f"{path}:{record.line}: no column {column or 'with queries'} among {', '.join(names[:12])}",
                next_step="name it with --column",
            )
        value = record.source.get(chosen)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            yield str(value)


def _filled(part: Any, text: str) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, text) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(item, text) for item in part]
    return part.replace("%QUERY%", text) if isinstance(part, str) else part
