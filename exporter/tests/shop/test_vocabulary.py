"""Tests of the vocabulary files: everything named exists, and no word means two things where it matters."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import gram_exporter.shop
from gram_exporter.shop.vocabulary import Trait, load_vocabulary

_SEASONAL = {"winter"}  # a season and a scenario; whatever is for winter serves in winter


def test_every_offered_value_has_words() -> None:
    """A type offers only values and specs that the vocabulary can say."""
    vocabulary = load_vocabulary()
    offered = {
        Trait(dimension, value)
        for kind in vocabulary.assortment
        for dimension, values in (*kind.offers.items(), *((spec, vocabulary.specs[spec]) for spec in kind.specs))
        for value in values
    }
    assert offered - set(vocabulary.values) == set()


def test_groups_and_consequences_name_what_exists() -> None:
    """Groups hold known types, and what a function implies is a known scenario."""
    vocabulary = load_vocabulary()
    assert {name for types in vocabulary.groups.values() for name in types} <= set(vocabulary.types)
    implied = {Trait("scenario", value.implies) for value in vocabulary.values.values() if value.implies}
    assert implied <= set(vocabulary.values)


def test_all_words_have_a_positive_frequency() -> None:
    """Nobody is listed as saying something never."""
    words = [words for value in load_vocabulary().values.values() for words in (value.merchant, value.shopper)]
    assert min(weight for item in words for weight in item.weights) > 0


def test_no_word_means_two_values_of_one_type() -> None:
    """Judgments would be unfair if, for one type, a shopper's word could mean two of its values."""
    vocabulary = load_vocabulary()
    double: dict[str, set[str]] = {}
    for kind in vocabulary.assortment:
        meanings: defaultdict[str, set[str]] = defaultdict(set)
        for dimension, values in kind.offers.items():
            for value in values:
                for word in vocabulary.values[Trait(dimension, value)].shopper.texts:
                    meanings[word].add(f"{dimension}={value}")
        double |= {f"{kind.key}: {word}": found for word, found in meanings.items() if len(found) > 1}
    assert {name for name in double if name.split(": ")[1] not in _SEASONAL} == set()


def test_vocabulary_files_stay_readable() -> None:
    """No file of the vocabulary is longer than 400 lines."""
    folder = Path(gram_exporter.shop.__file__).with_name("words")
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in folder.rglob("*.toml")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
