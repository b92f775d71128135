"""Statistics of catalogue fields over a sample of products: the ground that `gram init` decides on."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

MAX_VALUE_CHARS = 400
MAX_DEPTH = 6
_MAX_PATH_CHARS = 200
_WALKED = 20
"""Records looked at for each one kept: a file of any size is sampled in bounded time."""

_BOOLEANS = frozenset("true false yes no ja nein oui non si sí y n j 0 1 да нет はい いいえ 是 否".split())  # noqa: SIM905
_URL = re.compile(r"(?:https?:)?//\S+|\S+\.(?:jpe?g|png|gif|webp|svg|html?)", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=\d)")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class FieldProfile:
    """What a sample says about one field; shares are between 0 and 1.

    Attributes:
        name: field name, dotted where it stands in objects.
        coverage: share of products that have a value.
        products: products that have a value.
        per_product: mean number of values of a product that has any.
        distinct: different values.
        repetition: share of values that other products have too.
        top_share: share of the commonest value.
        diversity: chance that two values differ.
        words: mean number of words in a value.
        longest_share: share of values over 48 characters.
        numbers: share of values that are numbers, or sizes such as 20 x 30.
        booleans: share of values such as true, ja, 0.
        urls: share of links and file names.
        dates: share of dates.
        examples: the commonest values.
    """

    name: str
    coverage: float
    products: int
    per_product: float
    distinct: int
    repetition: float
    top_share: float
    diversity: float
    words: float
    longest_share: float
    numbers: float
    booleans: float
    urls: float
    dates: float
    examples: tuple[str, ...]

    @property
    def is_wordy(self) -> bool:
        """Whether values are words, at least sometimes, and no links, dates or flags."""
        return max(self.numbers, self.booleans) < 0.8 and max(self.urls, self.dates) < 0.5


def survey(sources: Sequence[Mapping[str, Any]]) -> list[FieldProfile]:
    """Profiles every field of the sampled documents, in order of first appearance."""
    tallies: dict[str, _Tally] = {}
    for source in sources:
        seen: dict[str, set[str]] = {}
        for name, value in _leaves(source, "", MAX_DEPTH):
            seen.setdefault(name, set()).add(value)
        for name, values in seen.items():
            tallies.setdefault(name, _Tally()).add(values)
    return [tally.profile(name, len(sources)) for name, tally in tallies.items()]


def sample(items: Iterable[_Item], most: int, *, seed: int = 1) -> list[_Item]:
    """At most `most` items out of the first 20 × `most`, each as likely, in their order."""
    rng = random.Random(seed)
    kept: list[tuple[int, _Item]] = []
    for at, item in enumerate(items):
        if at >= _WALKED * most:
            break
        if len(kept) < most:
            kept.append((at, item))
        elif (place := rng.randrange(at + 1)) < most:
            kept[place] = (at, item)
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]


@dataclass
class _Tally:
    """Values of one field; each is counted once for a product."""

    products: int = 0
    values: Counter[str] = field(default_factory=Counter)

    def add(self, values: set[str]) -> None:
        self.products += 1
        self.values.update(sorted(values))

    def profile(self, name: str, sampled: int) -> FieldProfile:
        counts, total = self.values, self.values.total()

        def share(matches: Iterable[str]) -> float:
            return sum(counts[value] for value in matches) / total

        return FieldProfile(
            name=name,
            coverage=self.products / sampled,
            products=self.products,
            per_product=total / self.products,
            distinct=len(counts),
            repetition=share(value for value, count in counts.items() if count > 1),
            top_share=max(counts.values()) / total,
            diversity=1.0 - sum((count / total) ** 2 for count in counts.values()),
            words=sum(len(_WORD.findall(value)) * count for value, count in counts.items()) / total,
            longest_share=share(value for value in counts if len(value) > 48),
            numbers=share(value for value in counts if _is_number(value)),
            booleans=share(value for value in counts if value.lower() in _BOOLEANS),
            urls=share(value for value in counts if _URL.fullmatch(value)),
            dates=share(value for value in counts if _DATE.fullmatch(value)),
            examples=tuple(value for value, _ in counts.most_common(3)),
        )


def _is_number(value: str) -> bool:
    """Whether a value has no letter but the x of 20 x 30."""
    return not any(character.isalpha() for character in _TIMES.sub("", value))


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Field paths with their texts, numbers and booleans, as far as paths stay usable as names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if depth and len(path) + len(key) < _MAX_PATH_CHARS:
                yield from _leaves(inner, f"{path}.{key}" if path else str(key), depth - 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path, depth)
    elif value is not None and path:
        text = str(value)[:MAX_VALUE_CHARS].strip()
        if text:
            yield path, text
