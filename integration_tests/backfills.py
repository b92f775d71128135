"""What tests of the backfill share: products, what an index ends as, and `gram` as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch

from gram_plugin.contract.bundle import read_manifest
from gram_plugin.contract.text import render_product, source_hash
from gram_plugin.node.node import RunningNode
from gram_plugin.search.mappings import component_template

GRAM = [sys.executable, "-m", "gram_plugin.cli"]
BUNDLE = Path(__file__).parents[1] / "plugin/tests/decode/tiny_bundle"
MANIFEST = read_manifest(BUNDLE)
GRAM_FIELDS = component_template(weighted=True)["template"]["mappings"]["properties"]
SEED = 20261121
OLD = {"codes": ["g0/type=old"], "weights": {"g0/type=old": 0.5}, "model": "g0", "source": "0", "at": 0}
"""The `gram` object of an earlier model."""


def plain_environment() -> dict[str, str]:
    """The environment of this process without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GRAM_")}


def create(client: OpenSearch, index: str, *, shards: int = 2) -> None:
    """An index with the gram fields."""
    properties = {"title": {"type": "text"}, "price": {"type": "double"}, **GRAM_FIELDS}
    settings = {"number_of_shards": shards, "number_of_replicas": 0}
    client.indices.create(index=index, body={"mappings": {"properties": properties}, "settings": settings})


def products(number: int) -> dict[str, dict[str, Any]]:
    """Products by id."""
    return {f"p{n}": {"title": f"grey velvet sofa {n} with a tall back", "price": n} for n in range(number)}


def put(client: OpenSearch, index: str, documents: Mapping[str, Any], **more: Any) -> None:
    """Writes documents past every sidecar; a lone surrogate travels as an escape."""
    lines = [line for name, found in documents.items() for line in ({"index": {"_id": name, **more}}, found)]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    answer = client.bulk(index=index, body=body, refresh=True)
    assert not answer["errors"], answer


def hits(client: OpenSearch, index: str) -> dict[str, Any]:
    """Every hit of an index by id, with its version."""
    client.indices.refresh(index=index)
    body = {"size": 10_000, "query": {"match_all": {}}, "version": True}
    return {hit["_id"]: hit for hit in client.search(index=index, body=body)["hits"]["hits"]}


def versions(client: OpenSearch, index: str) -> dict[str, int]:
    """The version of every document."""
    return {name: hit["_version"] for name, hit in hits(client, index).items()}


def stored(client: OpenSearch, index: str) -> dict[str, Any]:
    """Every document of an index by id; of `gram` without the time, weights in one object."""
    documents = {name: hit["_source"] for name, hit in hits(client, index).items()}
    for document in documents.values():
        if gram := document.get("gram"):
            gram.pop("at", None)
            weights = gram.get("weights")
            gram["weights"] = weights[0] if isinstance(weights, list) and weights else weights or {}
    return documents


def plain(documents: Mapping[str, Any]) -> dict[str, Any]:
    """The documents without their `gram` objects."""
    return {name: {key: value for key, value in found.items() if key != "gram"} for name, found in documents.items()}


def hash_of(title: str) -> str:
    """What `gram.source` is for a product of this title."""
    return source_hash(render_product({"title": title}, MANIFEST.rendering), MANIFEST.generation)


def sources_of(documents: Mapping[str, Any]) -> dict[str, str]:
    """The hash of the text that each product was coded from."""
    return {name: document["gram"]["source"] for name, document in documents.items()}


def hashes_of(documents: Mapping[str, Any]) -> dict[str, str]:
    """The hash of the text that each product has."""
    return {name: hash_of(document["title"]) for name, document in documents.items()}


def command(node: RunningNode, index: str, *arguments: str) -> list[str]:
    """One `gram backfill` of small pages, so that there are many moments to die at."""
    place = ["backfill", index, "--url", node.url, "--bundle", str(BUNDLE)]
    return [*GRAM, *place, "--json", "--bulk", "10", "--threads", "1", *arguments]


def run(
    folder: Path, environment: Mapping[str, str], words: list[str], code: int = 0
) -> subprocess.CompletedProcess[str]:
    """One command to its end, which must have this exit code."""
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    return done


def report_of(folder: Path, environment: Mapping[str, str], words: list[str]) -> dict[str, Any]:
    """The report of a `gram backfill --json` that must end well."""
    report: dict[str, Any] = json.loads(run(folder, environment, words).stdout)
    return report


def start(folder: Path, environment: Mapping[str, str], words: list[str]) -> subprocess.Popen[str]:
    """A command that goes on; its standard output can be read, what it says lies in said.log."""
    with (folder / "said.log").open("ab") as said:
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=said, text=True)


def wait_for(condition: Callable[[], bool], limit_s: float = 120) -> None:
    """Until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)


def kill_after(process: subprocess.Popen[str], checkpoint: Path, changes: int, later_s: float = 0.0) -> bool:
    """Kills a process some time after its checkpoint has changed so many times; False when it ended before."""
    seen, moment = 0, 0
    while process.poll() is None and seen < changes:
        found = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        seen += found != moment
        moment = found
        time.sleep(0.0005)
    time.sleep(later_s)  # reading, coding, writing or saving: whatever it does then
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL
