"""What people judged or clicked, read from files and merged into wanted and unwanted products by query."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gram_exporter.clicks import ClickLog, read_clicks
from gram_exporter.config import Config
from gram_plugin.contract.records import RecordReader, broken_text, open_text
from gram_plugin.contract.text import render_query
from gram_plugin.errors import JudgmentsError

Judgments = dict[str, dict[str, float]]
"""Query text to document id to grade, both in the file's order."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "query_text", "keywords", "search_term", "q"),
    "docid": ("docid", "doc_id", "document_id", "product_id", "id"),
    "rating": ("rating", "grade", "relevance", "label", "judgment", "rel"),
}
"""Names that a column may have in the header, best first; case does not matter."""


@dataclass(frozen=True)
class Feedback:
    """Wanted and unwanted products of queries.

    Attributes:
        wanted: query text to product id to weight > 0.
        unwanted: query text to ids that were judged 0, or shown above a clicked product and left.
        ignored: what the click log held that could not be used, counted by reason.
    """

    wanted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unwanted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)


class _Judged(NamedTuple):
    line: int
    query: str
    docid: str
    grade: str


def positives(config: Config) -> Feedback:
    """Reads the files of `[feedback]`; without any, the feedback is empty.

    Raises:
        JudgmentsError: a file cannot be read, or holds nothing positive to learn from.
    """
    settings = config.feedback
    judgments = read_judgments(settings.judgments, queries=settings.queries) if settings.judgments else {}
    if settings.judgments and not any(grade > 0 for grades in judgments.values() for grade in grades.values()):
        raise JudgmentsError(f"{settings.judgments}: no grade is above 0", next_step="grades above 0 mean relevant")
    clicks = read_clicks(settings.clicks[0], settings.clicks[1]) if settings.clicks else ClickLog((), {})
    return merge(judgments, clicks)


def merge(judgments: Judgments, clicks: ClickLog) -> Feedback:
    """Merges judgments and clicks; where they disagree about a product, the judgment holds.

    The best grade of the file weighs as much as one click, lower grades in proportion. Queries that render
    alike are the same query.
    """
    judged: dict[str, set[str]] = defaultdict(set)
    for query, grades in judgments.items():
        judged[render_query(query)] |= grades.keys()
    best = max((grade for grades in judgments.values() for grade in grades.values()), default=0.0)
    wanted: dict[str, dict[str, float]] = defaultdict(dict)
    unwanted: dict[str, set[str]] = defaultdict(set)
    for query, grades in judgments.items():
        wanted[query] |= {docid: grade / best for docid, grade in grades.items() if grade > 0}
        unwanted[query] |= {docid for docid, grade in grades.items() if grade <= 0}
    for product in clicks.products:
        if product.product_id in judged.get(render_query(product.query), ()):
            continue
        if product.clicks:
            wanted[product.query][product.product_id] = product.weight
        elif product.passed_over:
            unwanted[product.query].add(product.product_id)
    return Feedback(
        {query: products for query, products in wanted.items() if products},
        {query: frozenset(ids) for query, ids in unwanted.items() if ids},
        clicks.ignored,
    )


def read_judgments(path: Path, *, queries: Path | None = None) -> Judgments:
    """Reads graded query-document pairs: a table with a header, JSON lines, or TREC qrels.

    A pair that was graded several times gets the mean grade.

    Args:
        path: table with columns as in `COLUMNS`, in any order, plain or gzip; or lines `qid 0 docid grade`.
        queries: texts of the query ids of TREC qrels, one `qid<TAB>text` a line.

    Raises:
        JudgmentsError: the file cannot be read or a line of it is broken; the message begins with `path:line`.
    """
    judged = _qrels_rows(path, queries) if _is_qrels(path) else _table_rows(path)
    grades: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in judged:
        grades[" ".join(row.query.split())][row.docid.strip()].append(_grade(path, row))
    return {
        query: {docid: math.fsum(given) / len(given) for docid, given in documents.items()}
        for query, documents in grades.items()
    }


def _table_rows(path: Path) -> Iterator[_Judged]:
    columns: dict[str, str] = {}
    for record in RecordReader(path, error=JudgmentsError):
        columns = columns or _columns(path, record.line, record.columns or tuple(record.source))
        cells = {role: _cell(record.source.get(name)) for role, name in columns.items()}
        if missing := [columns[role] for role, cell in cells.items() if not cell]:
            raise _broken(path, record.line, f"has no {' and no '.join(missing)}")
        yield _Judged(record.line, cells["query"], cells["docid"], cells["rating"])


def _cell(found: object) -> str:
    is_value = isinstance(found, str | int | float) and not isinstance(found, bool)
    return str(found).strip() if is_value else ""


def _columns(path: Path, line: int, names: tuple[str, ...]) -> dict[str, str]:
    by_lower = {name.lower(): name for name in names}
    columns = {
        role: next((by_lower[synonym] for synonym in synonyms if synonym in by_lower), "")
        for role, synonyms in COLUMNS.items()
    }
    if missing := [role for role, name in columns.items() if not name]:
        raise JudgmentsError(
            f"{path}:{line}: found no {' and no '.join(missing)} among the columns {', '.join(names)[:200]}",
            next_step="name the columns query,docid,rating in the first line, or give TREC qrels: qid 0 docid grade",
        )
    return columns


def _is_qrels(path: Path) -> bool:
    first = next((line for _, line in _lines(path)), "")
    parts = first.split()
    return len(parts) == 4 and "," not in parts[0] and _is_number(parts[3])


def _qrels_rows(path: Path, queries: Path | None) -> Iterator[_Judged]:
    if queries is None:
        raise JudgmentsError(
            f"{path}: TREC qrels hold query ids, no query texts",
            next_step="name a file of qid<TAB>text lines: queries in [feedback], or --queries",
        )
    texts = _query_texts(queries)
    for number, line in _lines(path):
        parts = line.split()
        if len(parts) != 4:
            raise _broken(path, number, f"expected `qid 0 docid grade`, found {line[:80]!r}")
        if parts[0] not in texts:
            raise _broken(path, number, f"query id {parts[0]!r} is not in {queries}")
        yield _Judged(number, texts[parts[0]], parts[2], parts[3])


def _query_texts(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in _lines(path):
        query_id, tab, text = line.partition("\t")
        if not (tab and query_id.strip() and text.strip()):
            raise _broken(path, number, f"expected qid<TAB>text, found {line[:80]!r}")
        texts[query_id.strip()] = text.strip()
    return texts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    number = 0
    try:
        with open_text(path) as stream:
            for number, line in enumerate(stream, start=1):
                if broken := broken_text(line):
                    raise _broken(path, number, broken)
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _broken(path, number + 1, f"cannot be read on from here: {error}") from error


def _grade(path: Path, row: _Judged) -> float:
    if not _is_number(row.grade):
        raise _broken(path, row.line, f"grade must be a number, found {row.grade[:40]!r}")
    return float(row.grade)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _broken(path: Path, line: int, finding: str) -> JudgmentsError:
    return JudgmentsError(f"{path}:{line}: {finding}", next_step="mend the line; formats are in docs/gram-toml.md")
