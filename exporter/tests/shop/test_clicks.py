"""Tests of the click log: User Behavior Insights records of train queries alone, biased by position and noisy."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from gram_exporter.shop import LABEL, Shop
from gram_exporter.shop.clicks import PAGE_SIZE, Search, simulate_log


@pytest.fixture(scope="module")
def log(shop: Shop) -> list[Search]:
    """The demo's click log."""
    return list(simulate_log(shop))


def _seen(log: list[Search], action: str) -> Counter[int]:
    return Counter(
        event["event_attributes"]["position"]["ordinal"]
        for search in log
        for event in search.events
        if event["action_name"] == action and event["event_attributes"]["position"]["trail"] == "search"
    )


def test_every_train_query_is_asked_and_no_other(shop: Shop, log: list[Search]) -> None:
    """The log holds each train query at least once, and nothing of dev and test."""
    asked = {search.query["user_query"] for search in log}
    assert asked == {query.text for query in shop.queries["train"]}


def test_popular_queries_come_often_and_most_come_rarely(log: list[Search]) -> None:
    """The busiest tenth of the queries makes at least a quarter of the searches."""
    times = sorted(Counter(search.query["user_query"] for search in log).values(), reverse=True)
    assert sum(times[: len(times) // 10]) > sum(times) / 4
    assert times[len(times) // 2] <= 5


def test_a_search_is_written_as_user_behavior_insights(log: list[Search]) -> None:
    """A query record and an event have exactly the fields of the specification that we fill."""
    search = next(search for search in log if search.events)
    assert set(search.query) == {
        "application", "query_id", "client_id", "user_query", "query_response_id",
        "query_response_hit_ids", "query_attributes", "timestamp",
    }  # fmt: skip
    event = search.events[0]
    assert set(event) == {
        "action_name", "application", "query_id", "client_id", "user_query", "timestamp", "event_attributes",
    }  # fmt: skip
    assert event["event_attributes"]["object"] == {
        "object_id": event["event_attributes"]["object"]["object_id"],
        "object_id_field": "id",
    }
    assert {search.query["application"], event["application"]} == {LABEL}


def test_events_join_their_query_and_keep_its_time(log: list[Search]) -> None:
    """Events carry the id, the client and the text of their search, and follow it in time."""
    for search in log:
        head = [search.query[name] for name in ("query_id", "client_id", "user_query")]
        assert all([event[name] for name in ("query_id", "client_id", "user_query")] == head for event in search.events)
        stamps = [search.query["timestamp"], *(event["timestamp"] for event in search.events)]
        assert stamps == sorted(stamps)
    assert len({search.query["query_id"] for search in log}) == len(log)


def test_ordinals_count_from_zero_in_the_response(log: list[Search]) -> None:
    """An event of the result page names the product that stood at its ordinal."""
    for search in log:
        hits = search.query["query_response_hit_ids"]
        assert len(hits) <= PAGE_SIZE
        for event in search.events:
            place = event["event_attributes"]["position"]
            if place["trail"] == "search":
                assert hits[place["ordinal"]] == event["event_attributes"]["object"]["object_id"]
            else:
                assert place["ordinal"] >= len(hits)


def test_what_is_clicked_was_seen(log: list[Search]) -> None:
    """Each click follows an impression of the same product in the same search."""
    for search in log:
        seen: set[str] = set()
        for event in search.events:
            if event["action_name"] == "impression":
                seen.add(event["event_attributes"]["object"]["object_id"])
            assert event["event_attributes"]["object"]["object_id"] in seen


def test_lower_positions_are_clicked_less(log: list[Search]) -> None:
    """Clicks by impression fall from the first to the fourth to the eighth to the last slot."""
    seen, clicked = _seen(log, "impression"), _seen(log, "click")
    rates = [clicked[ordinal] / seen[ordinal] for ordinal in (0, 3, 7, 11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 3 * rates[2]


def test_clicks_are_noisy_but_lean_to_what_fits(shop: Shop, log: list[Search]) -> None:
    """Some clicks are on products of grade 0; the higher the grade, the likelier a click."""
    families = {query.text: query.family for query in shop.queries["train"]}
    seen: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for search in log:
        grades = shop.grades[families[search.query["user_query"]]]
        for event in search.events:
            identifier = event["event_attributes"]["object"]["object_id"]
            seen[grades.get(identifier, 0)][event["action_name"]] += 1
    rates = [seen[grade]["click"] / seen[grade]["impression"] for grade in range(4)]
    assert 0.005 < rates[0] < rates[1] < rates[2] < rates[3]


def test_most_train_queries_have_a_click_to_learn_from(shop: Shop, log: list[Search]) -> None:
    """Nine train queries in ten were followed by a click, some by way of the menu."""
    clicked = {search.query["user_query"] for search in log if any(e["action_name"] == "click" for e in search.events)}
    assert 0.85 < len(clicked) / len(shop.queries["train"]) < 1
    trails = Counter(e["event_attributes"]["position"]["trail"] for search in log for e in search.events)
    assert 0 < trails["menu"] < trails["search"]
