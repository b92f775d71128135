"""BM25 with a dense encoder beside it: exact cosines over the whole index, added to the lexical score.

What a careful user would run instead of codes. Nothing here is approximate, so no vector index can do better with
the same encoder; it is no deployable product, only the best that one could be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from opensearchpy import OpenSearch

from gram_exporter.lexical import Lexical
from gram_exporter.measures import Judgments, Run
from gram_exporter.rivals.encoder import SentenceEncoder
from gram_exporter.rivals.vectors import Catalogue
from gram_exporter.tune import development_queries, score_run
from gram_plugin.contract.text import render_query
from gram_plugin.errors import SearchError
from gram_plugin.progress import Progress
from gram_plugin.search.client import asking, url_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

POOL = 1000
"""Hits of each side that are put together."""
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0, 8.0)
_BATCH = 20


class Scale(StrEnum):
    """What a lexical score is divided by before a cosine is added."""

    QUERY = "best score of the query"
    INDEX = "median best score of the index"


@dataclass(frozen=True)
class Fusion:
    """score = BM25 / scale + weight · cosine; `points` is the scale of the index, > 0."""

    scale: Scale
    weight: float
    points: float = 1.0


@dataclass(frozen=True)
class Hits:
    """Lexical hits of one query, best first: `rows` of the catalogue, int32, and `scores`, float32, both (hits,)."""

    rows: Ints
    scores: Floats


def fused(hits: Hits, cosines: Floats, fusion: Fusion, depth: int) -> list[int]:
    """Rows of the catalogue by the sum of both scores, best first, of equals the first.

    Candidates are the lexical hits and as many of the nearest; one that is no lexical hit has BM25 0.

    Args:
        hits: the lexical hits.
        cosines: of the query with every product, float32, shape (products,).
        fusion: how the scores are added.
        depth: how many rows.
    """
    scale = fusion.points if fusion.scale is Scale.INDEX else float(hits.scores.max(initial=0.0))
    rows = np.union1d(hits.rows, nearest(cosines, POOL))  # (candidates,), sorted
    lexical = np.zeros(len(rows), np.float32)
    lexical[np.searchsorted(rows, hits.rows)] = hits.scores / (scale or 1.0)
    scores = lexical + np.float32(fusion.weight) * cosines[rows]
    return [int(row) for row in rows[np.argsort(-scores, kind="stable")[:depth]]]


def nearest(cosines: Floats, count: int) -> Ints:
    """Rows of the greatest cosines, greatest first, of equals the first."""
    count = min(count, len(cosines))
    if not count:
        return np.empty(0, np.int32)
    edge = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
    rows = np.flatnonzero(cosines >= edge)
    return rows[np.argsort(-cosines[rows], kind="stable")[:count]].astype(np.int32)


@dataclass(frozen=True)
class Dense:
    """An index with the vectors of its products; `name` is that of the encoder in the tables."""

    client: OpenSearch
    index: str
    lexical: Lexical
    encoder: SentenceEncoder
    catalogue: Catalogue
    progress: Progress
    name: str

    def runs(self, queries: Sequence[str], development: Judgments | None, depth: int) -> dict[str, Run]:
        """Rankings of the fused and of the purely dense arm, by their names.

        Args:
            queries: texts.
            development: judgments to choose the fusion by, none of them of `queries`; `DEFAULT` if None.
            depth: hits of each query.

        Raises:
            SearchError: a search was refused, or found products that the catalogue has not.
        """
        fusion = DEFAULT if development is None else self.tune(development)
        hits, cosines = self._hits(queries, f"BM25 for {self.name}"), self._queries(queries)
        ids, vectors = self.catalogue.ids, self.catalogue.vectors
        both, alone = dict[str, list[str]](), dict[str, list[str]]()
        for text, own, query in zip(queries, hits, cosines, strict=True):
            near = vectors @ query  # (products,)
            both[text] = [ids[row] for row in fused(own, near, fusion, depth)]
            alone[text] = [ids[row] for row in nearest(near, depth)]
        return {f"BM25 + {self.name}": both, f"{self.name} alone": alone}

    def tune(self, development: Judgments) -> Fusion:
        """The scale and weight with the best mean of nDCG@10 and R@100 on development judgments.

        Raises:
            JudgmentsError: no query has a relevant product.
        """
        texts = development_queries(development)
        hits, queries = self._hits(texts, f"tune {self.name}"), self._queries(texts)
        points = float(np.median([own.scores.max(initial=0.0) for own in hits])) or 1.0
        near = [self.catalogue.vectors @ query for query in queries]
        tried = [Fusion(scale, weight, points) for scale in Scale for weight in WEIGHTS]
        return max(tried, key=lambda fusion: self._score(fusion, texts, hits, near, development))

    def _score(
        self, fusion: Fusion, texts: Sequence[str], hits: Sequence[Hits], near: Sequence[Floats], judged: Judgments
    ) -> float:
        ids = self.catalogue.ids
        run = {
            text: [ids[row] for row in fused(own, cosines, fusion, 100)]
            for text, own, cosines in zip(texts, hits, near, strict=True)
        }
        return score_run(run, judged, texts)

    def _queries(self, texts: Sequence[str]) -> Floats:
        return self.encoder.encode([render_query(text) for text in texts])

    def _hits(self, queries: Sequence[str], stage: str) -> list[Hits]:
        row_of = {key: row for row, key in enumerate(self.catalogue.ids)}
        found: list[Hits] = []
        for start in range(0, len(queries), _BATCH):
            lines = [line for text in queries[start : start + _BATCH] for line in ({}, _body(self.lexical(text)))]
            with asking(self.client, f"searching {self.index}"):
                answers = self.client.msearch(body=lines, index=self.index)["responses"]
            found += [self._read(answer, row_of) for answer in answers]
            self.progress(stage, len(found), len(queries))
        return found

    def _read(self, answer: Mapping[str, Any], row_of: Mapping[str, int]) -> Hits:
        if "error" in answer or answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
            raise SearchError(
                f"{url_of(self.client)}: a search of {self.index} failed: {str(answer.get('error', 'in part'))[:300]}",
                next_step="check the fields of [search] in gram.toml; the log of the node tells more",
            )
        hits = answer["hits"]["hits"]
        rows = [row_of.get(hit["_id"], -1) for hit in hits]
        if -1 in rows:
            raise SearchError(
                f"{self.index} changed while its products were read: {hits[rows.index(-1)]['_id']!r} is new",
                next_step="run it again when nobody writes to the index",
            )
        return Hits(np.array(rows, np.int32), np.array([hit["_score"] for hit in hits], np.float32))


DEFAULT = Fusion(Scale.QUERY, 1.0)
"""Without development judgments: a perfect cosine counts as much as the best lexical score. Development queries of the
sample shop chose 2.5, those of a film catalogue 0.75."""


def _body(query: Mapping[str, Any]) -> dict[str, Any]:
    return {"query": dict(query), "size": POOL, "_source": False, "track_total_hits": False}
