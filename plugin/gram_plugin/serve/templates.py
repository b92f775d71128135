"""Search templates: rendered by OpenSearch, read as any search, and sent on as templates that hold the enriched search.

What goes on is a template again, at the same endpoint, so that the answer and the meaning of every parameter stay:
`{{#toJson}}gram{{/toJson}}` writes the parameter `gram`, which is the search body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gram_plugin.errors import SearchError
from gram_plugin.search.query import Mode
from gram_plugin.serve.bodies import beside_others, read_plainly
from gram_plugin.serve.deadline import Clock, Deadline
from gram_plugin.serve.http import Upstream
from gram_plugin.serve.indices import is_for_lookup
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.searches import (
    Frame,
    Item,
    Line,
    Search,
    Target,
    Wishes,
    item_of,
    lines_of,
    read_json,
    write_json,
)
from gram_plugin.serve.status import NotEnriched, Reason, degraded, off

LOG = logging.getLogger(__name__)

RENDER = "/_render/template"
PARAMETER = "gram"
SOURCE = "{{#toJson}}gram{{/toJson}}"
MAX_TEMPLATES = 64
"""Templates of one request that are rendered; the others of a longer `_msearch/template` stay as they are."""
MAX_RENDERED_BYTES = 4_000_000

_JSON = (b"content-type", b"application/json")
_EXTENSION = b"gram"
_OF_THE_TEMPLATE = ("id", "source", "inline", "file", "params")
_NOT_RESCORED = frozenset({"explain", "profile"})
"""Keys of a template request that say of its search what a body says by the same names."""
"""Keys of a template request that say what is searched for; the others say how the answer looks."""


class Templates:
    """Reads the searches that templates stand for.

    Args:
        upstream: renders them, on behalf of the caller.
        clock: seconds that never run backwards.
        has_model: whether there is a model that could give codes.
    """

    def __init__(self, upstream: Upstream, clock: Clock = time.monotonic, *, has_model: bool = True) -> None:
        self._upstream = upstream
        self._clock = clock
        self._has_model = has_model

    async def items_of(
        self, body: bytes, target: Target, wishes: Wishes, headers: Headers, since_s: float
    ) -> list[Item]:
        """The searches of a template request; a template that cannot be rendered in time stays as it is.

        Raises:
            NotEnriched: the body as a whole is not what the endpoint takes.
        """
        lines = lines_of(body, target.kind)
        deadline = Deadline(since_s + wishes.budget_ms / 1000, self._clock)
        sent = [_JSON, *((name, value) for name, value in headers if is_for_lookup(name.lower()))]
        rendered = [self._item(line, target, wishes, sent, deadline) for line in lines[:MAX_TEMPLATES]]
        others = [Item(line.head, line.body, off(Reason.TEMPLATE)) for line in lines[MAX_TEMPLATES:]]
        return [*await asyncio.gather(*rendered), *others]

    async def _item(self, line: Line, target: Target, wishes: Wishes, headers: Headers, deadline: Deadline) -> Item:
        try:
            template = read_json(line.body)
            self._require_use(template, line.body, wishes)
            async with asyncio.timeout(deadline.remaining_s):
                found = await self._rendered(line.body, headers)
            return await beside_others(len(found), lambda: item_from(line, template, found, target, wishes))
        except NotEnriched as end:
            return Item(line.head, line.body, end.status)
        except TimeoutError:
            return Item(line.head, line.body, degraded(Reason.LATE))
        except (SearchError, ValueError, RecursionError) as error:
            LOG.debug("a template could not be rendered: %r", error)
            return Item(line.head, line.body, off(Reason.TEMPLATE))

    def _require_use(self, template: Mapping[str, Any], body: bytes, wishes: Wishes) -> None:
        """A template that can get no codes is rendered only where an `ext.gram` may have to be taken out of it."""
        if _EXTENSION in body or "id" in template or "source" not in template:
            return
        if wishes.mode is Mode.OFF:
            raise NotEnriched(off(Reason.MODE))
        if not self._has_model:
            raise NotEnriched(degraded(Reason.NO_MODEL))

    async def _rendered(self, template: bytes, headers: Headers) -> bytes:
        """What OpenSearch makes of a template; its own refusals come again when the search itself is sent."""
        answer = await self._upstream.send("POST", RENDER, "", headers, template, max_bytes=MAX_RENDERED_BYTES)
        if answer.status != 200:
            raise SearchError(f"rendering a template was answered with {answer.status}")
        return await beside_others(len(answer.body), lambda: _output(answer.body))


def _output(answer: bytes) -> bytes:
    """The search in the answer to a rendering."""
    document = read_plainly(answer)
    output = document.get("template_output") if isinstance(document, dict) else None
    if not isinstance(output, dict):
        raise SearchError("a rendered template is no search")
    return write_json(output, len(answer))


def item_from(line: Line, template: Mapping[str, Any], rendered: bytes, target: Target, wishes: Wishes) -> Item:
    """The search that a template stands for; what goes to OpenSearch is a template around a search body."""
    found = item_of(line.head, rendered, target, wishes)
    frame = frame_of(template)
    lexical = line.body if found.lexical == rendered else frame.before + found.lexical + frame.behind
    wanted = found.wanted
    if isinstance(wanted, Search) and not _NOT_RESCORED.isdisjoint(template):
        wanted = replace(wanted, rescorable=False)
    return replace(found, lexical=lexical, frame=frame, wanted=wanted)


def frame_of(template: Mapping[str, Any]) -> Frame:
    """What makes a template request of a search body, with everything else that the client's template request says."""
    rest = {key: value for key, value in template.items() if key not in _OF_THE_TEMPLATE}
    start = write_json({**rest, "source": SOURCE})
    return Frame(start[:-1] + b',"params":{"' + PARAMETER.encode() + b'":', b"}}")
