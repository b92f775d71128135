"""Judgments in all their formats, and their merging with clicks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.clicks import ClickedProduct, ClickLog
from gram_exporter.config import CatalogueConfig, Config, FeedbackConfig
from gram_exporter.feedback import Feedback, Judgments, merge, positives, read_judgments
from gram_plugin.errors import JudgmentsError

EXPECTED = {"red sofa": {"7": 3.0, "8": 0.0}, "Grüße": {"7": 1.5}}


def write(folder: Path, name: str, text: str) -> Path:
    """Writes a file, gzip if its name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def config(judgments: Path | None = None, clicks: tuple[Path, ...] = ()) -> Config:
    """A config with feedback."""
    return Config(
        catalogue=CatalogueConfig(path=Path("p"), id="id", text=("t",)),
        feedback=FeedbackConfig(judgments=judgments, clicks=clicks),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "query,docid,rating\nred sofa,7,3\nred sofa,8,0\nGrüße,7,1.5\n"),
        ("a.csv.gz", "docid,rating,query\n7,3,red sofa\n8,0,red  sofa \n7,1.5,Grüße\n"),
        ("a.csv", 'Grade;Keywords;docId\r\n3;"red sofa";7\r\n0;red sofa;8\r\n1.5;Grüße;7\r\n'),
        ("a.tsv.gz", "query_id\tquery\tdoc_id\tgrade\n1\tred sofa\t7\t3\n1\tred sofa\t8\t0\n2\tGrüße\t7\t1.5\n"),
        ("a.jsonl", "".join(json.dumps({"query": q, "docid": d, "rating": g}) + "\n"
                            for q, d, g in [("red sofa", 7, 3), ("red sofa", "8", 0), ("Grüße", 7, "1.5")])),
    ],
    ids=range(5),
)  # fmt: skip
def test_tables(tmp_path: Path, name: str, text: str) -> None:
    """Columns may have other names and any order; the order of queries and documents is kept."""
    found = read_judgments(write(tmp_path, name, text))
    assert found == EXPECTED
    assert list(found) == list(EXPECTED)
    assert list(found["red sofa"]) == ["7", "8"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_trec_qrels(tmp_path: Path, suffix: str) -> None:
    """Qrels get their query texts from the companion file."""
    qrels = write(tmp_path, "a.qrels" + suffix, "q1 0 7 3\nq1 0 8 0\n\nq2\t0\t7\t1.5\n")
    queries = write(tmp_path, "queries.tsv" + suffix, "q2\tGrüße\nq1\tred sofa\nq3\tunjudged\n")
    assert read_judgments(qrels, queries=queries) == EXPECTED


def test_repeated_pairs_get_the_mean(tmp_path: Path) -> None:
    """Several raters of one pair make one grade."""
    path = write(tmp_path, "a.csv", "query,docid,rating\nsofa,7,3\nsofa,7,0\nsofa,8,2\nsofa,7,0\n")
    assert read_judgments(path) == {"sofa": {"7": 1.0, "8": 2.0}}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("query,docid,rating\nsofa,7,3\nsofa,8,good\n", ":3: grade must be a number, found 'good'"),
        ("query,docid,rating\nsofa,7,\nsofa,8,1\n", ":2: has no rating"),
        ("query,docid,rating\nsofa,7,nan\n", ":2: grade must be a number, found 'nan'"),
        ("query,docid,rating\nsofa,7,3\n,8,1\n", ":3: has no query"),
        ("query,docid,rating\nsofa,7,3\nsofa,,1\n", ":3: has no docid"),
        ("query,docid,rating\nsofa,7\n", ":2: has 2 cells where the header has 3"),
        ("a,b,c\nsofa,7,1\n", ":2: found no query and no docid and no rating among the columns a, b, c"),
        ("q1 0 7 3\n", ": TREC qrels hold query ids, no query texts"),
        ("", ":1: holds no record"),
    ],
)
def test_broken_judgments_are_named(tmp_path: Path, text: str, finding: str) -> None:
    """A broken line is a JudgmentsError with its place and a next step."""
    path = write(tmp_path, "judgments.txt", text)
    with pytest.raises(JudgmentsError) as caught:
        read_judgments(path)
    assert caught.value.message == f"{path}{finding}"
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("qrels", "queries", "finding"),
    [
        ("q1 0 7 1\nq1 0 8\n", "q1\tsofa\n", "a.qrels:2: expected `qid 0 docid grade`, found 'q1 0 8'"),
        ("q1 0 7 1\nq9 0 7 1\n", "q1\tsofa\n", "a.qrels:2: query id 'q9' is not in "),
        ("q1 0 7 1\n", "q1\tsofa\nq2 couch\n", "queries.tsv:2: expected qid<TAB>text, found 'q2 couch'"),
        ("q1 0 7 1\n", "q1\tsof\udce4\n", "queries.tsv:1: is not valid UTF-8"),
    ],
)
def test_broken_qrels_are_named(tmp_path: Path, qrels: str, queries: str, finding: str) -> None:
    """Both files of a TREC pair name their broken lines."""
    qrels_path = write(tmp_path, "a.qrels", qrels)
    queries_path = tmp_path / "queries.tsv"
    queries_path.write_bytes(queries.encode("utf-8", "surrogateescape"))
    with pytest.raises(JudgmentsError) as caught:
        read_judgments(qrels_path, queries=queries_path)
    assert caught.value.message.startswith(f"{tmp_path}/{finding}")


def test_missing_file_is_a_judgments_error(tmp_path: Path) -> None:
    """A path that does not exist is named, not a traceback."""
    with pytest.raises(JudgmentsError, match="No such file"):
        read_judgments(tmp_path / "none.csv")


def test_judgments_hold_against_clicks() -> None:
    """Grades are scaled to the best one; a judged product keeps its judgment, whatever was clicked."""
    clicks = ClickLog(
        (
            ClickedProduct("sofa", "a", 9, 9, 5.0, 0),
            ClickedProduct("sofa", "c", 9, 3, 2.5, 0),
            ClickedProduct("sofa", "d", 9, 0, 0.0, 4),
            ClickedProduct("sofa", "e", 9, 0, 0.0, 0),
            ClickedProduct("bed", "a", 1, 0, 0.0, 1),
        ),
        {"action hover": 2},
    )
    judgments: Judgments = {"sofa": {"a": 0.0, "b": 4.0, "f": 1.0}}
    assert merge(judgments, clicks) == Feedback(
        wanted={"sofa": {"b": 1.0, "f": 0.25, "c": 2.5}},
        unwanted={"sofa": frozenset("ad"), "bed": frozenset("a")},
        ignored={"action hover": 2},
    )


def test_judgments_hold_against_clicks_however_they_are_written() -> None:
    """A query that was typed in other letters is the judged one."""
    clicked = (ClickedProduct("red SOFA", "a", 9, 9, 5.0, 0), ClickedProduct("red SOFA", "c", 9, 3, 2.5, 0))
    assert merge({"Red  sofa": {"a": 0.0, "b": 4.0}}, ClickLog(clicked, {})) == Feedback(
        wanted={"Red  sofa": {"b": 1.0}, "red SOFA": {"c": 2.5}}, unwanted={"Red  sofa": frozenset("a")}
    )


GRADES = st.dictionaries(st.sampled_from("abc"), st.floats(-1, 5), max_size=3)
CLICKED = st.builds(
    ClickedProduct, st.sampled_from("xy"), st.sampled_from("abc"), st.just(3), st.integers(0, 2), st.floats(0.1, 9),
    st.integers(0, 2),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from("xy"), GRADES), st.lists(CLICKED))
def test_no_product_is_both_wanted_and_unwanted(judgments: Judgments, clicked: list[ClickedProduct]) -> None:
    """Whatever the sources say, weights are above 0 and the two sets do not meet."""
    one_each = {(product.query, product.product_id): product for product in clicked}
    feedback = merge(judgments, ClickLog(tuple(one_each.values()), {}))
    for query, products in feedback.wanted.items():
        assert products
        assert min(products.values()) > 0
        assert not feedback.unwanted.get(query, frozenset()) & set(products)


def test_no_feedback_is_empty_and_useless_feedback_an_error(tmp_path: Path) -> None:
    """Feedback is optional, but a file without anything positive is a mistake worth stopping for."""
    assert positives(config()) == Feedback()
    with pytest.raises(JudgmentsError, match="no grade is above 0"):
        positives(config(write(tmp_path, "a.csv", "query,docid,rating\nsofa,7,0\n")))
    found = positives(config(write(tmp_path, "b.csv", "query,docid,rating\nsofa,7,2\nsofa,8,0\n")))
    assert found == Feedback({"sofa": {"7": 1.0}}, {"sofa": frozenset("8")}, {})
