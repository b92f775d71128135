"""A sidecar whose model gives a code for each word, and what the index then holds: what tests of it share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from opensearchpy import OpenSearch
from starlette.types import ASGIApp

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering
from gram_plugin.errors import DecodeError
from gram_plugin.search.mappings import component_template
from gram_plugin.serve.coding import CodingRules
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import create_sidecar
from sofas import hosted

FIELDS = {"title": {"type": "text"}, "price": {"type": "double"}}


class WordGenerator:
    """One code for each distinct word; fails on `poison`."""

    generation = "g1"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.down = False

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of the words, in order of the alphabet."""
        self.texts.extend(texts)
        if self.down or any("poison" in text for text in texts):
            raise DecodeError("no")
        codes = [[Attribute.of("type", word[:9]) for word in sorted(set(text.split()))] for text in texts]
        return [[ScoredCode(Code.of([attribute]), 0.5) for attribute in found[:limit]] for found in codes]


@dataclass(frozen=True)
class Pair:
    """A client of the node, a client of a sidecar before it, and the sidecar's model."""

    direct: OpenSearch
    coded: OpenSearch
    url: str
    generator: WordGenerator


@contextmanager
def serving(url: str, generator: WordGenerator) -> Iterator[str]:
    """A sidecar on a free port, in a thread of its own."""
    settings = SidecarSettings(upstream_url=url, mapping_age_s=0.0)
    with served(create_sidecar(settings, generator, CodingRules(Rendering(("title",))))) as address:
        yield address


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Any application, served without a log."""
    with hosted(uvicorn.Config(app, log_config=None, access_log=False, ws="none")) as url:
        yield url


def create(client: OpenSearch, index: str, *, gram: bool = True, dynamic: Any = True) -> None:
    """Makes an index, with the gram fields unless told otherwise."""
    gram_fields = component_template(weighted=True)["template"]["mappings"]["properties"] if gram else {}
    mappings = {"dynamic": dynamic, "properties": {**FIELDS, **gram_fields}}
    client.indices.create(
        index=index, body={"mappings": mappings, "settings": {"number_of_shards": 1, "number_of_replicas": 0}}
    )


def raw(client: OpenSearch, method: str, path: str, body: bytes) -> list[Any]:
    """Status and answer of a request whose body is sent as it is."""
    headers = {"content-type": "application/x-ndjson"}
    connection = client.transport.get_connection()
    status, _, text = connection.perform_request(method, path, body=body, headers=headers, ignore=range(400, 600))
    return [status, json.loads(text)]


def stored(client: OpenSearch, index: str, *, times: bool = False) -> dict[str, Any]:
    """Every document of an index by id, without the times of the codes."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, body={"size": 1000, "query": {"match_all": {}}})["hits"]["hits"]
    documents = {hit["_id"]: hit["_source"] for hit in hits}
    for document in documents.values():
        if not times:
            document.get("gram", {}).pop("at", None)
    return documents


def plain(documents: dict[str, Any]) -> dict[str, Any]:
    """The documents without their `gram` objects."""
    return {name: {key: value for key, value in found.items() if key != "gram"} for name, found in documents.items()}


def settled(answer: Any, index: str) -> Any:
    """An answer without what differs between two runs: the time it took, the name and the identity of the index."""
    if isinstance(answer, dict):
        kept = {key: value for key, value in answer.items() if key not in {"took", "index_uuid"}}
        return {key: settled(value, index) for key, value in kept.items()}
    if isinstance(answer, list):
        return [settled(value, index) for value in answer]
    if isinstance(answer, str):
        # Where in a line the parser stopped moves with the bytes that we added.
        return answer.replace(index, "INDEX").partition("; byte offset")[0]
    return answer


def ndjson(*lines: Any) -> bytes:
    """Lines of a `_bulk` body; bytes stand as they are."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
