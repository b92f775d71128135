"""Caches: one bounded by number and by age, one by number alone that threads may share."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gram_plugin.serve.deadline import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A value and the moment until which it holds."""

    value: V
    until_s: float


class AgedCache(Generic[K, V]):
    """Keeps the most recently used entries; an entry past its age is gone.

    Args:
        entries: most entries, >= 0; 0 keeps nothing.
        clock: seconds that never run backwards.
    """

    def __init__(self, entries: int, clock: Clock = time.monotonic) -> None:
        self._limit = entries
        self._clock = clock
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()

    def get(self, key: K) -> Entry[V] | None:
        """The entry of a key, which now is the most recently used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until_s <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: K, value: V, age_s: float) -> None:
        """Keeps a value for `age_s` seconds; the least recently used entry makes room."""
        self._entries[key] = Entry(value, self._clock() + age_s)
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


class LatestCache(Generic[K, V]):
    """Keeps the most recently used values; safe for several threads.

    Args:
        entries: most values, >= 0; 0 keeps nothing.
    """

    def __init__(self, entries: int) -> None:
        self._limit = entries
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key, which now is the most recently used."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Keeps a value; the least recently used one makes room."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._limit:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)
