"""curl, as it is called in every runbook: through shim and sidecar, and straight to OpenSearch, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opensearchpy import OpenSearch

from gram_plugin.node.node import RunningNode
from programs import find, output
from sidecars import Pair, create, ndjson, plain, settled, stored
from sofas import MATCH, ids

TEMPLATE = "curl-template"
JSON = ("--header", "content-type: application/json")
NDJSON = ("--header", "content-type: application/x-ndjson")
TOOK = re.compile(rb'("took" ?: ?|took: )\d+')
TOTAL = re.compile(rb'"?value"? ?: ?(\d+)')
QUERY = json.dumps({"query": MATCH, "size": 20})
SETTEE = json.dumps({"query": {"match": {"title": "settee"}}, "size": 200})
PARAMETERS = {"text": "red couch"}


def curl(*arguments: str, data: bytes | None = None) -> bytes:
    """What curl prints."""
    program = find("curl", "install curl (Debian: apt-get install curl)")
    return output([program, "--silent", "--show-error", *arguments], data=data)


@pytest.fixture(scope="module")
def template(client: OpenSearch) -> Iterator[str]:
    """A search template that is stored in the cluster."""
    source = {"query": {"match": {"title": "{{text}}"}}, "size": 20}
    client.put_script(id=TEMPLATE, body={"script": {"lang": "mustache", "source": source}})
    yield TEMPLATE
    client.delete_script(id=TEMPLATE)


CALLS: dict[str, tuple[str, ...]] = {
    "get": ("--request", "GET", "SHOP/_search", *JSON, "--data", QUERY),
    "post": ("SHOP/_search", *JSON, "--data", QUERY),
    "pretty": ("SHOP/_search?pretty", *JSON, "--data", QUERY),
    "yaml": ("SHOP/_search?format=yaml", *JSON, "--data", QUERY),
    "compressed": ("--compressed", "SHOP/_search", *JSON, "--data", QUERY),
    "http-1.0": ("--http1.0", "SHOP/_search", *JSON, "--data", QUERY),
    "chunked": ("--header", "transfer-encoding: chunked", "SHOP/_search", *JSON, "--data", QUERY),
    "waits-for-100": ("--header", "expect: 100-continue", "SHOP/_search", *JSON, "--data", QUERY),
    "gzip": ("--header", "content-encoding: gzip", "SHOP/_search", *JSON, "--data-binary", "@FOLDER/query.gz"),
    "msearch": ("SHOP/_msearch", *NDJSON, "--data-binary", "@FOLDER/searches"),
    "stored": ("SHOP/_search/template", *JSON, "--data", json.dumps({"id": TEMPLATE, "params": PARAMETERS})),
    "inline": (
        "SHOP/_search/template",
        *JSON,
        "--data",
        json.dumps({"source": {"query": {"match": {"title": "{{text}}"}}}, "params": PARAMETERS}),
    ),
    "without-body": ("SHOP/_search?q=title:couch&size=3",),
    "without-type": ("SHOP/_search", "--data", QUERY),
    "broken": ("SHOP/_search", *JSON, "--data", '{"query": {'),
    "in-off": ("--header", "x-gram-mode: off", "SHOP/_search", *JSON, "--data", QUERY),
    "cat": ("NODE/_cat/count/INDEX?h=count",),
    "head": ("--head", "--output", "FOLDER/none", "SHOP"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the calls send."""
    (tmp_path / "query.gz").write_bytes(gzip.compress(QUERY.encode()))
    (tmp_path / "searches").write_bytes(ndjson({}, {"query": MATCH}, {"index": "nowhere"}, {"query": MATCH}))
    return tmp_path


@dataclass(frozen=True)
class Printed:
    """What curl shows of an answer: the head without what belongs to one run or connection, our header, the body."""

    head: list[str]
    mark: str | None
    body: bytes


def called(url: str, index: str, folder: Path, name: str) -> Printed:
    """The answer to one of the calls."""
    where = {"SHOP": f"{url}/{index}", "NODE": url, "INDEX": index, "FOLDER": str(folder)}
    words = [re.sub("|".join(where), lambda found: where[found[0]], word) for word in CALLS[name]]
    body = curl("--dump-header", str(folder / "head"), *words)
    lines = (folder / "head").read_text(encoding="ascii").lower().splitlines()
    mark = next((line.partition(": ")[2] for line in lines if line.startswith("x-gram-status:")), None)
    lines[0] = lines[0].partition(" ")[2]  # to HTTP/1.0 OpenSearch answers in HTTP/1.0, we in HTTP/1.1
    volatile = ("content-length", "connection", "x-gram-status")  # the length goes with the digits of `took`
    return Printed([line for line in lines if not line.startswith(volatile)], mark, TOOK.sub(rb"\1", body))


@pytest.mark.parametrize("name", CALLS)
def test_in_off_every_call_prints_what_it_prints_directly(
    node: RunningNode, shop: str, modes: dict[str, str], template: str, folder: Path, name: str
) -> None:
    """GET with a body, templates, compression, YAML, chunks, errors: the same head and bytes, but for the time."""
    direct, off = (called(url, shop, folder, name) for url in (node.url, modes["off"]))
    assert (off.head, off.body) == (direct.head, direct.body)
    assert (direct.mark, off.mark is None) == (None, name in ("cat", "head"))


def test_in_recall_every_call_that_can_get_codes_gets_them(
    shop: str, modes: dict[str, str], template: str, folder: Path
) -> None:
    """Whatever the method, the framing, the compression and the form of the answer: marked, and 20 products more."""
    found = {name: called(modes["recall"], shop, folder, name) for name in CALLS}
    assert {name: printed.mark for name, printed in found.items()} == {
        **dict.fromkeys(CALLS, "applied"),
        "msearch": "applied; items=1/2",
        "in-off": "off; reason=mode",
        "without-body": "off; reason=no-body",
        "without-type": "off; reason=content-type",
        "broken": "off; reason=invalid-json",
        "cat": None,
        "head": None,
    }
    totals = {name: TOTAL.search(printed.body) for name, printed in found.items() if "applied" in str(printed.mark)}
    assert {name: total and int(total[1]) for name, total in totals.items()} == dict.fromkeys(totals, 100)


def test_one_connection_serves_several_calls(shop: str, modes: dict[str, str], folder: Path) -> None:
    """A search, a count and a search by curl in one go: one connection is made, and each has its own answer."""
    place, count = f"{modes['recall']}/{shop}", ("--write-out", "%{num_connects} %{http_code}\n", "--output")
    search = ("--data", SETTEE, *JSON, f"{place}/_search")
    first, second = str(folder / "first"), str(folder / "second")
    between = ("--next", "--silent", *count, str(folder / "count"), f"{place}/_count")
    printed = curl(*count, first, *search, *between, "--next", "--silent", *count, second, *search)
    assert printed.decode().split("\n") == ["1 200", "0 200", "0 200", ""]
    hits = [ids(json.loads(Path(name).read_bytes())) for name in (first, second)]
    assert (set(hits[0]), hits[0]) == ({str(n) for n in range(120) if n % 6 in (0, 1, 2)}, hits[1])
    assert json.loads((folder / "count").read_bytes())["count"] == 120


BAD = (
    {"index": {"_id": "bad"}},
    {"title": "shoe", "price": "cheap"},
    {"create": {"_id": "0"}},
    {"title": "created twice"},
    {"delete": {"_id": "nothing"}},
)


@pytest.mark.parametrize("how", ["file", "gzip", "chunked", "newlines-lost"])
def test_a_bulk_from_a_file_gets_the_answer_of_a_direct_one_and_codes(
    node: RunningNode, pair: Pair, index_name: str, tmp_path: Path, how: str
) -> None:
    """More than a megabyte, so that curl waits for `100 Continue`: the answer item by item, errors too, and codes."""
    good = (
        line for n in range(1500) for line in ({"index": {"_id": str(n)}}, {"title": f"shoe {n}", "text": "x" * 700})
    )
    body = ndjson(*good, *BAD)
    (tmp_path / "bulk").write_bytes(gzip.compress(body) if how == "gzip" else body)
    sent = {
        "file": ("--data-binary", f"@{tmp_path}/bulk"),
        "gzip": ("--header", "content-encoding: gzip", "--data-binary", f"@{tmp_path}/bulk"),
        "chunked": ("--request", "POST", "--upload-file", "-"),
        "newlines-lost": ("--data", f"@{tmp_path}/bulk"),  # what --data does to a file: the usual mistake
    }[how]
    answers = []
    for url, index in ((node.url, f"{index_name}-direct"), (pair.url, f"{index_name}-behind")):
        create(pair.direct, index)
        answer = json.loads(curl(f"{url}/{index}/_bulk?refresh=true", *NDJSON, *sent, data=body))
        answers.append(settled(answer, index))
    documents = stored(pair.direct, f"{index_name}-behind")
    assert answers[1] == answers[0]
    assert plain(documents) == stored(pair.direct, f"{index_name}-direct")
    coded = {name: [f"g1/type={name}", "g1/type=shoe"] for name in documents}
    assert {name: document["gram"]["codes"] for name, document in documents.items()} == coded
    assert len(documents) == (0 if how == "newlines-lost" else 1000)


def test_single_documents_are_coded(pair: Pair, index_name: str, tmp_path: Path) -> None:
    """PUT from a file, POST without an id, a partial update: OpenSearch's own answers, and codes."""
    create(pair.direct, index_name)
    (tmp_path / "shoe.json").write_text('{"title": "red shoe"}', encoding="utf-8")
    place = f"{pair.url}/{index_name}"
    calls = (
        (f"{place}/_doc/1", *JSON, "--upload-file", str(tmp_path / "shoe.json")),
        (f"{place}/_doc", *JSON, "--data", '{"title": "blue shoe"}'),
        (f"{place}/_update/1", *JSON, "--data", '{"doc": {"title": "red boot"}}'),
        (f"{place}/_create/1", *JSON, "--data", '{"title": "created twice"}'),
    )
    answers = [json.loads(curl(*call)) for call in calls]
    outcomes = [answer.get("result") or answer["error"]["type"] for answer in answers]
    assert outcomes == ["created", "created", "updated", "version_conflict_engine_exception"]
    codes = [document["gram"]["codes"] for document in stored(pair.direct, index_name).values()]
    assert sorted(codes) == [["g1/type=blue", "g1/type=shoe"], ["g1/type=boot", "g1/type=red"]]
