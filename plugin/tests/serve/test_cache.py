"""The cache that is bounded by number and by age."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.serve.cache import AgedCache, Entry, LatestCache


def test_an_entry_past_its_age_is_gone() -> None:
    """It is there until its last moment, and not at it."""
    now = [0.0]
    cache: AgedCache[str, int] = AgedCache(2, lambda: now[0])
    cache.put("a", 1, 10)
    now[0] = 9.9
    before = cache.get("a")
    now[0] = 10.0
    assert (before, cache.get("a"), len(cache)) == (Entry(1, 10.0), None, 0)


def test_no_entries_means_no_cache() -> None:
    """A bound of zero keeps nothing."""
    cache: AgedCache[str, int] = AgedCache(0, lambda: 0.0)
    cache.put("a", 1, 10)
    assert cache.get("a") is None


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6))))
def test_the_least_recently_used_makes_room(limit: int, steps: list[tuple[bool, int]]) -> None:
    """It holds what a slow list of uses holds."""
    cache: AgedCache[int, int] = AgedCache(limit, lambda: 0.0)
    used: list[int] = []
    for writes, key in steps:
        if writes:
            cache.put(key, key, 1)
        elif key in used:
            assert cache.get(key) == Entry(key, 1.0)
        if writes or key in used:
            used = [*(other for other in used if other != key), key][-limit:]
    assert [key for key in range(7) if cache.get(key)] == sorted(used)


def test_the_latest_values_are_kept() -> None:
    """Reading a value keeps it; at the bound the other one goes."""
    cache: LatestCache[str, int] = LatestCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]


def test_a_cache_of_no_entries_remembers_nothing() -> None:
    """0 entries switch the cache off."""
    cache: LatestCache[str, int] = LatestCache(0)
    cache.put("a", 1)
    assert (cache.get("a"), len(cache)) == (None, 0)
