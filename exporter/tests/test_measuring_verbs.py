"""The verbs `gram tune` and `gram evaluate` on a server that plays OpenSearch and shim, and what they refuse."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gram_exporter.tune import STRENGTHS
from gram_plugin.cli import build_app
from gram_plugin.contract.bundle import Bundle
from gram_plugin.search.mappings import component_template

CALIBRATION = {"generation": "g1", "strength": 0.5, "score_scale": 2.0, "queries": 10, "at": "2026-01-01T00:00:00Z"}
GRAM_TOML = """
[catalogue]
path = "products.jsonl"
id = "id"
text = ["title"]

[search]
index = "shop"
fields = ["title"]
"""
HITS = {"hits": {"hits": [{"_id": "a", "_score": 2.0}, {"_id": "b", "_score": 1.0}]}}


@dataclass(frozen=True)
class Reply:
    """One answer of the server."""

    status: int = 200
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


Rule = Callable[[str, Mapping[str, Any]], Reply]


def mapping(calibration: Mapping[str, Any] | None = CALIBRATION) -> dict[str, Any]:
    """The mapping of an index with our fields."""
    fields = component_template(weighted=True)["template"]["mappings"]["properties"]
    meta = {"_meta": {"gram": {"calibration": calibration}}} if calibration else {}
    return {"shop": {"mappings": {"properties": fields, **meta}}}


def shop(path: str, body: Mapping[str, Any]) -> Reply:
    """An index of two products, and a shim that applies its codes."""
    if path.endswith("/_mapping"):
        return Reply(body=mapping())
    wish = body.get("ext", {}).get("gram")
    return Reply(body=HITS, headers={"x-gram-status": "applied"} if wish else {})


@contextmanager
def serving(rule: Rule) -> Iterator[str]:
    """A server on loopback that answers by a rule."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length", 0)))
            lines = [json.loads(line) for line in text.splitlines()]
            reply = rule(self.path, lines[0] if lines else {})
            data = json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Desk:
    """A folder with gram.toml and judgments, and a bundle."""

    folder: Path
    bundle: Path

    def gram(self, *arguments: str) -> Result:
        """Runs a verb with this configuration."""
        places = ("--config", str(self.folder / "gram.toml"), "--bundle", str(self.bundle))
        return CliRunner().invoke(build_app(), [arguments[0], *places, *arguments[1:]])

    def evaluate(self, url: str, *options: str) -> Result:
        """Evaluates at a server that is its own shim."""
        judged = ("--judgments", str(self.folder / "judgments.csv"))
        return self.gram("evaluate", *judged, "--url", url, "--shim", url, *options)

    def write(self, name: str, text: str) -> str:
        """A file in the folder."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)


@pytest.fixture
def desk(tmp_path: Path, small_bundle: Bundle) -> Desk:
    """Two queries, one product wanted of each."""
    found = Desk(tmp_path, small_bundle.path)
    found.write("gram.toml", GRAM_TOML)
    found.write("judgments.csv", "query,docid,rating\nred sofa,a,1\nlamp,b,2\n")
    return found


def said(result: Result) -> str:
    """The output on one line."""
    return " ".join(result.output.split())


def test_evaluate_prints_tables_and_writes_every_figure(desk: Desk) -> None:
    """Rerank and recall are compared; white space in a families file is as in judgments."""
    families = desk.write("kinds.csv", "query,family,kind\n red  sofa ,1, head\n")
    with serving(shop) as url:
        done = desk.evaluate(url, "--json", str(desk.folder / "out.json"), "--families", families)
    assert done.exit_code == 0, done.output
    found = json.loads((desk.folder / "out.json").read_text(encoding="utf-8"))
    assert sorted(found) == ["families", "family_queries", "queries", "rows"]
    assert [(row["name"], row["statuses"]) for row in found["rows"]] == [
        ("BM25", {"direct": 2}),
        ("BM25 + codes, rerank", {"applied": 2}),
        ("BM25 + codes, recall", {"applied": 2}),
    ]
    assert {key for row in found["rows"] for key in row} == {
        "name",
        "measures",
        "differences",
        "found_of_missed",
        "benchmark_only",
        "median_ms",
        "p99_ms",
        "statuses",
        "timed_statuses",
    }
    assert list(found["families"]) == ["head"]
    assert "shop, judgments.csv: 2 queries" in said(done)
    assert "without codes" not in done.output


def test_searches_without_codes_are_told_of(desk: Desk) -> None:
    """A shim that degrades makes both arms alike, and the table alone would not say why."""

    def degrading(path: str, body: Mapping[str, Any]) -> Reply:
        reply = shop(path, body)
        return Reply(body=reply.body, headers={"x-gram-status": "degraded; reason=late"}) if reply.headers else reply

    with serving(degrading) as url:
        done = desk.evaluate(url, "--arm", "recall")
    expected = "BM25 + codes, recall: 4 of 4 searches were answered without codes: degraded; reason=late"
    assert (done.exit_code, expected in said(done)) == (0, True)


def test_arms_without_a_shim_need_neither_shim_nor_bundle(desk: Desk) -> None:
    """The fuzzy companion is compared on an index that has no fields for codes."""
    with serving(lambda path, _: Reply(404) if path.endswith("/_mapping") else Reply(body=HITS)) as url:
        places = ("--config", str(desk.folder / "gram.toml"), "--bundle", str(desk.folder / "nowhere"))
        judged = ("--judgments", str(desk.folder / "judgments.csv"), "--json", str(desk.folder / "out.json"))
        done = CliRunner().invoke(build_app(), ["evaluate", *places, *judged, "--url", url, "--arm", "fuzzy"])
    found = json.loads((desk.folder / "out.json").read_text(encoding="utf-8"))
    assert (done.exit_code, [row["name"] for row in found["rows"]]) == (0, ["BM25", "BM25 + fuzzy"]), done.output


def test_the_fuzzy_arm_needs_a_query_that_is_not_fuzzy(desk: Desk) -> None:
    """Else it would be the baseline again."""
    desk.write("gram.toml", GRAM_TOML + "fuzzy = 0.3\n")
    with serving(shop) as url:
        failed = desk.evaluate(url, "--arm", "fuzzy")
    assert (failed.exit_code, "the arm fuzzy is what the lexical query is already" in said(failed)) == (2, True)


def test_a_shim_that_answers_502_is_named(desk: Desk) -> None:
    """The error has the address and the status, and nothing is written."""

    def broken(path: str, body: Mapping[str, Any]) -> Reply:
        return Reply(502, {"error": {"type": "gram_upstream", "reason": "gone"}}) if "ext" in body else shop(path, body)

    with serving(broken) as url:
        failed = desk.evaluate(url, "--json", str(desk.folder / "out.json"))
    assert failed.exit_code == 1
    assert f"error: {url}: searching shop failed: 502 gram_upstream: gone" in said(failed)
    assert not (desk.folder / "out.json").exists()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Reply(404, {"error": {"type": "index_not_found_exception", "reason": "x"}}), "has no index 'shop'"),
        (Reply(body={"shop": {"mappings": {}}}), "run `gram mapping apply shop`"),
        (Reply(body=mapping(None)), "index shop is not calibrated"),
        (Reply(body=mapping({**CALIBRATION, "generation": "g2"})), "was calibrated for generation g2, the bundle is"),
    ],
)
def test_an_index_that_is_not_ready_is_refused(desk: Desk, found: Reply, words: str) -> None:
    """No index, no fields, no calibration or that of another model: said before anything is measured."""
    with serving(lambda path, body: found if path.endswith("/_mapping") else Reply(500)) as url:
        failed = desk.evaluate(url)
    assert failed.exit_code == 1
    assert words in said(failed)


def test_tune_says_which_search_was_refused(desk: Desk) -> None:
    """An error of one item of a multi-search ends tuning with its reason."""
    item = {"error": {"root_cause": [{"reason": "no such field"}]}, "status": 400}
    asked: list[str] = []

    def refusing(path: str, _: Mapping[str, Any]) -> Reply:
        asked.append(path)
        return Reply(body={"responses": [item, item]} if path.endswith("/_msearch") else mapping())

    with serving(refusing) as url:
        failed = desk.gram("tune", "--lexical", "--judgments", str(desk.folder / "judgments.csv"), "--url", url)
    assert failed.exit_code == 1
    assert "a search of shop while tuning failed: 400 no such field" in said(failed)
    assert asked == ["/shop/_mapping", "/shop/_msearch"]


def test_tune_prints_what_every_strength_gave(desk: Desk) -> None:
    """On stderr: the lexical query alone, each strength, and the one that is kept; of equals the weakest."""

    def calm(path: str, _: Mapping[str, Any]) -> Reply:
        if path.endswith("/_msearch"):
            return Reply(body={"responses": [HITS, HITS]})
        return Reply(body={"count": 2} if path.endswith("/_count") else mapping())

    with serving(calm) as url:
        done = desk.gram("tune", "--judgments", str(desk.folder / "judgments.csv"), "--url", url)
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    lines = done.stderr.splitlines()
    begin = lines.index("mean of nDCG@10 and R@100 on the development queries:") + 1
    score = ((1 + 1 / math.log2(3)) / 2 + 1) / 2  # wanted products are first and second
    kept, *others = STRENGTHS
    assert [line.split() for line in lines[begin : begin + 1 + len(STRENGTHS)]] == [
        ["without", "codes", f"{score:.4f}"],
        ["strength", f"{kept:g}", f"{score:.4f}", "kept"],
        *(["strength", f"{strength:g}", f"{score:.4f}"] for strength in others),
    ]


def test_a_server_that_is_gone_is_named_with_the_way_out(desk: Desk) -> None:
    """Both verbs say where they looked."""
    with serving(shop) as url:
        pass
    for verb in ("tune", "evaluate"):
        failed = desk.gram(verb, "--judgments", str(desk.folder / "judgments.csv"), "--url", url)
        assert failed.exit_code == 1
        assert f"check that OpenSearch runs at {url}" in said(failed)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--arm", "best"], 2, "unknown arm 'best'"),
        (["--development", "missing.csv"], 1, "missing.csv"),
        (["--json", "nowhere/out.json"], 2, "nowhere is no folder"),
        (["--families", "missing.csv"], 1, "missing.csv is no CSV with the columns query and kind"),
        (["--families", "{folder}/judgments.csv"], 1, "is no CSV with the columns query and kind"),
        (["--families", "{folder}/short.csv"], 1, "is no CSV with the columns query and kind"),
        (["--families", "{folder}/other.csv"], 1, "no query of"),
    ],
)
def test_unusable_options_are_told_before_anything_is_asked(
    desk: Desk, options: list[str], code: int, words: str
) -> None:
    """No server is needed to learn that an option is wrong."""
    desk.write("other.csv", "query,kind\nother,head\n")
    desk.write("short.csv", "query,kind\nred sofa\n")
    failed = desk.evaluate("http://127.0.0.1:1", *[option.format(folder=desk.folder) for option in options])
    assert failed.exit_code == code
    assert words in said(failed)


def test_an_index_must_be_named(desk: Desk) -> None:
    """In gram.toml or by the option."""
    desk.write("gram.toml", GRAM_TOML.replace('index = "shop"', ""))
    failed = desk.evaluate("http://127.0.0.1:1")
    assert (failed.exit_code, "no index is named" in said(failed)) == (2, True)


def test_the_lexical_query_is_tuned_on_judgments_only(desk: Desk) -> None:
    """--lexical without --judgments has nothing to choose by."""
    failed = desk.gram("tune", "--lexical", "--url", "http://127.0.0.1:1")
    assert (failed.exit_code, "--lexical needs development judgments" in said(failed)) == (2, True)
