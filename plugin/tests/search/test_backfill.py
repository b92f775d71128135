"""The backfill's requests and answers as data, and what makes a product stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.text import TEXT_VERSION, source_hash
from gram_plugin.search.backfill import (
    Current,
    Shard,
    Slice,
    Span,
    State,
    Stored,
    Written,
    copy_lines,
    count_body,
    deletion_line,
    is_same,
    next_size,
    overwriting_lines,
    page_body,
    partial_document,
    read_items,
    shard_count,
    shards_of,
    state_of,
    stored_of,
    update_lines,
    uuids_of,
)

CURRENT = Current("g2", "hash", frozenset({"g2/type=sofa"}), 10)
FRESH = {
    "codes": ["g2/type=sofa", "g2/colour=red"],
    "weights": {"g2/type=sofa": 1.0, "g2/colour=red": 0.5},
    "model": "g2",
    "source": "hash",
    "at": "2026-01-02T00:00:00.000Z",
}
SPAN = Span(Shard("shop", 1, 70), 5, 60)
PRODUCT = Stored("shop", "p1", {"title": "\ud800"}, 7, 2, 3)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"gram": FRESH}, State.FRESH),
        ({"gram": {**FRESH, "weights": [FRESH["weights"]]}}, State.FRESH),
        ({"gram": {key: value for key, value in FRESH.items() if key != "weights"}}, State.FRESH),
        ({"gram": FRESH, "gram.codes": None}, State.FRESH),
        ({}, State.MISSING),
        ({"gram": None}, State.MISSING),
        ({"gram": {}}, State.MISSING),
        ({"gram": "text"}, State.MISSING),
        ({"gram": [FRESH]}, State.MISSING),
        ({"gram": {"model": "pending", "codes": []}}, State.PENDING),
        ({"gram": {**FRESH, "model": "g1"}}, State.GENERATION),
        ({"gram": {**FRESH, "model": ["g2"]}}, State.GENERATION),
        ({"gram": {**FRESH, "source": "other"}}, State.TEXT),
        ({"gram": {**FRESH, "source": None}}, State.TEXT),
        ({"gram": {**FRESH, "source": ["hash"]}}, State.TEXT),
        ({"gram": FRESH, "gram.codes": ["g1/type=x"]}, State.TEXT),
        ({"gram.codes": []}, State.TEXT),
        ({"gram": {**FRESH, "codes": ["g2/colour=red"]}}, State.SURE),
        ({"gram": {**FRESH, "codes": "g2/type=sofa"}}, State.SURE),
        ({"gram": {**FRESH, "weights": {**FRESH["weights"], "g2/colour=red": 1.0}}}, State.SURE),
    ],
)
def test_what_a_gram_object_is_worth(source: Mapping[str, Any], expected: State) -> None:
    """Whatever a client may have put there is judged, and only the one that we would write is fresh."""
    assert state_of(source, CURRENT) is expected


def test_the_hash_of_an_earlier_release_makes_no_product_stale() -> None:
    """A catalogue that it has coded is not coded again for a hash in another form."""
    current = Current("g2", source_hash("sofa", "g2"), frozenset(), 10)
    gram = {**FRESH, "weights": {}, "source": "00" * 16}
    earlier = hashlib.blake2b(f"g2\0{TEXT_VERSION}\0sofa".encode(), digest_size=16).hexdigest()
    assert state_of({"gram": gram}, current) is State.TEXT
    assert state_of({"gram": {**gram, "source": earlier}}, current) is State.FRESH


def test_a_product_that_cannot_be_read_is_never_fresh() -> None:
    """Codes that it has are of a text that it had before."""
    assert state_of({"gram": FRESH}, Current("g2", None, frozenset(), 10)) is State.TEXT


def test_of_more_sure_codes_than_fit_as_many_as_fit_are_enough() -> None:
    """Which of them were kept the model decides."""
    sure = frozenset({"g2/type=sofa", "g2/colour=red", "g2/brand=hp"})
    assert state_of({"gram": FRESH}, Current("g2", "hash", sure, 2)) is State.FRESH
    assert state_of({"gram": FRESH}, Current("g2", "hash", sure, 3)) is State.SURE


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_in_the_place_of_gram_is_judged(found: Any) -> None:
    """Nothing that a client writes stops the run."""
    assert state_of({"gram": found}, CURRENT) in State
    assert is_same({"gram": found}, FRESH) is False


def test_the_same_but_for_the_time_is_the_same() -> None:
    """However an update or a whole document spells weights, missing codes and null."""
    again = {**FRESH, "at": "later"}
    assert is_same({"gram": {**FRESH, "weights": [FRESH["weights"]]}}, again)
    pending = {"codes": [], "model": "pending", "at": "now"}
    assert is_same({"gram": {**pending, "source": None, "weights": [], "at": "then"}}, pending)
    assert not is_same({"gram": {**FRESH, "codes": FRESH["codes"][::-1]}}, again)
    assert not is_same({"gram": FRESH, "gram.model": "x"}, again)
    assert not is_same({}, pending)


def test_a_partial_document_replaces_all_that_was_there() -> None:
    """An array of weights is replaced where an object would be merged; dotted keys of a client's are emptied."""
    source = {"title": "x", "gram": {"model": "g1"}, "gram.codes": ["g1/type=x"], "grammar": 1}
    expected = {"gram": {**FRESH, "weights": [FRESH["weights"]]}, "gram.codes": None}
    assert partial_document(source, FRESH, weighted=True) == expected
    plain = {key: value for key, value in FRESH.items() if key != "weights"}
    assert partial_document({}, plain, weighted=False) == {"gram": plain}


def test_a_page_is_asked_for_in_order_of_sequence_numbers() -> None:
    """With what an update has to name; a part only where the index is shared."""
    expected = {
        "query": {"bool": {"filter": [{"range": {"_seq_no": {"gt": 5, "lte": 60}}}]}},
        "size": 10,
        "sort": [{"_seq_no": "asc"}],
        "search_after": [8],
        "seq_no_primary_term": True,
        "version": True,
        "track_total_hits": False,
        "pit": {"id": "pit", "keep_alive": "5m"},
    }
    assert page_body(SPAN, 8, 10, "pit", "5m") == expected
    shared = Span(SPAN.shard, 5, 60, Slice(1, 4))
    assert page_body(shared, 8, 10, "pit", "5m") == {**expected, "slice": {"id": 1, "max": 4}}
    assert count_body(shared, "pit", "5m") == {
        "query": expected["query"],
        "slice": {"id": 1, "max": 4},
        "size": 0,
        "track_total_hits": True,
        "pit": {"id": "pit", "keep_alive": "5m"},
    }


def test_a_write_names_the_version_that_was_read() -> None:
    """An update by sequence number, a copy by external version; both with routing, surrogates as escapes."""
    routed = Stored("shop", "p1", {"title": "\ud800", "gram": {"model": "old"}, "gram.codes": []}, 7, 2, 3, "r")
    action, document = map(json.loads, update_lines(routed, {"gram": FRESH}).splitlines())
    place = {"_index": "shop", "_id": "p1", "if_seq_no": 7, "if_primary_term": 2, "routing": "r"}
    assert (action, document) == ({"update": place}, {"doc": {"gram": FRESH}})
    action, document = map(json.loads, copy_lines(routed, "new", FRESH).splitlines())
    place = {
        "_index": "new",
        "_id": "p1",
        "pipeline": "_none",
        "version": 3,
        "version_type": "external",
        "routing": "r",
    }
    assert (action, document) == ({"index": place}, {"title": "\ud800", "gram": FRESH})
    copied = Stored("new", "p1", {}, 8, 1, 4)
    action, document = map(json.loads, overwriting_lines(routed, copied, FRESH).splitlines())
    place = {"_index": "new", "_id": "p1", "pipeline": "_none", "if_seq_no": 8, "if_primary_term": 1, "routing": "r"}
    assert (action, document) == ({"index": place}, {"title": "\ud800", "gram": FRESH})
    place = {"_index": "new", "_id": "p1", "if_seq_no": 8, "if_primary_term": 1}
    assert json.loads(deletion_line(copied)) == {"delete": place}
    assert "routing" not in update_lines(PRODUCT, {})


def test_a_hit_becomes_a_product() -> None:
    """With or without routing, and without source where the index keeps none."""
    hit = {
        "_index": "shop",
        "_id": "p1",
        "_seq_no": 7,
        "_primary_term": 2,
        "_version": 3,
        "_source": {"title": "\ud800"},
    }
    assert stored_of(hit) == PRODUCT
    assert stored_of({**hit, "_routing": "r"}).routing == "r"
    assert stored_of({key: value for key, value in hit.items() if key != "_source"}).source == {}


def test_items_of_a_bulk_are_read_in_order() -> None:
    """What was done, and why something was not."""
    error = {"type": "mapper", "reason": "failed", "caused_by": {"reason": "no number"}}
    answer = {"items": [{"update": {"status": 200}}, {"update": {"status": 400, "error": error}}]}
    assert read_items(answer, 2) == [Written(200), Written(400, "mapper", "failed (no number)")]
    assert read_items({"items": [{"update": {"status": 500, "error": "oops"}}]}, 1) == [Written(500, "", "oops")]


@pytest.mark.parametrize("answer", [{}, {"items": None}, {"items": []}, None, {"items": [{"update": {"status": 200}}]}])
def test_an_answer_without_one_result_for_each_is_none(answer: Any) -> None:
    """It is asked again rather than guessed at."""
    assert read_items(answer, 2) == []


def test_shards_are_those_of_primaries() -> None:
    """With the number up to which every copy has everything; one without a primary is missing."""
    settings = {
        "b": {"settings": {"index": {"uuid": "ub", "number_of_shards": "1"}}},
        "a": {"settings": {"index": {"uuid": "ua", "number_of_shards": "2"}}},
    }
    copies = [
        {"routing": {"primary": False}, "seq_no": {"global_checkpoint": 3}},
        {"routing": {"primary": True}, "seq_no": {"global_checkpoint": 5}},
    ]
    lost = [{"routing": {"primary": True}}]
    stats = {"indices": {"a": {"shards": {"1": copies, "0": lost}}, "b": {"shards": {"0": copies}}, "c": {}}}
    assert shards_of(settings, stats) == [Shard("a", 1, 5), Shard("b", 0, 5)]
    assert (shard_count(settings), uuids_of(settings)) == (3, {"a": "ua", "b": "ub"})
    assert Shard("a", 1, 5).key == "a/1"


@pytest.mark.parametrize(
    ("size", "chars", "expected"),
    [(50, 10, 100), (400, 10, 500), (50, 1_000_000, 19), (50, 100_000_000, 1)],
)
def test_pages_grow_as_far_as_memory_allows(size: int, chars: int, expected: int) -> None:
    """Twice as many each time, fewer of large products, never none."""
    products = [Stored("shop", "p", {"t": "x" * (chars // 100)}, 1, 1, 1)] * 2
    assert next_size(size, products, most=500, target_chars=200_000) == expected
    assert next_size(size, [], most=500, target_chars=200_000) == min(2 * size, 500)
