"""Tests of the sample shop as a whole: the same bytes from a seed, and splits that share nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from gram_exporter.shop import Shop, make_shop, write_shop
from gram_exporter.shop.shop import bag_of_words


@pytest.fixture(scope="module")
def shop() -> Shop:
    """The shop of the demo."""
    return make_shop(seed=1)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two shops of one seed are equal file by file, byte by byte."""
    for name in ("first", "second"):
        write_shop(make_shop(seed=5, products=600), tmp_path / name)
    assert _bytes_of(tmp_path / "first") == _bytes_of(tmp_path / "second")


def test_no_family_is_in_two_splits(shop: Shop) -> None:
    """All paraphrases of an intent are in one split."""
    families = {split: {query.family for query in queries} for split, queries in shop.queries.items()}
    assert [families["train"] & families["test"], families["train"] & families["dev"]] == [set(), set()]
    assert families["dev"] & families["test"] == set()


def test_no_query_text_is_asked_twice(shop: Shop) -> None:
    """No two queries of any split have the same words, whatever their order, case and punctuation."""
    bags = [bag_of_words(query.text) for queries in shop.queries.values() for query in queries]
    assert len(bags) == len(set(bags))
