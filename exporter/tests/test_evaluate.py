"""Arms side by side, on clients that answer from a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as LostError
from opensearchpy.exceptions import TransportError

from gram_exporter.arms import BASELINE, DIRECT, Arm, ArmName, arms_of, ask, check_arms, search_body
from gram_exporter.evaluate import PAGE, QUALITY_BUDGET_MS, TIMING_BUDGET_MS, Evaluation, Row, evaluate
from gram_exporter.measures import DEPTH, Interval
from gram_plugin.errors import ConfigError, JudgmentsError, SearchError
from gram_plugin.search.query import Mode

JUDGMENTS = {"sofa": {"a": 1.0, "b": 0.0}, "lamp": {"c": 2.0}, "nothing fits": {"a": 0.0}}
POINT = Interval(0.0, 0.0, 0.0)

Answer = Callable[[Mapping[str, Any]], str]


def hits(*ids: str, **more: Any) -> str:
    """An answer of OpenSearch as text."""
    return json.dumps({"hits": {"hits": [{"_id": one} for one in ids]}, **more})


def lexical(text: str) -> dict[str, Any]:
    """The query that the fakes find their text in."""
    return {"match": {"title": text}}


@dataclass
class FakeClient:
    """Has what `ask` uses of a client: `.transport.get_connection().perform_request`, and its address."""

    answer: Answer
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def transport(self) -> Any:
        """Hosts and a connection."""
        return SimpleNamespace(hosts=[{"host": "fake", "port": 9}], get_connection=lambda: self)

    def perform_request(self, method: str, url: str, *, body: bytes, headers: object) -> tuple[int, Any, str]:
        """As the client's connections do it."""
        self.asked.append((url, json.loads(body)))
        return 200, self.headers, self.answer(self.asked[-1][1])


def finding(table: Mapping[str, tuple[str, ...]]) -> Answer:
    """Answers by the query's text."""
    return lambda body: hits(*table.get(body["query"]["match"]["title"], ()))


def arm(client: FakeClient, mode: Mode | None = None) -> Arm:
    """An arm of a fake client."""
    return Arm(mode.value if mode else BASELINE, cast(OpenSearch, client), mode)


def refusing(error: Exception) -> Answer:
    """Raises whatever is asked."""

    def answer(_: object) -> str:
        raise error

    return answer


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


@pytest.mark.parametrize(
    ("index", "path"),
    [
        ("shop", "/shop/_search"),
        ("a,b*,-c", "/a,b*,-c/_search"),
        ("<shop-{now/d}>", "/%3Cshop-%7Bnow%2Fd%7D%3E/_search"),
        ("../x?y#z", "/..%2Fx%3Fy%23z/_search"),
        ("über shop", "/%C3%BCber%20shop/_search"),
    ],
)
def test_the_name_of_an_index_stays_one_part_of_the_path(index: str, path: str) -> None:
    """Lists and wildcards work; every other character that means something in a URL is quoted."""
    client = FakeClient(lambda _: hits())
    ask(arm(client), index, {})
    assert client.asked[0][0] == path


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LostError("N/A", "refused", None), "check that OpenSearch runs at http://fake:9"),
        (TransportError(502, "bad gateway", {}), "502 bad gateway"),
    ],
)
def test_an_arm_that_fails_is_named(error: Exception, words: str) -> None:
    """A server that is gone, or a shim that answers 502, ends the evaluation with its address and status."""
    with pytest.raises(SearchError, match="http://fake:9: searching shop failed") as raised:
        ask(arm(FakeClient(refusing(error))), "shop", {})
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "text", ["<html>", "[]", "{}", "null", '{"hits": 3}', hits(timed_out=True), hits(_shards={"failed": 1})]
)
def test_only_a_whole_answer_counts(text: str) -> None:
    """What is no search answer, or one of a part of the index, is an error and not an empty page."""
    with pytest.raises(SearchError, match="http://fake:9"):
        ask(arm(FakeClient(lambda _: text)), "shop", {})


def test_a_shim_must_be_one() -> None:
    """An answer without x-gram-status where a mode was asked for comes from something else."""
    client = FakeClient(lambda _: hits("a"))
    with pytest.raises(SearchError, match="http://fake:9 is no gram shim"):
        ask(arm(client, Mode.RERANK), "shop", {})
    assert ask(arm(client), "shop", {})[1] == DIRECT


def test_searches_without_codes_are_counted_over_both_passes() -> None:
    """Applied and direct answers are as wished; all others are told of."""
    row = Row("x", {}, {}, {}, POINT, POINT, {"applied": 3, "late": 1}, {"late": 2, DIRECT: 1})
    assert row.unenriched == {"late": 3}
    assert Evaluation(1, (row,), {}).to_json()["rows"][0]["timed_statuses"] == {"late": 2, DIRECT: 1}


def test_bodies_say_to_the_shim_what_they_want() -> None:
    """A direct search has no extension, which OpenSearch may not know."""
    assert search_body({"match_all": {}}, "sofa", None, 5, 1.0) == {
        "query": {"match_all": {}},
        "size": 5,
        "_source": False,
    }
    assert search_body({}, "sofa", Mode.RESCUE, 5, 1.0)["ext"] == {
        "gram": {"query": "sofa", "mode": "rescue", "budget_ms": 1.0}
    }


def test_arms_by_name() -> None:
    """One that is named twice is one arm; the table's order is fixed; an unknown one is refused with the known ones."""
    assert check_arms(["oracle", "recall", "rerank", "recall"]) == [ArmName.RERANK, ArmName.RECALL, ArmName.ORACLE]
    with pytest.raises(ConfigError, match="unknown arm 'best' — use one of rerank, recall, rescue, fuzzy, expansion"):
        check_arms(["best"])
    assert [name.mode for name in (ArmName.RESCUE, ArmName.DENSE)] == [Mode.RESCUE, None]


def test_arms_begin_with_the_baseline() -> None:
    """The first arm asks OpenSearch itself, one more for each mode asks the shim."""
    direct, shim = (cast(OpenSearch, FakeClient(lambda _: "")) for _ in range(2))
    assert arms_of(direct, shim, [Mode.RERANK, Mode.RECALL]) == [
        Arm("BM25", direct),
        Arm("BM25 + codes, rerank", shim, Mode.RERANK),
        Arm("BM25 + codes, recall", shim, Mode.RECALL),
    ]
