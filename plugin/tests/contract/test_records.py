"""Records of JSONL, CSV and TSV files: formats, encodings and what is refused with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.contract.records import MAX_LINE_CHARS, Record, RecordReader, SkippedLine
from gram_plugin.errors import CatalogueError, JudgmentsError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(path: Path) -> list[Record]:
    """All records, strictly."""
    return list(RecordReader(path))


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    """Writes content as it stands."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), min_size=1, max_size=5))
def test_jsonl_gives_back_every_object(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, object]]
) -> None:
    """Any JSON objects come back equal and in order, with their line numbers."""
    path = write(tmp_path_factory.mktemp("any") / "a.jsonl", "".join(json.dumps(o) + "\n" for o in objects))
    assert read(path) == [Record(source, line) for line, source in enumerate(objects, start=1)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.txt", "a"])
def test_jsonl_in_every_encoding(tmp_path: Path, name: str, zipped: bool, encoding: str) -> None:
    """The byte order mark decides the encoding, the content the compression; Unicode line separators end no line."""
    raw = '{"id": "1", "title": "Grüße \u2028 猫"}\r\n\n{"id": "2"}\n'.encode(encoding)
    path = write(tmp_path / (name + ".gz" if zipped else name), gzip.compress(raw) if zipped else raw)
    assert read(path) == [Record({"id": "1", "title": "Grüße \u2028 猫"}, 1), Record({"id": "2"}, 3)]


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.tsv.gz", "\t"), ("a.txt", "|"), ("a", "\t")],
)
def test_tables_by_name_and_content(tmp_path: Path, name: str, delimiter: str) -> None:
    """Cells stay text, quoted line ends belong to their row, empty cells and unnamed columns are left out."""
    rows = [
        ["", "id", "title", "tags", "note"],
        ["0", "7", '"a\n""b"""', '"[1, 2]"', ""],
        [],
        ["1", "08", "c", "", '"x"'],
    ]
    raw = "\n".join(delimiter.join(row) for row in rows).encode("utf-8-sig")
    path = write(tmp_path / name, gzip.compress(raw) if name.endswith(".gz") else raw)
    assert read(path) == [
        Record({"id": "7", "title": 'a\n"b"', "tags": "[1, 2]"}, 2),
        Record({"id": "08", "title": "c", "note": "x"}, 5),
    ]


BROKEN_LINES = {
    "not json": "no JSON object",
    '{"id": "1"': "no JSON object",
    '{"price": NaN}': "NaN is no JSON number",
    '{"price": -Infinity}': "-Infinity is no JSON number",
    '{"price": 1e999}': "1e999 is no finite number",
    "[1, 2]": "one object on each line with `jq",
    '"text"': "expected a JSON object, found str",
    '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}": "nested too deep",
    '{"a": "\0"}': "perhaps UTF-16",
}


@pytest.mark.parametrize(("broken", "reason"), BROKEN_LINES.items(), ids=range(len(BROKEN_LINES)))
def test_broken_line_is_named_or_skipped(tmp_path: Path, broken: str, reason: str) -> None:
    """A broken line stops a strict read with `path:line`, and is noted and passed over with skip_invalid."""
    path = write(tmp_path / "a.jsonl", f'{{"id": "1"}}\n{broken}\n{{"id": "2"}}\n')
    with pytest.raises(CatalogueError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}:2: ")
    assert reason in caught.value.message
    assert "--skip-invalid" in caught.value.next_step
    lenient = RecordReader(path, skip_invalid=True)
    assert list(lenient) == [Record({"id": "1"}, 1), Record({"id": "2"}, 3)]
    assert lenient.skipped == [SkippedLine(2, caught.value.message.removeprefix(f"{path}:2: "))]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_mixed_encodings_name_the_first_wrong_line(tmp_path: Path, name: str) -> None:
    """A Latin-1 line inside UTF-8 is named with its line and the way to mend the file."""
    lines = ['{"id": "ä"}', '{"id": "ö"}'] if name == "a.jsonl" else ["id,t", "ä,1", "ö,2"]
    path = write(tmp_path / name, b"\n".join([*(line.encode() for line in lines[:-1]), lines[-1].encode("latin-1")]))
    with pytest.raises(CatalogueError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}:{len(lines)}: is not valid UTF-8")
    assert "iconv" in caught.value.message


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("id,t\n1,a\n2\n3,c\n", 3, "has 1 cells where the header has 2"),
        ("id,t\n1,a\n2,b,c\n3,c\n", 3, "has 3 cells where the header has 2"),
        ('id,t\n1,a\n2,"b"x\n3,c\n', 3, "no row of cells"),
    ],
)
def test_ragged_rows_are_named(tmp_path: Path, content: str, line: int, reason: str) -> None:
    """A row with other cells than the header, or with broken quotes, is named by its first line."""
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(CatalogueError, match=reason) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert [record.source["id"] for record in RecordReader(path, skip_invalid=True)] == ["1", "3"]


@pytest.mark.parametrize("header", ["id,id,t", '"id"x,t', "ï\xff,t"])
def test_broken_header_cannot_be_skipped(tmp_path: Path, header: str) -> None:
    """Without clear column names there are no records, so skip_invalid does not help."""
    path = write(tmp_path / "a.csv", f"{header}\n1,2,3\n", "latin-1")
    with pytest.raises(CatalogueError, match=r"a\.csv:1: "):
        list(RecordReader(path, skip_invalid=True))


def test_long_text_is_read_and_an_endless_line_is_not(tmp_path: Path) -> None:
    """A text of 1 MB is fine in JSONL and CSV; a line over the bound is broken, and the next one is read."""
    text = "x" * 1_000_000
    assert read(write(tmp_path / "a.csv", f"id,t\n1,{text}\n")) == [Record({"id": "1", "t": text}, 2)]
    endless = json.dumps({"id": "2", "t": "y" * 2 * MAX_LINE_CHARS})
    path = write(tmp_path / "a.jsonl", json.dumps({"id": "1", "t": text}) + f'\n{endless}\n{{"id": "3"}}\n')
    lenient = RecordReader(path, skip_invalid=True)
    assert [record.source["id"] for record in lenient] == ["1", "3"]
    assert [skipped.line for skipped in lenient.skipped] == [2]


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """The first record comes before a fault far behind it is met, so files are streamed."""
    path = write(tmp_path / "a.jsonl", '{"id": "1"}\n' * 100_000 + "broken\n")
    assert next(iter(RecordReader(path))) == Record({"id": "1"}, 1)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"id,title\n"])
def test_file_without_records(tmp_path: Path, content: bytes) -> None:
    """An empty file is an error, not an empty catalogue."""
    with pytest.raises(CatalogueError, match="holds no record"):
        read(write(tmp_path / "a.csv", content))


def test_unreadable_files_raise_the_readers_error(tmp_path: Path) -> None:
    """A missing file, a folder, a truncated archive and half a UTF-16 character raise the class that was asked for."""
    whole = gzip.compress(b'{"id": "1"}\n' * 50_000)
    broken = [
        tmp_path / "missing.jsonl",
        tmp_path,
        write(tmp_path / "a.jsonl.gz", whole[: len(whole) // 2]),
        write(tmp_path / "b.jsonl", '{"id": "1"}'.encode("utf-16") + b"\0"),
    ]
    for path in broken:
        with pytest.raises(JudgmentsError, match="cannot be read on from here"):
            list(RecordReader(path, error=JudgmentsError, skip_invalid=True))
