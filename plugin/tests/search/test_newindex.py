"""A new index in the place of another: its body, the actions of the swap, and what clean-up may touch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from opensearchpy import exceptions as client_errors

from gram_plugin.errors import ConfigError
from gram_plugin.search.mappings import component_template
from gram_plugin.search.newindex import (
    Counts,
    Mark,
    NewIndex,
    creation_body,
    is_own_name,
    mark_of,
    own_name,
    removable,
    swap_actions,
    unequal,
    unfinished,
)
from gram_plugin.search.requests import Requests

MARK = Mark("old", "uuid", "g2", "shop")
NAME = "shop-gram-g2-20260102030405"


def made(mark: Mark | None = MARK, aliases: Any = None) -> dict[str, Any]:
    """An index as `GET index` gives it, with our mark in it."""
    body = creation_body({"settings": {"index": {}}}, mark, weighted=True) if mark else {"mappings": {}}
    return {**body, "aliases": aliases or {}}


def test_a_new_index_is_like_the_source_with_fields_and_mark() -> None:
    """What belongs to the source alone is left out, and its final pipeline too, until the swap."""
    found = {
        "aliases": {"shop": {}},
        "settings": {
            "index": {
                "number_of_shards": "3",
                "uuid": "u",
                "creation_date": "1",
                "provided_name": "old",
                "version": {"created": "1"},
                "resize": {"source": {"name": "x"}},
                "blocks": {"write": "true"},
                "final_pipeline": "p",
                "default_pipeline": "d",
                "routing": {"allocation": {"initial_recovery": {"_id": "n"}, "require": {"zone": "a"}}},
                "analysis": {"analyzer": {"mine": {"type": "standard"}}},
            }
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": {"owner": "me", "gram": {"calibration": {"strength": 1}, "copy": {"source": "older"}}},
            "properties": {"title": {"type": "text"}, "gram": {"properties": {"codes": {"type": "text"}}}},
        },
    }
    gram = component_template(weighted=True)["template"]["mappings"]["properties"]
    mark = {"source": "old", "uuid": "uuid", "generation": "g2", "alias": "shop", "moves": "no"}
    assert creation_body(found, MARK, weighted=True) == {
        "settings": {
            "index": {
                "number_of_shards": "3",
                "default_pipeline": "d",
                "routing": {"allocation": {"require": {"zone": "a"}}},
                "analysis": {"analyzer": {"mine": {"type": "standard"}}},
            }
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": {"owner": "me", "gram": {"calibration": {"strength": 1}, "copy": mark}},
            "properties": {"title": {"type": "text"}, **gram},
        },
    }
    assert "weights" not in str(creation_body({"settings": {"index": {}}}, MARK, weighted=False))


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"gram": {"copy": {"source": "old", "uuid": "uuid", "generation": "g2", "alias": "shop"}}}, MARK),
        ({"gram": {"copy": {"source": "old"}}}, None),
        ({"gram": {"copy": {"source": "old", "more": 1}}}, None),
        ({"gram": {"copy": "x"}}, None),
        ({"gram": "x"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_mark_is_read_whole_or_not_at_all(meta: Any, expected: Mark | None) -> None:
    """An index of somebody else's has none, whatever its `_meta` holds."""
    assert mark_of({"mappings": {"_meta": meta}}) == expected


def test_the_alias_moves_with_what_it_says() -> None:
    """Filter, routing and the write flag go over in the same request."""
    held = {"filter": {"term": {"a": 1}}, "is_write_index": True}
    aliases = {"old": {"aliases": {"shop": held, "other": {}}}, "new": {"aliases": {}}}
    assert swap_actions(aliases, "shop", "old", "new") == [
        {"remove": {"index": "old", "alias": "shop", "must_exist": True}},
        {"add": {**held, "index": "new", "alias": "shop"}},
    ]
    assert swap_actions({}, "shop", "old", "new") == [{"add": {"index": "new", "alias": "shop"}}]


class Paper:
    """An OpenSearch with the index `old` and its aliases; client, transport and budget in one."""

    hosts: tuple[Any, ...] = ({"host": "paper"},)
    tries = 1

    def __init__(self, *aliases: str) -> None:
        self.indices = {"old": {"aliases": {alias: {} for alias in aliases}, "mappings": {}, "settings": {"index": {}}}}

    @property
    def transport(self) -> Paper:
        """The transport."""
        return self

    async def pause(self, tried: int, retry_after_s: float) -> None:
        """Waits for nothing."""

    async def perform_request(self, method: str, path: str, params: Any = None, body: Any = None) -> Any:
        """Answers for indices and aliases, and makes an index."""
        name = path.rpartition("/")[2]
        if method == "PUT":
            self.indices[name] = {"aliases": {}, **body}
        elif path.startswith("/_alias/"):
            return {index: found for index, found in self.indices.items() if name in found["aliases"]}
        elif name not in self.indices:
            raise client_errors.NotFoundError(404, "index_not_found_exception", {})
        return {name: self.indices[name]}


@pytest.mark.parametrize("again", [False, True])
async def test_a_source_that_writers_reach_by_other_aliases_too_is_refused(again: bool) -> None:
    """It will be blocked when the alias moves; nothing is made, and a run that made its index before ends as well."""
    client = Paper("shop")
    new = NewIndex(Requests(client, client), "new", MARK)  # type: ignore[arg-type]
    if again:
        await new.make()
    before = dict(client.indices)
    client.indices["old"]["aliases"].update({"writers": {}, "export": {}})
    with pytest.raises(ConfigError, match="old has the aliases export, writers besides shop") as caught:
        await new.make()
    assert "pass an --alias that does not exist yet" in caught.value.next_step
    assert client.indices == before


@pytest.mark.parametrize("aliases", [("shop",), ("writers",), ()])
async def test_aliases_that_keep_their_index_open_are_none_of_our_business(aliases: tuple[str, ...]) -> None:
    """Where the alias that is made is new, no writer is blocked."""
    client = Paper(*aliases)
    await NewIndex(Requests(client, client), "new", MARK).make()  # type: ignore[arg-type]
    moves = "yes" if "shop" in aliases else "no"
    assert mark_of(client.indices["new"]) == MARK
    assert client.indices["new"]["mappings"]["_meta"]["gram"]["copy"]["moves"] == moves


def test_own_names_are_known_again() -> None:
    """By alias, generation and time; nothing else is taken for one."""
    assert own_name("shop", "G2", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == NAME
    assert is_own_name(NAME, "shop")
    for name in ("shop", "shop-gram-g2", "shop-gram-g2-2026", f"{NAME}-x", f"x{NAME}", "shop-gram--20260102030405"):
        assert not is_own_name(name, "shop")
    assert not is_own_name(NAME, "sho.")


def test_clean_up_takes_own_marked_indices_without_any_alias() -> None:
    """Name, mark and alias must all say so."""
    later = "shop-gram-g3-20270102030405"
    indices = {
        later: made(Mark("x", "u", "g3", "shop")),
        NAME: made(),
        "shop-gram-g2-20260102030406": made(aliases={"any": {}}),
        "shop-gram-g2-20260102030407": made(None),
        "shop-gram-g2-20260102030408": made(Mark("old", "uuid", "g2", "another")),
        "shop-new": made(),
    }
    assert removable(indices, "shop") == [NAME, later]
    assert unfinished(indices, MARK) == "shop-gram-g2-20260102030406"
    assert unfinished({"shop-new": made()}, MARK) is None


def test_unequal_counts_are_said_with_both_numbers() -> None:
    """And what to do next."""
    assert Counts(2, 2).are_equal
    error = unequal("old", "new", Counts(5, 4))
    assert error.message == "the alias was not moved: old has 5 products, new has 4"
    assert "run the same command again" in error.next_step
