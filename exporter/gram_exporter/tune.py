"""What is chosen on development judgments, which no test reads: the lexical query and the strength of codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opensearchpy import OpenSearch

from gram_exporter.config import SearchConfig
from gram_exporter.lexical import FURTHER_FORMS, Lexical, first_forms, further_forms, lexical_query
from gram_exporter.measures import Judgments, Run, graded, require_measured
from gram_plugin.contract.codes import Generator, Role, ScoredCode
from gram_plugin.contract.text import render_query
from gram_plugin.errors import JudgmentsError, SearchError
from gram_plugin.progress import Progress
from gram_plugin.search.client import asking, url_of
from gram_plugin.search.query import ClauseSettings, Mode, enrich

STRENGTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0)
MAX_QUERIES = 300
DEPTH = 100
_BATCH = 20


@dataclass(frozen=True)
class Tuned:
    """The best strength, and nDCG@10 + R@100 (halved) of every strength tried, 0 being the lexical query alone."""

    strength: float
    scores: Mapping[float, float]


def tune_lexical(
    client: OpenSearch,
    index: str,
    text_fields: Sequence[str],
    other_fields: Sequence[str],
    judgments: Judgments,
    *,
    own: SearchConfig | None = None,
    progress: Progress | None = None,
) -> SearchConfig:
    """The best of the usual lexical queries over an index: the baseline that codes must beat.

    Tried are the owner's own form, multi_match types and title boosts, then for the best of them a fuzzy companion and
    all words instead of any (see `lexical`), by the mean of nDCG@10 and R@100.

    Args:
        client: OpenSearch with the index.
        index: index or alias.
        text_fields: searchable texts, the title first.
        other_fields: searchable attribute fields.
        judgments: development judgments; the first 300 queries with a relevant product are used.
        own: the owner's form, whose boosts and fields the others keep.
        progress: told of every query form.

    Raises:
        JudgmentsError: no query has a relevant product, or none of those is found.
        SearchError: a search was refused.
    """
    queries = development_queries(judgments)
    report = progress or (lambda _stage, _done, _total: None)
    scores: dict[SearchConfig, float] = {}
    first = first_forms(text_fields, other_fields, own)

    def best_with(forms: Sequence[SearchConfig]) -> SearchConfig:
        for form in forms:
            scores[form] = score_lexical(client, index, lexical_query(form), judgments, queries)
            report("tune BM25", len(scores), len(first) + FURTHER_FORMS)
        _check_found(scores.values(), index)
        return max(scores, key=lambda form: scores[form])

    return best_with(further_forms(best_with(first)))


def score_lexical(
    client: OpenSearch, index: str, lexical: Lexical, judgments: Judgments, queries: Sequence[str]
) -> float:
    """Mean of nDCG@10 and R@100 of a lexical query, what all tuning goes by.

    Raises:
        SearchError: a search was refused, or answered in part.
    """
    bodies = [_page(lexical(query)) for query in queries]
    return score_run(_ask(client, index, queries, bodies), judgments, queries)


def score_run(run: Run, judgments: Judgments, queries: Sequence[str]) -> float:
    """Mean of nDCG@10 and R@100 over queries, 0 to 1."""
    found = graded(run, judgments, queries)
    return float((found["nDCG@10"].mean() + found["R@100"].mean()) / 2)


def tune_strength(
    client: OpenSearch,
    index: str,
    generator: Generator,
    lexical: Lexical,
    judgments: Judgments,
    *,
    score_scale: float,
    settings: ClauseSettings,
    progress: Progress | None = None,
) -> Tuned:
    """Tries every strength in `recall` mode and keeps the one with the best mean of nDCG@10 and R@100.

    Args:
        client: OpenSearch with the coded index.
        index: index or alias.
        generator: what decodes the queries.
        lexical: makes the query clause for a text.
        judgments: development judgments; the first 300 queries with a relevant product are used.
        score_scale: of the index, in points (see `gram calibrate`).
        settings: all but the strength.
        progress: told of every strength.

    Raises:
        JudgmentsError: no query has a relevant product, or none of those is found.
        SearchError: a search was refused.
    """
    queries = development_queries(judgments)
    report = progress or (lambda _stage, _done, _total: None)
    codes = _decode(generator, queries)
    scores: dict[float, float] = {}
    for at, strength in enumerate((0.0, *STRENGTHS)):
        bodies = [
            _body(lexical(query), codes[query], generator.generation, strength * score_scale, settings)
            for query in queries
        ]
        scores[strength] = score_run(_ask(client, index, queries, bodies), judgments, queries)
        report("tune", at + 1, len(STRENGTHS) + 1)
    _check_found(scores.values(), index)
    return Tuned(max(STRENGTHS, key=lambda strength: scores[strength]), scores)


def development_queries(judgments: Judgments) -> list[str]:
    """The first 300 queries with a relevant product.

    Raises:
        JudgmentsError: there is none.
    """
    return require_measured(judgments)[:MAX_QUERIES]


def _check_found(scores: Iterable[float], index: str) -> None:
    if not any(scores):
        raise JudgmentsError(
            f"no search in {index} found any product that the judgments call relevant",
            next_step="check that docid in the judgments is the _id of the index, and the fields that are searched",
        )


def _page(query: dict[str, Any]) -> dict[str, Any]:
    return {"query": query, "size": DEPTH, "_source": False, "track_total_hits": False}


def _decode(generator: Generator, queries: Sequence[str]) -> dict[str, list[ScoredCode]]:
    texts = [render_query(query) for query in queries]
    found: list[list[ScoredCode]] = []
    for start in range(0, len(texts), _BATCH):
        found += generator.generate(texts[start : start + _BATCH], Role.QUERY)
    return dict(zip(queries, found, strict=True))


def _body(
    query: dict[str, Any], codes: Sequence[ScoredCode], generation: str, points: float, settings: ClauseSettings
) -> dict[str, Any]:
    body = _page(query)
    if points == 0:
        return body
    return enrich(body, codes, generation, replace(settings, strength=points), Mode.RECALL)


def _ask(
    client: OpenSearch, index: str, queries: Sequence[str], bodies: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    run: dict[str, list[str]] = {}
    for start in range(0, len(queries), _BATCH):
        lines = [line for body in bodies[start : start + _BATCH] for line in ({}, body)]
        with asking(client, f"tuning searches of {index}"):
            answers = client.msearch(body=lines, index=index)["responses"]
        for query, answer in zip(queries[start : start + _BATCH], answers, strict=True):
            run[query] = _hits(client, index, answer)
    return run


def _hits(client: OpenSearch, index: str, answer: Mapping[str, Any]) -> list[str]:
    """Ids of one answer; a refused or partial search must not count as one that found nothing."""
    failed = answer.get("_shards", {}).get("failed", 0)
    if "error" in answer or failed or answer.get("timed_out"):
        error = answer.get("error") or {}
        cause = (error.get("root_cause") or [error])[0] if isinstance(error, Mapping) else {"reason": error}
        reason = cause.get("reason") or f"answered in part only, {failed} shards failed"
        raise SearchError(
            f"{url_of(client)}: a search of {index} while tuning failed: {answer.get('status', '')} {reason}"[:500],
            next_step="check the fields of [search] in gram.toml; the log of the node tells more",
        )
    return [hit["_id"] for hit in answer["hits"]["hits"]]
