"""Rivals of codes on a real node: an oracle, an expansion, a dense encoder as it is and fine-tuned, fuzzy words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from click.testing import Result
from opensearchpy import OpenSearch, helpers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from gram_exporter.rivals.oracle import read_codes
from gram_plugin.cli import build_app
from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.node.node import RunningNode
from gram_plugin.search.document import gram_object
from gram_plugin.search.mappings import IndexCalibration, apply_template, apply_to_index, write_calibration

KINDS = {"sofa": "couch", "lamp": "light", "rug": "carpet"}
"""What products are called, and what people ask for."""
COLOURS = ("red", "blue", "green", "grey")
AT = datetime(2026, 1, 1, tzinfo=UTC)
GRAM_TOML = """
[catalogue]
path = "products.jsonl"
id = "id"
text = ["title"]

[feedback]
judgments = "train.csv"

[search]
type = "best_fields"
fields = ["title"]
"""


def codes_of(kind: str, colour: str) -> list[ScoredCode]:
    """The type by the word that people use, and the colour."""
    return [ScoredCode(Code.parse(text), 0.9) for text in (f"type={KINDS[kind]}", f"colour={colour}")]


@dataclass(frozen=True)
class Shop:
    """Twelve products by kind and colour, and a folder with gram.toml, judgments and an encoder."""

    folder: Path
    url: str
    index: str

    def evaluate(self, *options: str) -> Result:
        """As a person would, with all files named."""
        at = self.folder
        places = ("--config", str(at / "gram.toml"), "--index", self.index, "--url", self.url)
        files = ("--judgments", str(at / "test.csv"), "--json", str(at / "out.json"), "--work", str(at / "work"))
        return CliRunner().invoke(build_app(), ["evaluate", *places, *files, *options])

    def recall(self) -> dict[str, float]:
        """R@10 by arm, of the last evaluation."""
        rows = json.loads((self.folder / "out.json").read_text(encoding="utf-8"))["rows"]
        return {row["name"]: row["measures"]["R@10"]["value"] for row in rows}


def write_judgments(path: Path, queries: dict[str, str]) -> None:
    """Every product of a kind is relevant."""
    lines = [f"{query},{kind}-{colour},1" for query, kind in queries.items() for colour in COLOURS]
    path.write_text("query,docid,rating\n" + "\n".join(lines) + "\n", encoding="utf-8")


def write_encoder(folder: Path) -> None:
    """An untrained BERT that knows the words of the shop."""
    words = ("[PAD]", "[UNK]", *KINDS, *KINDS.values(), *COLOURS, "cosy", "new")
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=words[1]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def shop(node: RunningNode, client: OpenSearch, index_name: str, tmp_path: Path) -> Iterator[Shop]:
    """Products with codes that say what people call them, which their titles do not."""
    client.indices.create(index=index_name, body={"mappings": {"properties": {"title": {"type": "text"}}}})
    apply_template(client)
    apply_to_index(client, index_name)
    write_calibration(client, index_name, IndexCalibration("g1", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    documents = (
        {
            "_index": index_name,
            "_id": f"{kind}-{colour}",
            "title": f"{colour} {kind}",
            "gram": gram_object(codes_of(kind, colour), "g1", "0" * 32, AT),
        }
        for kind in KINDS
        for colour in COLOURS
    )
    helpers.bulk(client, documents, refresh=True)
    (tmp_path / "gram.toml").write_text(GRAM_TOML, encoding="utf-8")
    write_judgments(tmp_path / "train.csv", {f"{word} {more}": k for k, word in KINDS.items() for more in ("cosy", "")})
    write_judgments(tmp_path / "dev.csv", {f"new {word}": kind for kind, word in KINDS.items()})
    write_judgments(tmp_path / "test.csv", {**{f"{w} red": k for k, w in KINDS.items()}, "sofas": "sofa"})
    write_encoder(tmp_path / "tiny")
    before = set(client.indices.get(index="*"))
    yield Shop(tmp_path, node.url, index_name)
    assert set(client.indices.get(index="*")) == before


def test_every_rival_stands_beside_bm25(shop: Shop) -> None:
    """The oracle and the expansion find what other words name; no copy of the index is left behind."""
    arms = [part for name in ("oracle", "expansion", "fuzzy", "dense", "dense-tuned") for part in ("--arm", name)]
    encoder = ("--encoder", str(shop.folder / "tiny"), "--minutes", "0.5")
    done = shop.evaluate(*arms, *encoder, "--development", str(shop.folder / "dev.csv"))
    assert done.exit_code == 0, done.output
    found = shop.recall()
    assert list(found) == [
        "BM25",
        "BM25 + fuzzy",
        "BM25 + expansion",
        "BM25 + codes, oracle",
        "BM25 + tiny",
        "tiny alone",
        "BM25 + tiny fine-tuned",
        "tiny fine-tuned alone",
    ]
    assert (found["BM25"], found["BM25 + fuzzy"]) == (3 / 16, 3 / 16 + 1 / 4)
    assert (found["BM25 + expansion"], found["BM25 + codes, oracle"]) == (3 / 4, 1.0)
    assert found["tiny fine-tuned alone"] >= 3 / 4
    rows = json.loads((shop.folder / "out.json").read_text(encoding="utf-8"))["rows"]
    assert [row["benchmark_only"] for row in rows] == [False, False, *[True] * 6]


def test_a_second_run_encodes_and_trains_nothing(shop: Shop) -> None:
    """Its figures are those of the first."""
    options = ("--arm", "dense-tuned", "--encoder", str(shop.folder / "tiny"), "--minutes", "0.2")
    first = (shop.evaluate(*options).exit_code, shop.recall())
    kept = {path: path.stat().st_mtime_ns for path in (shop.folder / "work").rglob("*")}
    assert (shop.evaluate(*options).exit_code, shop.recall()) == first
    assert {path: path.stat().st_mtime_ns for path in (shop.folder / "work").rglob("*")} == kept


def test_codes_of_one_generation_are_read(shop: Shop, client: OpenSearch) -> None:
    """Every product with its codes; of a generation that the index lacks there are none to read."""
    codes = read_codes(client, shop.index, "g1")
    assert (len(codes.of), set(codes.of["rug-red"])) == (12, {one.code for one in codes_of("rug", "red")})
    assert shop.evaluate("--arm", "oracle").exit_code == 0
    write_calibration(client, shop.index, IndexCalibration("g2", 0.5, 2.0, 10, "2026-01-01T00:00:00Z"))
    failed = shop.evaluate("--arm", "oracle")
    assert failed.exit_code == 1
    assert f"no product of {shop.index} has codes of generation g2" in " ".join(failed.output.split())
