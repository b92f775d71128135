"""The dead-letter file: nothing twice, nothing lost, and a way back to a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from gram_plugin.errors import ConfigError
from gram_plugin.serve.deadletter import DeadLetter, DeadLetterFile

LETTER = DeadLetter("1", 7, 400, "mapper_parsing_exception", "failed", "2026-01-01", {"title": "\ud800 \n 👟"})
OTHER = dataclasses.replace(LETTER, id="2", line=8)


def read_letters(path: Path) -> list[DeadLetter]:
    """The letters of a file."""
    return [DeadLetter(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def test_letters_come_back_as_they_were(tmp_path: Path) -> None:
    """One JSON object a line, whatever the document holds."""
    path = tmp_path / "letters.jsonl"
    with DeadLetterFile(path) as letters:
        letters.add([LETTER])
        letters.add([OTHER])
        assert letters.size_bytes == path.stat().st_size
    assert read_letters(path) == [LETTER, OTHER]
    assert [json.loads(line)["line"] for line in path.read_text().splitlines()] == [7, 8]


def test_without_a_letter_there_is_no_file(tmp_path: Path) -> None:
    """A run in which everything was taken leaves nothing behind."""
    path = tmp_path / "letters.jsonl"
    with DeadLetterFile(path) as letters:
        letters.add([])
        assert letters.size_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_a_new_run_puts_an_older_file_aside(tmp_path: Path) -> None:
    """Letters of the run before are kept under another name."""
    path = tmp_path / "letters.jsonl"
    for letter in (LETTER, OTHER):
        with DeadLetterFile(path) as letters:
            letters.add([letter])
    assert read_letters(path) == [OTHER]
    assert read_letters(tmp_path / "letters.jsonl.previous") == [LETTER]


def test_a_resumed_run_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    """Letters that were written after the checkpoint will be written again, so they are taken back."""
    path = tmp_path / "letters.jsonl"
    with DeadLetterFile(path) as letters:
        letters.add([LETTER])
        at = letters.size_bytes
        letters.add([OTHER])
    with DeadLetterFile(path, resume_at=at) as letters:
        letters.add([OTHER])
    assert read_letters(path) == [LETTER, OTHER]


@pytest.mark.parametrize("content", [None, b"", b"{}\n"])
def test_a_file_without_the_letters_of_the_interrupted_run_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """It is not filled up, and stays as it is."""
    path = tmp_path / "letters.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="the interrupted run wrote 4"), DeadLetterFile(path, resume_at=4):
        pass
    assert (path.read_bytes() if path.exists() else None) == content


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The error says which file and which option."""
    path = tmp_path / "missing" / "letters.jsonl"
    with DeadLetterFile(path) as letters, pytest.raises(ConfigError) as caught:
        letters.add([LETTER])
    assert str(path) in caught.value.message
    assert "--dead-letters" in caught.value.next_step
