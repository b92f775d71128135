"""The sidecar's dead letters: what a letter says, over restarts and up to a size."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gram_plugin.errors import ConfigError
from gram_plugin.search.bulk import parse_bulk
from gram_plugin.serve.coding import Reason
from gram_plugin.serve.poison import PoisonFile
from gram_plugin.serve.preparing import Poison

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def poison(name: str = "7", title: str = "\ud800 odd") -> Poison:
    """A document of a bulk that the model failed on."""
    lines = ({"index": {"_id": name, "routing": "r"}}, {"title": title})
    (item,) = parse_bulk("".join(json.dumps(line) + "\n" for line in lines).encode())
    return Poison(item, "products", Reason.MODEL, "cannot read it")


def letters(path: Path) -> list[dict[str, Any]]:
    """What the file holds."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_a_letter_says_which_document_it_was_and_why(tmp_path: Path) -> None:
    """The id, the place in the bulk, the reason, the words of the model and the document as sent."""
    assert PoisonFile(tmp_path / "letters", 10_000, lambda: NOW).add([poison()]) == 1
    assert letters(tmp_path / "letters") == [
        {
            "id": "7",
            "line": 1,
            "status": 0,
            "type": "model-error",
            "reason": "cannot read it",
            "at": "2026-01-02T00:00:00+00:00",
            "document": {"_index": "products", "_routing": "r", "source": {"title": "\ud800 odd"}},
        }
    ]


def test_letters_outlive_restarts_and_a_torn_one_spoils_no_other(tmp_path: Path) -> None:
    """A process that dies while it writes leaves half a line; the next letter begins on its own."""
    path = tmp_path / "letters"
    PoisonFile(path, 10_000).add([poison("1")])
    with path.open("ab") as stream:
        stream.write(b'{"id": "to')
    PoisonFile(path, 10_000).add([poison("2"), poison("3")])
    first, torn, *others = path.read_text(encoding="ascii").splitlines()
    assert (torn, [json.loads(line)["id"] for line in (first, *others)]) == ('{"id": "to', ["1", "2", "3"])


def test_the_file_never_grows_beyond_its_size(tmp_path: Path) -> None:
    """What has no room is left out and said; a smaller letter may still fit."""
    path = tmp_path / "letters"
    found = PoisonFile(path, 1024)
    assert found.add([poison("1"), poison("2", "x" * 2000), poison("3")]) == 2
    assert [letter["id"] for letter in letters(path)] == ["1", "3"]
    while found.add([poison()]):
        assert path.stat().st_size <= 1024
    assert path.stat().st_size <= 1024


def deep(depth: int) -> Any:
    """Lists within each other."""
    found: Any = "end"
    for _ in range(depth):
        found = [found]
    return found


def test_a_letter_that_cannot_be_written_costs_no_other(tmp_path: Path) -> None:
    """What JSON was read from is written, however deep; what has no form in JSON is left out alone."""
    readable, endless = [
        replace(poison(name), item=replace(poison(name).item, source={"title": deep(depth)}))
        for name, depth in (("2", 700), ("3", 100_000))
    ]
    found = [poison("1"), readable, endless, poison("4")]
    assert PoisonFile(tmp_path / "letters", 10_000).add(found) == 3
    assert [letter["id"] for letter in letters(tmp_path / "letters")] == ["1", "2", "4"]


def test_a_routing_of_the_request_holds_for_lines_without_one(tmp_path: Path) -> None:
    """As OpenSearch reads it."""
    (item,) = parse_bulk(b'{"index":{"_id":"8"}}\n{"title":"x"}\n')
    found = [poison("7"), Poison(item, "products", Reason.MODEL, "cannot read it")]
    PoisonFile(tmp_path / "letters", 10_000).add(found, "of the request")
    routings = [letter["document"]["_routing"] for letter in letters(tmp_path / "letters")]
    assert routings == ["r", "of the request"]


def test_a_file_that_cannot_be_written_any_more_is_an_error(tmp_path: Path) -> None:
    """The caller says so in the log and goes on."""
    folder = tmp_path / "gone"
    folder.mkdir()
    found = PoisonFile(folder / "letters", 1024)
    folder.rmdir()
    with pytest.raises(OSError, match="letters"):
        found.add([poison()])


def test_a_file_that_can_never_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    """A folder that is missing, and a folder in the place of the file; the message names the setting."""
    for path in (tmp_path / "missing" / "letters", tmp_path):
        with pytest.raises(ConfigError, match="GRAM_DEAD_LETTERS"):
            PoisonFile(path, 1024)
