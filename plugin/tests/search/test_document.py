"""Tests of what codes look like in a document."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import Attribute, Code, ScoredCode
from gram_plugin.errors import CodeError
from gram_plugin.search.document import gram_object, pending_object, replacing

AT = datetime(2026, 11, 21, 10, 0, 0, 123456, UTC)
NOTEBOOK = Code.parse("type=notebook")
HP = Code.parse("type=notebook|brand=hp")


def test_codes_and_weights_stand_in_order() -> None:
    """The most probable code comes first, each under its generation, weights rounded to three digits."""
    assert gram_object([ScoredCode(HP, 0.1234567), ScoredCode(NOTEBOOK, 0.9)], "g3", "abc", AT) == {
        "codes": ["g3/type=notebook", "g3/type=notebook|brand=hp"],
        "weights": {"g3/type=notebook": 0.9, "g3/type=notebook|brand=hp": 0.123},
        "model": "g3",
        "source": "abc",
        "at": "2026-11-21T10:00:00.123Z",
    }


def test_no_codes_is_a_valid_outcome() -> None:
    """A document that the model has nothing to say about is marked as read and has no weights."""
    expected = {"codes": [], "model": "g3", "source": "abc", "at": "2026-11-21T10:00:00.123Z"}
    assert gram_object([], "g3", "abc", AT) == expected


def test_pending_document_is_marked() -> None:
    """A document that waits for codes has none, and no source hash that could pass for done."""
    assert pending_object(AT) == {"codes": [], "model": "pending", "at": "2026-11-21T10:00:00.123Z"}


def test_only_what_is_certain_has_the_weight_one() -> None:
    """A likely code is never rounded up to it, and it is written as briefly as JSON can."""
    found = gram_object([ScoredCode(NOTEBOOK, 1.0), ScoredCode(HP, 0.99999)], "g1", "", AT)
    assert json.dumps(found["weights"]) == '{"g1/type=notebook": 1, "g1/type=notebook|brand=hp": 0.999}'


def test_code_that_occurs_twice_keeps_its_higher_weight() -> None:
    """A key may occur once in a document, so the better of two probabilities is kept."""
    found = gram_object([ScoredCode(HP, 0.2), ScoredCode(HP, 0.6)], "g1", "", AT)
    assert (found["codes"], found["weights"]) == (["g1/type=notebook|brand=hp"], {"g1/type=notebook|brand=hp": 0.6})


def test_code_longer_than_256_bytes_is_left_out() -> None:
    """A generation with many digits cannot make a stored code longer than the limit."""
    long = Code.of([Attribute.of("type", "x" * 245)])
    assert gram_object([ScoredCode(long, 0.5)], "g1234", "", AT)["codes"] == [f"g1234/type={'x' * 245}"]
    assert gram_object([ScoredCode(long, 0.5)], "g12345", "", AT)["codes"] == []


@given(st.lists(st.floats(), max_size=12))
def test_weights_are_what_opensearch_takes(probabilities: list[float]) -> None:
    """Whatever the model says, every stored weight is above 0 as a 32-bit float, at most 1, and has its code."""
    codes = [ScoredCode(Code.parse(f"type=t{number}"), p) for number, p in enumerate(probabilities)]
    found = gram_object(codes, "g1", "", AT)
    weights = found.get("weights", {})
    assert list(weights) == found["codes"]
    assert all(1.1e-38 <= weight <= 1 for weight in weights.values())
    assert len(weights) == sum(math.isfinite(p) and p >= 1.2e-38 for p in probabilities)


def test_index_without_weights_gets_none() -> None:
    """Where only keywords are mapped, the strict object would refuse the key `weights`."""
    assert gram_object([ScoredCode(HP, 0.5)], "g1", "h", AT, weighted=False) == {
        "codes": ["g1/type=notebook|brand=hp"],
        "model": "g1",
        "source": "h",
        "at": "2026-11-21T10:00:00.123Z",
    }


def test_partial_update_replaces_weights_whole() -> None:
    """Weights stand in an array, which an update replaces instead of merging; every key is named."""
    coded = gram_object([ScoredCode(HP, 0.5)], "g1", "h", AT)
    assert replacing(coded) == {**coded, "weights": [{"g1/type=notebook|brand=hp": 0.5}]}
    assert replacing(pending_object(AT)) == {**pending_object(AT), "source": None, "weights": []}
    assert replacing(pending_object(AT), weighted=False) == {**pending_object(AT), "source": None}


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=2))])
def test_time_is_written_in_utc(zone: timezone | None) -> None:
    """A time without zone counts as UTC, another zone is converted."""
    at = datetime(2026, 1, 1, 12, tzinfo=zone)
    hour = 12 if zone is None else 10
    assert pending_object(at)["at"] == f"2026-01-01T{hour}:00:00.000Z"


def test_generation_is_checked() -> None:
    """A generation that is none, such as `pending`, cannot be written."""
    with pytest.raises(CodeError):
        gram_object([], "pending", "", AT)
