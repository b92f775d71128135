"""Arms: how each is asked, and which answers count."""

from __future__ import annotations

from typing import cast

import pytest
from fakeclient import Answer, FakeClient, hits
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as LostError
from opensearchpy.exceptions import TransportError

from gram_exporter.arms import BASELINE, DIRECT, Arm, ArmName, arms_of, ask, check_arms, search_body
from gram_plugin.errors import ConfigError, SearchError
from gram_plugin.search.query import Mode


def arm(client: FakeClient, mode: Mode | None = None) -> Arm:
    """An arm of a fake client."""
    return Arm(mode.value if mode else BASELINE, cast(OpenSearch, client), mode)


def refusing(error: Exception) -> Answer:
    """Raises whatever is asked."""

    def answer(_: object) -> str:
        raise error

    return answer


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
