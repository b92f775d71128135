"""The explanation in the body of an answer: `ext.gram`, when its client asked for it; all else of the answer stays."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gram_plugin.errors import SearchError
from gram_plugin.search.explaining import POINTS_PARAMETER, points_of, short, shown_codes, without_points
from gram_plugin.serve.bodies import beside_others, read_plainly, write_plainly
from gram_plugin.serve.enriching import Decision
from gram_plugin.serve.exchange import Exchanged
from gram_plugin.serve.http import RelayedResponse, header, inflated, replace_headers, upstream_error
from gram_plugin.serve.outgoing import Headers
from gram_plugin.serve.searches import Item, Search, Target

MAX_EXPLAINED_BYTES = 4_000_000
"""An answer that is larger goes on without an explanation."""

_FRAMING = frozenset({b"content-length", b"content-encoding"})


async def explained(done: Exchanged, item: Item, target: Target, extra_headers: Headers) -> Response:
    """The answer to one search with `ext.gram` in it; an error, or what cannot be read, as OpenSearch sent it."""
    stream = done.stream
    if stream.status != 200:
        return RelayedResponse(stream, extra_headers)
    try:
        body = await stream.gather(MAX_EXPLAINED_BYTES)
    except SearchError as error:
        stream.close()
        return upstream_error(error, extra_headers)
    encoding = header(stream.headers, b"content-encoding")
    keep_points = target.parameters.get(POINTS_PARAMETER, "false") in ("", "true")
    content = None
    if body is not None:
        sent = body
        content = await beside_others(
            len(sent), lambda: _with_explanation(sent, encoding, item, done.decisions[0], keep_points)
        )
    if content is None:
        return RelayedResponse(stream, extra_headers)
    stream.close()
    headers = [pair for pair in stream.headers if pair[0].lower() not in _FRAMING]
    response = Response(content, status_code=stream.status)
    length = (b"content-length", str(len(content)).encode())
    response.raw_headers = replace_headers(headers, [*extra_headers, length])
    return response


def explanation(item: Item, decision: Decision, hits: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of a search, its codes, and where the score of each of its hits comes from, in their order."""
    status, added, wanted = decision.status, decision.added, item.wanted
    document: dict[str, Any] = {"status": str(status.outcome)}
    if status.reason is not None:
        document["reason"] = str(status.reason)
    if isinstance(wanted, Search):
        document |= {"mode": str(wanted.mode), "query": wanted.text}
    if added is None:
        return {**document, "codes": [], "hits": []}
    return {
        **document,
        "generation": added.generation,
        "strength": short(added.settings.strength),
        "codes": shown_codes(added.codes, added.settings),
        "hits": [points_of(hit, added.codes, added.settings).document() for hit in hits],
    }


def _with_explanation(
    body: bytes, encoding: bytes | None, item: Item, decision: Decision, keep_points: bool
) -> bytes | None:
    """The answer's bytes with `ext.gram`; None when it is no JSON object, or damaged."""
    text = inflated(encoding, body, MAX_EXPLAINED_BYTES)
    try:
        answer = read_plainly(text) if text is not None else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    found = answer.get("hits")
    hits = found.get("hits") if isinstance(found, dict) else None
    told = explanation(item, decision, hits if isinstance(hits, list) else [])
    plain = without_points(answer, keep_points=keep_points)
    others = plain.get("ext")
    plain["ext"] = {**(others if isinstance(others, dict) else {}), "gram": told}
    written = write_plainly(plain, len(text or b""), allow_nan=True, ensure_ascii=False)
    return written.encode("utf-8", "surrogatepass")
