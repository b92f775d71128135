"""Records of a JSONL, CSV or TSV file, plain or gzip, read as a stream with the line of each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO, cast

from gram_plugin.errors import CatalogueError, GramError

MAX_LINE_CHARS = 16 * 2**20
"""Longest line that is read: a file without line ends must not become memory."""

_SNIFFED_CHARS = 65_536
_GZIP_MAGIC = b"\x1f\x8b"
_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_DELIMITERS = (",", ";", "\t", "|")
_TO_UTF8 = "save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`"


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a file; `line` counts from 1 and is where the record begins.

    `columns` are all names of a table's header, for `source` lacks those whose cell is empty; none for JSON.
    """

    source: dict[str, Any]
    line: int
    columns: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line that is no record, and why."""

    line: int
    reason: str


class _HeaderError(Exception):
    """Without its column names a table has no records, so no line can be skipped instead."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class RecordReader:
    """Iterates over the records of a file; each iteration reads it from the start, never whole.

    A cell of CSV or TSV is text as it stands; empty cells and columns without a name are left out.

    Attributes:
        skipped: the broken lines of the latest iteration, only ever filled with `skip_invalid`.
    """

    def __init__(self, path: Path, *, skip_invalid: bool = False, error: type[GramError] = CatalogueError) -> None:
        self.path = path
        self.skipped: list[SkippedLine] = []
        self._skip_invalid = skip_invalid
        self._error = error

    def __iter__(self) -> Iterator[Record]:
        """Yields the records in file order.

        Raises:
            GramError: of the class given as `error`: the file cannot be read, holds no record, or
                (without `skip_invalid`) has a broken line; the message begins with `path:line`.
        """
        self.skipped = []
        line = 0
        try:
            for row in _rows(self.path):
                line = row.line
                if isinstance(row, Record):
                    yield row
                else:
                    self.refuse(row.line, row.reason)
        except _HeaderError as error:
            raise self._error(f"{self.path}:{error.line}: {error}", next_step="mend the header") from error
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise self._error(
                f"{self.path}:{line + 1}: cannot be read on from here: {error}",
                next_step="check the path, and that the file was copied whole",
            ) from error
        if line == 0:
            raise self._error(f"{self.path}:1: holds no record", next_step="give a JSONL, CSV or TSV file with records")

    def refuse(self, line: int, reason: str) -> None:
        """Notes a broken line with `skip_invalid`, raises the reader's error without."""
        if not self._skip_invalid:
            raise self._error(
                f"{self.path}:{line}: {reason}",
                next_step="mend the line, or leave such lines out with --skip-invalid (they are counted)",
            )
        self.skipped.append(SkippedLine(line, reason))


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Opens a text file, gzip or plain; UTF-8 unless a byte order mark says UTF-16 or UTF-32.

    Bytes that are not of the encoding become lone surrogates; `broken_text` finds them.
    """
    with _open_bytes(path) as stream:
        encoding = _encoding_of(cast(io.BufferedReader, stream).peek(4)[:4])
        errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
        yield io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")


def broken_text(text: str) -> str | None:
    """Says what is wrong with decoded text: bytes of another encoding, or UTF-16 without its mark."""
    if "\0" in text:
        return f"holds NUL characters, perhaps UTF-16 without a byte order mark; {_TO_UTF8}"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"is not valid UTF-8 or UTF-16 from character {error.start + 1} on; {_TO_UTF8}"
    return None


def _rows(path: Path) -> Iterator[Record | SkippedLine]:
    first = _first_line(path)
    with open_text(path) as stream:
        if _is_json(path, first):
            yield from _json_rows(stream)
        else:
            yield from _cell_rows(stream, _delimiter_of(path, first))


def _json_rows(stream: TextIO) -> Iterator[Record | SkippedLine]:
    for number, text in enumerate(_lines(stream), start=1):
        if len(text) >= MAX_LINE_CHARS:
            yield SkippedLine(number, f"longer than {MAX_LINE_CHARS} characters; write one object on each line")
        elif text.strip():
            yield _json_row(number, text)


def _json_row(number: int, text: str) -> Record | SkippedLine:
    if broken := broken_text(text):
        return SkippedLine(number, broken)
    try:
        found = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return SkippedLine(number, _json_reason(text, error))
    if not isinstance(found, dict):
        return SkippedLine(number, f"expected a JSON object, found {type(found).__name__}{_array_hint(text)}")
    return Record(found, number)


def _json_reason(text: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "JSON nested too deep to be read"
    return f"no JSON object: {error}{_array_hint(text)}"


def _array_hint(text: str) -> str:
    opens_array = text.lstrip().startswith("[")
    return "; turn an array into one object on each line with `jq -c '.[]'`" if opens_array else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _cell_rows(stream: TextIO, delimiter: str) -> Iterator[Record | SkippedLine]:
    # Process-wide, and the only way: the csv module refuses cells over 128 KiB by default.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARS))
    reader = csv.reader(_lines(stream), delimiter=delimiter, strict=True)
    header: tuple[str, ...] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise _HeaderError(line, f"no row of column names: {error}") from error
            yield SkippedLine(line, f"no row of cells: {error}")
            continue
        if header is None:
            header = _header_of(cells, line)
        elif cells:
            yield _cell_row(line, header, cells)


def _cell_row(line: int, header: tuple[str, ...], cells: list[str]) -> Record | SkippedLine:
    if len(cells) != len(header):
        return SkippedLine(line, f"has {len(cells)} cells where the header has {len(header)}")
    if broken := broken_text("".join(cells)):
        return SkippedLine(line, broken)
    source = {name: cell for name, cell in zip(header, cells, strict=True) if name and cell.strip()}
    return Record(source, line, header)


def _header_of(cells: list[str], line: int) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    fault = f"the header names {', '.join(twice)} more than once" if twice else broken_text("".join(names))
    if fault:
        raise _HeaderError(line, fault)
    return names


def _lines(stream: TextIO) -> Iterator[str]:
    """Lines with their ends; of a line that is too long only the first part, `MAX_LINE_CHARS` long."""
    while text := stream.readline(MAX_LINE_CHARS):
        part = text
        while len(part) == MAX_LINE_CHARS and not part.endswith(("\n", "\r")):
            part = stream.readline(MAX_LINE_CHARS)
        yield text


def _first_line(path: Path) -> str:
    with open_text(path) as stream:
        head = stream.read(_SNIFFED_CHARS)
    return next((line for line in head.splitlines() if line.strip()), "")


def _is_json(path: Path, first: str) -> bool:
    suffix = _suffix(path)
    if suffix in {".csv", ".tsv", ".tab"}:
        return False
    return suffix in _JSON_SUFFIXES or first.lstrip().startswith(("{", "["))


def _delimiter_of(path: Path, header: str) -> str:
    if _suffix(path) in {".tsv", ".tab"}:
        return "\t"
    outside_quotes = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=outside_quotes.count)


def _suffix(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def _open_bytes(path: Path) -> IO[bytes]:
    stream = path.open("rb")
    if not stream.peek(2).startswith(_GZIP_MAGIC):
        return stream
    stream.close()
    return cast(IO[bytes], gzip.open(path))


def _encoding_of(head: bytes) -> str:
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    return "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
