"""BM25 and cosines put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opensearchpy import OpenSearch

from gram_exporter.rivals.dense import POOL, Dense, Fusion, Hits, Scale, fused, nearest
from gram_exporter.rivals.encoder import SentenceEncoder
from gram_exporter.rivals.vectors import Catalogue
from gram_plugin.errors import SearchError

IDS = ("a", "b", "c", "d")
VECTORS = np.eye(4, dtype=np.float32)


def hits_of(scores: Mapping[int, float]) -> Hits:
    """Hits by row, in the order given."""
    return Hits(np.array(list(scores), np.int32), np.array(list(scores.values()), np.float32))


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), max_size=30), st.integers(0, 40))
def test_the_nearest_are_those_of_a_whole_sort(cosines: list[float], count: int) -> None:
    """Greatest first, of equals the first, as many as there are."""
    expected = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:count]
    assert nearest(np.array(cosines, np.float32), count).tolist() == expected


@pytest.mark.parametrize(
    ("fusion", "order"),
    [
        (Fusion(Scale.QUERY, 1.0), [0, 3, 2, 1]),  # 1.0+0.2, 0.0+0.9, 0.5+0.1, 0.0+0.0
        (Fusion(Scale.QUERY, 2.0), [3, 0, 2, 1]),
        (Fusion(Scale.INDEX, 2.0, points=2.0), [0, 2, 3, 1]),  # 5+0.4, 2.5+0.2, 0+1.8, 0+0
    ],
)
def test_scores_are_added_over_the_union(fusion: Fusion, order: list[int]) -> None:
    """BM25 over its scale plus weight times cosine; what BM25 did not find has BM25 0."""
    cosines = np.array([0.2, 0.0, 0.1, 0.9], np.float32)
    assert fused(hits_of({0: 10.0, 2: 5.0}), cosines, fusion, 10) == order
    assert fused(hits_of({0: 10.0, 2: 5.0}), cosines, fusion, 2) == order[:2]


def test_a_query_without_lexical_hits_is_ranked_by_cosine() -> None:
    """Nothing is divided by nothing."""
    cosines = np.array([0.2, 0.0, 0.1, 0.9], np.float32)
    assert [fused(hits_of({}), cosines, Fusion(scale, 1.0), 2) for scale in Scale] == [[3, 0], [3, 0]]


@dataclass(frozen=True)
class FakeEncoder:
    """Knows the vectors of texts."""

    known: Mapping[str, Sequence[float]]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """As an encoder does."""
        return np.array([self.known[text] for text in texts], np.float32)


@dataclass(frozen=True)
class FakeClient:
    """Answers a multi-search by the query's text: ids and scores, or a whole answer."""

    table: Mapping[str, Any]

    @property
    def transport(self) -> Any:
        """The address."""
        return SimpleNamespace(hosts=[{"host": "fake", "port": 9}])

    def msearch(self, *, body: Sequence[Mapping[str, Any]], index: str) -> dict[str, Any]:
        """Every second line is a search of the first 1000 hits, without their documents."""
        assert all((one["size"], one["_source"]) == (POOL, False) for one in body[1::2])
        return {"responses": [self._answer(one["query"]["match"]) for one in body[1::2]]}

    def _answer(self, text: str) -> dict[str, Any]:
        found = self.table.get(text, {})
        if "error" in found or "_shards" in found:
            return dict(found)
        return {"hits": {"hits": [{"_id": key, "_score": score} for key, score in found.items()]}}


def dense_of(table: Mapping[str, Any], known: Mapping[str, Sequence[float]]) -> Dense:
    """Four products whose vectors are the axes."""
    return Dense(
        cast(OpenSearch, FakeClient(table)),
        "shop",
        lambda text: {"match": text},
        cast(SentenceEncoder, FakeEncoder(known)),
        Catalogue(IDS, VECTORS),
        lambda *_: None,
        "MiniLM",
    )


def test_both_rankings_of_every_query() -> None:
    """The fused one and the purely dense one, to the depth asked for; queries are encoded as they are rendered."""
    dense = dense_of({"Sofa": {"b": 2.0}, "lamp": {}}, {"sofa": (0.0, 0.1, 0.2, 0.9), "lamp": (0.5, 0.4, 0.0, 0.0)})
    assert dense.runs(["Sofa", "lamp"], None, 2) == {
        "BM25 + MiniLM": {"Sofa": ["b", "d"], "lamp": ["a", "b"]},
        "MiniLM alone": {"Sofa": ["d", "c"], "lamp": ["a", "b"]},
    }


def test_the_weight_is_chosen_on_development_queries() -> None:
    """Where BM25 is right a small weight does best, where the encoder is right a great one."""
    table = {"sofa": {"a": 2.0, "b": 1.9}}
    known = {"sofa": (0.1, 0.9, 0.0, 0.0)}
    weights = [
        dense_of(table, known).tune({"sofa": {wanted: 1.0}}).weight * 0.8  # cosine's lead of b
        for wanted in ("a", "b")
    ]
    assert weights[0] < 0.05 < weights[1]  # BM25's lead of a, by the query as by the index


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": {"reason": "no such field"}}, "no such field"),
        ({"_shards": {"failed": 1}, "hits": {"hits": []}}, "failed: in part"),
        ({"new": 1.0}, "'new' is new"),
    ],
)
def test_searches_that_fail_are_told(answer: Mapping[str, Any], words: str) -> None:
    """Refused, answered in part, or with a product that was written in the meantime."""
    with pytest.raises(SearchError, match=words):
        dense_of({"sofa": answer}, {"sofa": (1.0, 0.0, 0.0, 0.0)}).runs(["sofa"], None, 2)
