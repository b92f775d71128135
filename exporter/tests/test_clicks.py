"""UBI click logs: joining, counting, position bias, and what is left out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gram_exporter.clicks import GAINS, PRIOR_CLICKS, ClickedProduct, ClickLog, read_clicks
from gram_plugin.errors import JudgmentsError


def query(query_id: str, text: str | None, hit_ids: list[Any] | None = None) -> dict[str, Any]:
    """A document of ubi_queries."""
    return {"query_id": query_id, "user_query": text, "query_response_hit_ids": hit_ids or []}


def event(query_id: str, action: str, product: Any, ordinal: int | None = None, **more: Any) -> dict[str, Any]:
    """A document of ubi_events."""
    attributes = {"object": {"object_id": product, "object_id_field": "id"}, "position": {"ordinal": ordinal}}
    return {"query_id": query_id, "action_name": action, "event_attributes": attributes, **more}


def read(folder: Path, queries: list[dict[str, Any]], events: list[dict[str, Any]]) -> ClickLog:
    """Writes both files and reads them."""
    paths = folder / "ubi_queries.ndjson", folder / "ubi_events.ndjson"
    for path, documents in zip(paths, (queries, events), strict=True):
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return read_clicks(*paths)


def counts(log: ClickLog) -> dict[str, tuple[int, int, int]]:
    """Impressions, clicks and passes of each product."""
    return {p.product_id: (p.impressions, p.clicks, p.passed_over) for p in log.products}


def test_a_page_is_counted_once_for_each_product(tmp_path: Path) -> None:
    """Repeated actions on one page count once, as the strongest; products above a click are passed over."""
    queries = [query("q1", " red  sofa "), query("q2", "red sofa")]
    shown = [event(q, "impression", p, at) for q in ("q1", "q2") for at, p in enumerate("abcd")]
    actions = [
        event("q1", "click", "c", 2),
        event("q1", "click", "c", 2),
        event("q1", "add-to-cart", "c"),
        event("q1", "purchase", "c"),
        event("q2", "click", "b", 1),
    ]
    log = read(tmp_path, queries, [*shown, *actions])
    rates = {at: (clicks + 10 * 2 / 8) / 12 for at, clicks in enumerate([0, 1, 1, 0])}
    assert log == ClickLog(
        (
            ClickedProduct("red sofa", "a", 2, 0, 0.0, 2),
            ClickedProduct("red sofa", "b", 2, 1, (GAINS["click"] + 1) / (2 * rates[1] + 1), 1),
            ClickedProduct("red sofa", "c", 2, 1, (GAINS["purchase"] + 1) / (2 * rates[2] + 1), 0),
            ClickedProduct("red sofa", "d", 2, 0, 0.0, 0),
        ),
        {},
    )


def test_position_bias_is_taken_out(tmp_path: Path) -> None:
    """Two products that shoppers like equally get equal weights, although one is always shown first."""
    rng = random.Random(0)
    seen = [0.9, 0.5, 0.3, 0.2]
    appeal = {"best": 0.5, "equal": 0.5, "poor": 0.1, "other": 0.1}
    pages = {
        "sofa": ["best", "poor", "other", "equal"],
        **{f"query {n}": rng.sample(list(appeal), 4) for n in range(9)},
    }
    queries, events = [], []
    for n, (text, page) in enumerate(list(pages.items()) * 200):
        queries.append(query(f"q{n}", text))
        for at, product in enumerate(page):
            events.append(event(f"q{n}", "impression", product, at))
            if rng.random() < seen[at] * appeal[product]:
                events.append(event(f"q{n}", "click", product, at))
    found = {p.product_id: p for p in read(tmp_path, queries, events).products if p.query == "sofa"}
    assert found["best"].clicks > 3 * found["equal"].clicks
    assert found["equal"].weight == pytest.approx(found["best"].weight, rel=0.35)
    assert found["equal"].weight > 2 * found["poor"].weight


@pytest.mark.parametrize("first", [0, 1])
def test_response_ids_stand_for_impressions(tmp_path: Path, first: int) -> None:
    """Without impression events the ids of the response are what was shown, in the log's own counting."""
    queries = [query("q1", "sofa", [1, 2, 3]), query("q2", "sofa", [1, 2, 3])]
    log = read(tmp_path, queries, [event("q1", "click", 2, first + 1), event("q2", "click", "1", first)])
    assert counts(log) == {"2": (2, 1, 0), "1": (2, 1, 1), "3": (2, 0, 0)}
    assert log.ignored == {}


def test_engine_internal_response_ids_are_not_products(tmp_path: Path) -> None:
    """Response ids among which no click is found are internal numbers; they are counted and not used."""
    queries = [query("q1", "sofa", [17, 23, 4])]
    log = read(tmp_path, queries, [event("q1", "click", "sku-2", 0)])
    assert counts(log) == {"sku-2": (1, 1, 0)}
    assert log.ignored == {"response ids that are no product ids": 3}


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    """Unknown actions, foreign query ids and events without a product are counted, never a failure."""
    events = [
        event("q1", "click", "a", 0),
        event("q1", "hover", "a", 0),
        event("q9", "click", "a", 0),
        event("q1", "click", None),
        {"query_id": "q1", "action_name": "click"},
        event("q2", "click", "a", "first"),  # type: ignore[arg-type]
        event("q3", "click", "a", 0, user_query="bed"),
    ]
    log = read(tmp_path, [query("q1", "sofa"), query("q2", None)], events)
    assert counts(log) == {"a": (1, 1, 0)}
    assert [product.query for product in log.products] == ["sofa", "bed"]
    assert log.ignored == {
        "action hover": 1,
        "events of an unknown query_id": 1,
        "events without object_id": 2,
        "searches without text": 1,
    }


def test_hits_and_bulk_bodies_in_one_file(tmp_path: Path) -> None:
    """A bulk body with both kinds, and exported hits, are read as well as bare documents."""
    path = tmp_path / "ubi.ndjson"
    documents = [
        {"index": {"_index": "ubi_queries"}},
        query("q1", "sofa"),
        {"create": {}},
        event("q1", "click", 7, 0),
        {"_index": "ubi_events", "_source": event("q1", "impression", 8, 1)},
    ]
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    assert counts(read_clicks(path, path)) == {"7": (1, 1, 0), "8": (1, 0, 0)}


def test_one_lucky_click_far_down_is_bounded(tmp_path: Path) -> None:
    """The prior keeps the weight of a single click below twice a click's worth."""
    queries = [query(f"q{n}", "sofa") for n in range(300)]
    events = [event(f"q{n}", "impression", f"p{at}", at) for n in range(300) for at in range(3)]
    events += [event(f"q{n}", "click", "p0", 0) for n in range(200)]
    events += [event("q0", "impression", "deep", 9), event("q0", "click", "deep", 9)]
    deep = next(p for p in read(tmp_path, queries, events).products if p.product_id == "deep")
    assert 1.0 < deep.weight < 1.0 + PRIOR_CLICKS


@pytest.mark.parametrize(
    ("queries", "events", "finding"),
    [
        (
            [query("q1", "sofa")],
            [event("q2", "click", "a", 0)],
            "no click of .* unknown query_id': 1",
        ),
        ([query("q1", "sofa")], [event("q1", "impression", "a", 0)], "no click of"),
        ([], [event("q1", "click", "a", 0)], "ubi_queries.ndjson:1: holds no record"),
    ],
)
def test_log_without_a_usable_click(
    tmp_path: Path, queries: list[dict[str, Any]], events: list[dict[str, Any]], finding: str
) -> None:
    """A log from which nothing can be learned is an error that says why."""
    with pytest.raises(JudgmentsError, match=finding):
        read(tmp_path, queries, events)
