"""A new index in the place of another: made alike, compared, put behind the alias at one stroke; and cleaning up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from gram_plugin.errors import ConfigError, MappingError, SearchError
from gram_plugin.search.mappings import FIELD, component_template
from gram_plugin.search.requests import RESUME, Requests, quoted

_MARK = "copy"
"""Key under `_meta.gram` of an index that a backfill made."""

_OWN = frozenset(
    {"uuid", "creation_date", "provided_name", "version", "resize", "blocks", "verified_before_close", "final_pipeline"}
)
_NO_HANDLER = 400


@dataclass(frozen=True)
class Mark:
    """What an index that a backfill made says of itself.

    Attributes:
        source: concrete index that it copies.
        uuid: of that index.
        generation: of the model.
        alias: the name that it was made for.
        moves: `yes` where the alias led to the source when it was made, so that writers came that way.
    """

    source: str
    uuid: str
    generation: str
    alias: str
    moves: str = field(default="no", compare=False)


@dataclass(frozen=True)
class Counts:
    """Products of the source and of its copy."""

    source: int
    copy: int

    @property
    def are_equal(self) -> bool:
        """Whether the swap may take place."""
        return self.source == self.copy


def own_name(alias: str, generation: str, at: datetime) -> str:
    """The name that an index gets when no other is given."""
    return f"{alias}-gram-{generation.lower()}-{at:%Y%m%d%H%M%S}"


def is_own_name(name: str, alias: str) -> bool:
    """Whether `own_name` may have made it for this alias."""
    return re.fullmatch(rf"{re.escape(alias)}-gram-[^/]+-\d{{14}}", name) is not None


def creation_body(found: Mapping[str, Any], mark: Mark, *, weighted: bool) -> dict[str, Any]:
    """The body that makes an index like `found`, with the `gram` fields and our mark.

    A final pipeline is left out until the swap: it would run on products that have been through it.
    """
    index = {key: value for key, value in found["settings"]["index"].items() if key not in _OWN}
    index.get("routing", {}).get("allocation", {}).pop("initial_recovery", None)
    mappings = dict(found.get("mappings") or {})
    gram = component_template(weighted=weighted)["template"]["mappings"]["properties"]
    meta = dict(mappings.get("_meta") or {})
    ours = meta.get(FIELD)
    meta[FIELD] = {**(ours if isinstance(ours, Mapping) else {}), _MARK: asdict(mark)}
    properties = {**mappings.get("properties", {}), **gram}
    return {"settings": {"index": index}, "mappings": {**mappings, "_meta": meta, "properties": properties}}


def mark_of(found: Mapping[str, Any]) -> Mark | None:
    """The mark of an index, None where no backfill made it."""
    ours = (found.get("mappings", {}).get("_meta") or {}).get(FIELD)
    document = ours.get(_MARK) if isinstance(ours, Mapping) else None
    try:
        return Mark(**{key: str(value) for key, value in document.items()}) if isinstance(document, Mapping) else None
    except TypeError:
        return None


def swap_actions(aliases: Mapping[str, Any], alias: str, source: str, name: str) -> list[dict[str, Any]]:
    """The actions that take an alias from the source and give it to the copy, with what it said about itself.

    Args:
        aliases: all aliases by index, as `GET _alias` gives them.
        alias: the name to be moved.
        source: index that has it now, or nobody has.
        name: index that gets it.
    """
    held = aliases.get(source, {}).get("aliases", {}).get(alias)
    taken = [] if held is None else [{"remove": {"index": source, "alias": alias, "must_exist": True}}]
    return [*taken, {"add": {**(held or {}), "index": name, "alias": alias}}]


def refuse_other_aliases(aliases: Mapping[str, Any], mark: Mark) -> None:
    """Makes sure that all writers of the source come through the alias that moves: to the others it would be blocked.

    Args:
        aliases: of the source, as its description names them.
        mark: source and alias; an alias that does not lead to the source yet blocks nobody.

    Raises:
        ConfigError: the source has further aliases.
    """
    others = sorted(aliases.keys() - {mark.alias})
    if mark.alias in aliases and others:
        raise ConfigError(
            f"{mark.source} has the aliases {', '.join(others)} besides {mark.alias}: when {mark.alias} moves it is "
            "blocked, and who writes through another alias would be refused",
            next_step=f"let everybody use {mark.alias} and take the others away; or pass an --alias that does not "
            "exist yet, which blocks nothing, and move all of them yourself",
        )


def removable(indices: Mapping[str, Any], alias: str) -> list[str]:
    """Indices that a backfill made and named for this alias and that carry no alias at all, in order."""
    return [
        name
        for name, found in sorted(indices.items())
        if is_own_name(name, alias) and not found.get("aliases") and (mark := mark_of(found)) and mark.alias == alias
    ]


def unfinished(indices: Mapping[str, Any], mark: Mark) -> str | None:
    """The newest index that a backfill has named itself and made for this very copy."""
    names = [name for name, found in indices.items() if is_own_name(name, mark.alias) and mark_of(found) == mark]
    return max(names, default=None)


class NewIndex:
    """An index that is made for a copy of another one.

    Args:
        requests: to OpenSearch.
        name: of the new index.
        mark: what it says of itself.
    """

    def __init__(self, requests: Requests, name: str, mark: Mark) -> None:
        self._requests = requests
        self.name = name
        self.mark = mark

    async def make(self) -> None:
        """Makes the index, or makes sure that an interrupted run has made it for the same copy.

        Raises:
            ConfigError: the names are in use for something else.
            SearchError: OpenSearch refused it.
        """
        await self._check_alias()
        source = await self._read(self.mark.source)
        refuse_other_aliases(source.get("aliases") or {} if source else {}, self.mark)
        found = await self._read(self.name)
        if found is None:
            moves = self.mark.source in await self._behind_alias()
            await self._create(replace(self.mark, moves="yes" if moves else "no"))
        elif mark_of(found) != self.mark:
            raise ConfigError(
                f"the index {self.name} exists and is no copy of {self.mark.source} for {self.mark.alias} by "
                f"generation {self.mark.generation}",
                next_step="name another one with --into",
            )

    async def _create(self, mark: Mark) -> None:
        source = await self._read(self.mark.source)
        if source is None:
            raise MappingError(f"there is no index {self.mark.source}", next_step="check the name")
        for weighted in (True, False):
            body = creation_body(source, mark, weighted=weighted)
            expected = (_NO_HANDLER,) if weighted else ()
            path = f"/{quoted(self.name)}"
            if await self._requests.ask(f"making {self.name}", "PUT", path, body=body, expected=expected) is not None:
                return

    async def _check_alias(self) -> None:
        """An alias that leads elsewhere would lose what it leads to."""
        if await self._read(self.mark.alias, only_concrete=True) is not None:
            raise ConfigError(
                f"--alias {self.mark.alias} is the name of an index, so it can be no alias",
                next_step="choose another name for the alias and let searches and writers use that",
            )
        others = set(await self._behind_alias()) - {self.mark.source, self.name}
        if others:
            raise ConfigError(
                f"the alias {self.mark.alias} leads to {', '.join(sorted(others))} besides {self.mark.source}",
                next_step="choose an alias that leads to the source alone, or one that does not exist",
            )

    async def _read(self, name: str, *, only_concrete: bool = False) -> dict[str, Any] | None:
        """Aliases, mappings and settings of an index; None where there is none of this name."""
        answer = await self._requests.ask(f"reading {name}", "GET", f"/{quoted(name)}", expected=(404,))
        if answer is None or (only_concrete and name not in answer):
            return None
        found: dict[str, Any] = answer.get(name) or next(iter(answer.values()))
        return found

    async def _aliases(self) -> dict[str, Any]:
        names = f"{quoted(self.mark.source)},{quoted(self.name)}"
        answer: dict[str, Any] = await self._requests.ask("reading aliases", "GET", f"/{names}/_alias")
        return answer

    async def _behind_alias(self) -> dict[str, Any]:
        path = f"/_alias/{quoted(self.mark.alias)}"
        return await self._requests.ask("reading the alias", "GET", path, expected=(404,)) or {}

    async def is_swapped(self) -> bool:
        """Whether the alias leads to the new index already."""
        return self.name in await self._behind_alias()

    async def counts(self) -> Counts:
        """How many products both indices have, everything acknowledged included."""
        return Counts(await self._count(self.mark.source), await self._count(self.name))

    async def _count(self, index: str) -> int:
        await self._requests.ask("refreshing", "POST", f"/{quoted(index)}/_refresh")
        answer = await self._requests.ask("counting", "GET", f"/{quoted(index)}/_count")
        count: int = answer["count"]
        return count

    async def swap(self) -> None:
        """Moves the alias at one stroke: no search meets neither or both of the indices.

        Raises:
            SearchError: the counts differ, the new index is not the one that was filled, or OpenSearch refused it.
        """
        counts = await self.counts()
        if not counts.are_equal:
            raise unequal(self.mark.source, self.name, counts)
        found, source = await self._read(self.name), await self._read(self.mark.source)
        if found is None or source is None or mark_of(found) != self.mark:
            raise SearchError(f"{self.name} is no longer the copy of {self.mark.source}", next_step=RESUME)
        pipeline = source["settings"]["index"].get("final_pipeline")
        if pipeline:
            body = {"index": {"final_pipeline": pipeline}}
            await self._requests.ask("setting the pipeline", "PUT", f"/{quoted(self.name)}/_settings", body=body)
        actions = swap_actions(await self._aliases(), self.mark.alias, self.mark.source, self.name)
        await self._requests.ask("moving the alias", "POST", "/_aliases", body={"actions": actions})

    async def close_source(self) -> bool:
        """Refuses further writes to the source, if its writers came through the alias, and lets those under way end.

        A write that was sent through the alias before it moved may take place after: it is then found, or refused.

        Returns:
            Whether the source takes no more writes.
        """
        found = await read_mark(self._requests, self.name)
        if not found or found.moves != "yes":
            return False
        path = f"/{quoted(self.mark.source)}/_block/write"
        await self._requests.ask(f"blocking writes to {self.mark.source}", "PUT", path)
        return True


async def read_mark(requests: Requests, name: str) -> Mark | None:
    """The mark of an index; None where no backfill made it or there is none."""
    answer = await requests.ask(f"reading {name}", "GET", f"/{quoted(name)}", expected=(404,))
    return mark_of(answer.get(name, {})) if answer else None


async def find_own(requests: Requests, alias: str) -> dict[str, Any]:
    """Every index that has a name such as a backfill gives for this alias."""
    path, params = f"/{quoted(alias)}-gram-*", {"expand_wildcards": "all"}
    answer: dict[str, Any] = await requests.ask("reading indices", "GET", path, params=params)
    return answer


async def remove(requests: Requests, name: str, alias: str) -> bool:
    """Deletes one of them, after another look at it; False when it has an alias now or is gone."""
    answer = await requests.ask(f"reading {name}", "GET", f"/{quoted(name)}", expected=(404,))
    if not answer or removable(answer, alias) != [name]:
        return False
    await requests.ask(f"deleting {name}", "DELETE", f"/{quoted(name)}")
    return True


def unequal(source: str, name: str, counts: Counts) -> SearchError:
    """Why an alias is not moved."""
    return SearchError(
        f"the alias was not moved: {source} has {counts.source} products, {name} has {counts.copy}",
        next_step="look at the dead letters, let writers pause, then run the same command again",
    )
