"""Single queries for people to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from opensearchpy import OpenSearch

from gram_exporter.arms import Arm
from gram_exporter.evaluate import QUALITY_BUDGET_MS, Outcome, Timed
from gram_exporter.report import ShownProduct, SideBySide
from gram_exporter.showing import SHOWN, Showing, telling_queries
from gram_plugin.contract.codes import MAX_CODES, Code, Role, ScoredCode
from gram_plugin.search.query import Mode


@dataclass
class FakeClient:
    """Answers every search with the same hits."""

    hits: Sequence[Mapping[str, Any]]
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None = None

    @property
    def transport(self) -> Any:
        """A connection that is the client itself."""
        return SimpleNamespace(hosts=[{"host": "fake"}], get_connection=lambda: self)

    def perform_request(self, method: str, url: str, *, body: bytes, headers: object) -> tuple[int, Any, str]:
        """As the client's connections do it."""
        self.body = json.loads(body)
        return 200, self.headers, json.dumps({"hits": {"hits": self.hits}})


class FakeGenerator:
    """Two codes for every text, whatever the limit."""

    generation = "g1"

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As the protocol says."""
        codes = [ScoredCode(Code.parse("type=sofa"), 0.9), ScoredCode(Code.parse("colour=grey"), 0.256)]
        return [codes for _ in texts]


def _showing(without: FakeClient, with_codes: FakeClient) -> Showing:
    return Showing(
        Arm("BM25", cast(OpenSearch, without)),
        Arm("recall", cast(OpenSearch, with_codes), Mode.RECALL),
        "shop",
        lambda text: {"match": {"title": text}},
        {"grey couch": {"a": 3.0}},
        "title",
        FakeGenerator(),
    )


def test_pages_stand_side_by_side_with_the_codes_that_matched() -> None:
    """Titles, grades and the clause's codes are shown; an owner's own named query is none, a slash is no separator."""
    without = FakeClient([{"_id": "x"}], {})
    hit = {"_id": "a", "_source": {"title": "Sofa"}, "matched_queries": ["gram:size=1/2", "campaign", "other:gram:x"]}
    found = _showing(without, FakeClient([hit], {"x-gram-status": "applied"})).side_by_side("grey couch", "why")
    assert found == SideBySide(
        "grey couch",
        "why",
        ("type=sofa 0.90", "colour=grey 0.26"),
        (ShownProduct("x", 0.0),),
        (ShownProduct("Sofa", 3.0, ("size=1/2",)),),
    )


def test_only_the_shim_is_told_of_codes() -> None:
    """The direct search is plain, that through the shim names text, mode and budget."""
    without, shim = FakeClient([], {}), FakeClient([], {"x-gram-status": "applied"})
    _showing(without, shim).side_by_side("unjudged query", "why")
    plain = {"query": {"match": {"title": "unjudged query"}}, "size": SHOWN, "_source": ["title"]}
    wish = {"query": "unjudged query", "mode": "recall", "budget_ms": QUALITY_BUDGET_MS}
    assert (without.body, shim.body) == (plain, {**plain, "ext": {"gram": wish}})


def _outcome(*ndcg: float) -> Outcome:
    run: dict[str, list[str]] = {f"q{at}": [] for at in range(len(ndcg))}
    return Outcome("x", run, {"nDCG@10": np.array(ndcg)}, {}, Timed(np.zeros(0), {}))


def test_telling_queries_are_best_typical_and_worst() -> None:
    """Chosen by the gain in nDCG@10, which the caption states."""
    found = telling_queries(_outcome(0.5, 0.5, 0.5, 0.5, 0.5), _outcome(0.6, 1.0, 0.2, 0.5, 0.55))
    assert found == [
        ("q1", "most gained: nDCG@10 +0.50"),
        ("q4", "typical: nDCG@10 +0.05"),
        ("q2", "most lost: nDCG@10 -0.30"),
    ]


def test_a_query_is_shown_once() -> None:
    """With fewer than three queries none is repeated."""
    assert telling_queries(_outcome(0.0), _outcome(1.0)) == [("q0", "most gained: nDCG@10 +1.00")]
    assert [query for query, _ in telling_queries(_outcome(0.0, 0.0), _outcome(1.0, 0.0))] == ["q0", "q1"]
