"""The lexical query of a command, and the texts that it is measured with."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.errors import CalibrationError
from gram_plugin.search.lexical import evenly_drawn, multi_match, queries_of_file


def test_fields_make_a_multi_match() -> None:
    """The options of the verb are those of OpenSearch's own query; without fields the index's default holds."""
    assert multi_match(["title^3"], "cross_fields", "and")("red") == {
        "multi_match": {"query": "red", "type": "cross_fields", "operator": "and", "fields": ["title^3"]}
    }
    assert "fields" not in multi_match([], "best_fields", "or")("red")["multi_match"]


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("log", "red shoe\n\n boot \nred shoe\n", None),
        ("log.txt", "\ufeffred shoe\nboot", None),
        ("log.csv", "when,query,hits\n1,red shoe,3\n2,boot,0\n", None),
        ("log.tsv", "user_query\thits\nred shoe\t3\nboot\t0\n", None),
        ("log.CSV", "id;words\n1;red shoe\n2;boot\n", "words"),
        ("log.jsonl", '{"queryText": "red shoe"}\n{"n": 1, "queryText": "boot"}\n', None),
        ("log.export", "q,n\nred shoe,1\nboot,2\n", "q"),
    ],
)
def test_queries_are_read_from_text_tables_and_json(
    tmp_path: Path, name: str, content: str, column: str | None
) -> None:
    """Each query once, from the column that is named or from one of a usual name."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert sorted(queries_of_file(path, column, 10)) == ["boot", "red shoe"]


def test_a_zipped_table_is_read(tmp_path: Path) -> None:
    """A log may be gzip."""
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"query\nboot\n"))
    assert queries_of_file(path, None, 10) == ["boot"]


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("log.csv", b"when,what\n1,red\n", None, "log.csv:2: no column with queries among when, what"),
        ("log.csv", b"when,what\n1,red\n", "words", "log.csv:2: no column words among when, what"),
        ("log.jsonl", b'{"q": null}\n', None, "holds no query"),
        ("log.jsonl", b"{", None, "log.jsonl:1"),
        ("log.txt", b"\xff\xfe", None, "cannot be read"),
        ("missing.txt", None, None, "cannot be read"),
        ("log.txt", b"\n \n", None, "holds no query"),
    ],
)
def test_unusable_logs_are_refused(
    tmp_path: Path, name: str, content: bytes | None, column: str | None, said: str
) -> None:
    """The message names file, line and column."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CalibrationError, match=said.replace(".", r"\.")):
        queries_of_file(path, column, 10)


@settings(max_examples=50)
@given(st.lists(st.text(max_size=3)), st.integers(1, 8))
def test_drawing_is_that_of_the_reference(texts: list[str], count: int) -> None:
    """As many as there are, at most `count`, each once, whatever the order and however often they come."""
    drawn = evenly_drawn(texts, count)
    assert len(drawn) == min(count, len(set(texts)))
    assert set(drawn) <= set(texts)
    assert sorted(drawn) == sorted(evenly_drawn(sorted(set(texts)), count))


def test_drawing_does_not_favour_the_start() -> None:
    """Of a sorted log both halves are drawn from."""
    drawn = evenly_drawn((f"{number:04}" for number in range(2000)), 200)
    assert 60 < sum(text < "1000" for text in drawn) < 140
