"""Arms side by side, on clients that answer from a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from fakeclient import Answer, FakeClient, hits
from opensearchpy import OpenSearch

from gram_exporter.arms import BASELINE, DIRECT, Arm
from gram_exporter.evaluate import PAGE, QUALITY_BUDGET_MS, TIMING_BUDGET_MS, Evaluation, Row, evaluate
from gram_exporter.measures import DEPTH, Interval
from gram_plugin.errors import JudgmentsError
from gram_plugin.search.query import Mode

JUDGMENTS = {"sofa": {"a": 1.0, "b": 0.0}, "lamp": {"c": 2.0}, "nothing fits": {"a": 0.0}}
POINT = Interval(0.0, 0.0, 0.0)


def lexical(text: str) -> dict[str, Any]:
    """The query that the fakes find their text in."""
    return {"match": {"title": text}}


def finding(table: Mapping[str, tuple[str, ...]]) -> Answer:
    """Answers by the query's text."""
    return lambda body: hits(*table.get(body["query"]["match"]["title"], ()))


def arm(client: FakeClient, mode: Mode | None = None) -> Arm:
    """An arm of a fake client."""
    return Arm(mode.value if mode else BASELINE, cast(OpenSearch, client), mode)


APPLIED = {"X-Gram-Status": "applied"}


def test_arms_are_measured_query_by_query() -> None:
    """Means, differences to the first arm, families and statuses are those of the answers."""
    direct = FakeClient(finding({"sofa": ("b", "a")}))
    shim = FakeClient(finding({"sofa": ("a", "b"), "lamp": ("c",)}), APPLIED)
    found, outcomes = evaluate(
        [arm(direct), arm(shim, Mode.RECALL)], "shop", lexical, JUDGMENTS, families={"lamp": "head", "other": "x"}
    )
    base, recall = found.rows
    assert (found.queries, base.name, recall.name) == (2, BASELINE, "recall")
    assert (base.measures["R@10"].value, recall.measures["R@10"].value) == (0.5, 1.0)
    assert (base.measures["empty pages"].value, recall.differences["empty pages"].value) == (0.5, -0.5)
    assert (base.statuses, recall.statuses, recall.timed_statuses) == ({DIRECT: 2}, {"applied": 2}, {"applied": 2})
    assert found.families == {"head": {"recall": dict.fromkeys(("nDCG@10", "R@100"), Interval(1.0, 1.0, 1.0))}}
    assert recall.found_of_missed == dict.fromkeys((100, 300), Interval(1.0, 1.0, 1.0))
    assert found.to_json()["family_queries"] == {"head": 1}
    assert [dict(outcome.run) for outcome in outcomes] == [
        {"sofa": ["b", "a"], "lamp": []},
        {"sofa": ["a", "b"], "lamp": ["c"]},
    ]
    assert json.loads(json.dumps(found.to_json()))["rows"][1]["statuses"] == {"applied": 2}


def test_quality_is_asked_before_times() -> None:
    """First the pages of 300 with a generous budget, then those of 10 with that of serving, all with their mode."""
    shim = FakeClient(finding({"sofa": ("a",)}), APPLIED)
    evaluate([arm(shim, Mode.RERANK)], "shop", lexical, JUDGMENTS)
    asked = [(body["size"], body["ext"]["gram"]) for _, body in shim.asked]
    quality = [{"query": q, "mode": "rerank", "budget_ms": QUALITY_BUDGET_MS} for q in ("sofa", "lamp")]
    timing = [{**wish, "budget_ms": TIMING_BUDGET_MS} for wish in quality]
    assert asked == [*((DEPTH, wish) for wish in quality), *((PAGE, wish) for wish in timing)]


def test_arms_take_turns() -> None:
    """Each arm goes first as often as the other, so that a noisy moment favours none."""
    order: list[str] = []

    def noting(name: str) -> Answer:
        return lambda body: (order.append(name) if body["size"] == PAGE else None) or hits("a")

    evaluate([arm(FakeClient(noting("x"))), arm(FakeClient(noting("y")))], "shop", lexical, JUDGMENTS)
    assert order == ["x", "y", "y", "x"]


def test_progress_names_every_stage() -> None:
    """Each arm and the timing are told of, up to the end."""
    told: list[tuple[str, int, int]] = []
    client = FakeClient(finding({"sofa": ("a",)}))
    evaluate([arm(client)], "shop", lexical, JUDGMENTS, progress=lambda *done: told.append(done))
    assert told == [
        (BASELINE, 1, 2),
        (BASELINE, 2, 2),
        ("time", 1, 2),
        ("time", 2, 2),
        ("intervals", 0, 1),
        ("intervals", 1, 1),
    ]


def test_arms_may_have_a_query_and_an_index_of_their_own() -> None:
    """Each is asked as it says; one that is no product is measured and not timed."""
    client = FakeClient(finding({"sofa": ("b",), "couch": ("a",)}))
    other = Arm("other", cast(OpenSearch, client), None, lambda _: lexical("couch"), "copies", benchmark_only=True)
    found, _ = evaluate([arm(client), other], "shop", lexical, {"sofa": {"a": 1.0}})
    assert [(path, body["size"], body["query"]) for path, body in client.asked] == [
        ("/shop/_search", DEPTH, lexical("sofa")),
        ("/copies/_search", DEPTH, lexical("couch")),
        ("/shop/_search", PAGE, lexical("sofa")),
    ]
    assert [(row.benchmark_only, row.median_ms is None, row.timed_statuses) for row in found.rows] == [
        (False, False, {DIRECT: 1}),
        (True, True, {}),
    ]


def test_rankings_from_elsewhere_are_measured_beside_the_arms() -> None:
    """They come last, are marked, and are compared with the baseline like every arm."""
    client = FakeClient(finding({"sofa": ("x",)}))
    rankings = {"dense": {"sofa": ["a"], "lamp": ["c"]}}
    found, _ = evaluate([arm(client)], "shop", lexical, JUDGMENTS, rankings=rankings)
    last = found.rows[-1]
    assert (last.name, last.benchmark_only, last.median_ms, last.statuses) == ("dense", True, None, {DIRECT: 2})
    assert (last.measures["R@10"].value, last.differences["R@300"].value) == (1.0, 1.0)


def test_judgments_that_measure_nothing_are_refused() -> None:
    """No relevant product at all, or none of the judged products in the index."""
    client = FakeClient(finding({"sofa": ("elsewhere",)}))
    with pytest.raises(JudgmentsError, match="no query has a product with a grade above 0"):
        evaluate([arm(client)], "shop", lexical, {"sofa": {"a": 0.0}})
    with pytest.raises(JudgmentsError, match="docid in the judgments is the _id of the index"):
        evaluate([arm(client)], "shop", lexical, JUDGMENTS)


def test_searches_without_codes_are_counted_over_both_passes() -> None:
    """Applied and direct answers are as wished; all others are told of."""
    row = Row("x", {}, {}, {}, POINT, POINT, {"applied": 3, "late": 1}, {"late": 2, DIRECT: 1})
    assert row.unenriched == {"late": 3}
    assert Evaluation(1, (row,), {}).to_json()["rows"][0]["timed_statuses"] == {"late": 2, DIRECT: 1}
