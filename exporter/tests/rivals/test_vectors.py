"""Vectors that are kept between runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest

from gram_exporter.rivals.encoder import SentenceEncoder
from gram_exporter.rivals.vectors import PART_TEXTS, Catalogue, catalogue_vectors


@dataclass
class FakeEncoder:
    """A text's vector is its length; keeps what it was asked for, and gives up after `most` parts."""

    fingerprint: str = "f"
    width: int = 1
    most: int = 99
    asked: list[int] = field(default_factory=list)

    def encode(self, texts: Sequence[str], *, told: Callable[[int], None] | None = None) -> npt.NDArray[np.float32]:
        """As an encoder does."""
        if len(self.asked) >= self.most:
            raise KeyboardInterrupt
        self.asked.append(len(texts))
        return np.array([[len(text)] for text in texts], np.float32)


def encoded(encoder: FakeEncoder, texts: dict[str, str], work: Path) -> Catalogue:
    """Without a word on progress."""
    return catalogue_vectors(cast(SentenceEncoder, encoder), texts, work, lambda *_: None)


TEXTS = {f"p{n}": "x" * (n % 7) for n in range(2 * PART_TEXTS + 3)}


def test_what_an_earlier_run_encoded_is_read(tmp_path: Path) -> None:
    """Ids and vectors are those of the first run, in the order of the texts."""
    first, second = FakeEncoder(), FakeEncoder()
    made, found = encoded(first, TEXTS, tmp_path), encoded(second, TEXTS, tmp_path)
    assert (first.asked, second.asked) == ([PART_TEXTS, PART_TEXTS, 3], [])
    assert made.ids == found.ids == tuple(TEXTS)
    assert np.array_equal(made.vectors[:, 0], [len(text) for text in TEXTS.values()])
    assert np.array_equal(found.vectors, made.vectors)


def test_a_run_that_broke_off_goes_on(tmp_path: Path) -> None:
    """Parts that were finished are not encoded again."""
    broken, second = FakeEncoder(most=2), FakeEncoder()
    with pytest.raises(KeyboardInterrupt):
        encoded(broken, TEXTS, tmp_path)
    assert len(encoded(second, TEXTS, tmp_path).vectors) == len(TEXTS)
    assert second.asked == [3]


def test_only_what_changed_is_encoded_again(tmp_path: Path) -> None:
    """Another text in one part, another encoder, or a part that is damaged."""
    encoded(FakeEncoder(), TEXTS, tmp_path)
    changed, other, mended = FakeEncoder(), FakeEncoder(fingerprint="g"), FakeEncoder()
    encoded(changed, {**TEXTS, "p0": "another"}, tmp_path)
    encoded(other, {"p0": "x"}, tmp_path)
    for path in (tmp_path / "f").iterdir():
        path.write_bytes(path.read_bytes()[:-2])
    encoded(mended, {"p0": "x"}, tmp_path)
    found = encoded(mended, TEXTS, tmp_path)
    assert (changed.asked, other.asked, mended.asked) == ([PART_TEXTS], [1], [1, PART_TEXTS, PART_TEXTS, 3])
    assert np.array_equal(found.vectors[:, 0], [len(text) for text in TEXTS.values()])


def test_no_products_have_no_vectors(tmp_path: Path) -> None:
    """An empty catalogue is one of shape (0, width)."""
    assert encoded(FakeEncoder(width=4), {}, tmp_path).vectors.shape == (0, 4)
