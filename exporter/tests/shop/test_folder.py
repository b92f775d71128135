"""Tests of the shop's files: what is in the folder, and that the other rooms can read it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from gram_exporter.config import load_config
from gram_exporter.shop import LABEL, Shop, write_catalogue
from gram_exporter.shop.shop import SPLITS


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_folder_holds_the_files_of_the_docs(shop_folder: Path) -> None:
    """Nothing more and nothing less is written."""
    per_split = [f"{name}-{split}.csv" for name in ("judgments", "queries") for split in SPLITS]
    others = ["NOTICE", "gram.toml", "products.jsonl", "ubi_events.ndjson", "ubi_queries.ndjson"]
    assert sorted(path.name for path in shop_folder.iterdir()) == sorted([*per_split, *others])


def test_everything_says_what_it_is(shop_folder: Path) -> None:
    """NOTICE, gram.toml and every record of the click log say that the shop is synthetic."""
    assert (shop_folder / "NOTICE").read_text("utf-8").startswith(LABEL)
    assert LABEL in load_config(shop_folder / "gram.toml").catalogue.source
    for name in ("ubi_queries.ndjson", "ubi_events.ndjson"):
        lines = (shop_folder / name).read_text("utf-8").splitlines()
        assert {json.loads(line)["application"] for line in lines} == {LABEL}


def test_queries_are_written_with_family_and_kind(shop: Shop, shop_folder: Path) -> None:
    """queries-test.csv holds the test queries in order."""
    expected = [{"query": q.text, "family": q.family, "kind": q.kind.value} for q in shop.queries["test"]]
    assert _rows(shop_folder / "queries-test.csv") == expected


def test_judgments_are_written_for_every_query(shop: Shop, shop_folder: Path) -> None:
    """judgments-dev.csv holds each dev query with all its products of grade 1 to 3."""
    expected = [
        {"query": query.text, "docid": identifier, "rating": str(grade)}
        for query in shop.queries["dev"]
        for identifier, grade in shop.grades[query.family].items()
    ]
    assert _rows(shop_folder / "judgments-dev.csv") == expected
    assert {row["rating"] for row in expected} == {"1", "2", "3"}


def test_gram_toml_names_fields_that_the_catalogue_has(shop: Shop, shop_folder: Path) -> None:
    """Every field of a product but id, price and merchant is searched, and no other."""
    config = load_config(shop_folder / "gram.toml")
    searched = {name.split("^")[0] for name in config.search.fields}
    written = {name for document in shop.documents for name in document}
    assert searched == written - {"id", "price_eur", "merchant"}
    assert set(config.catalogue.attributes) == searched - {"title", "description", "department", "model"}


def test_gram_toml_trains_on_clicks_alone(shop_folder: Path) -> None:
    """Judgments are for measuring: the feedback that training reads is the click log of the train queries."""
    feedback = load_config(shop_folder / "gram.toml").feedback
    assert feedback.judgments is None
    assert [path.name for path in feedback.clicks] == ["ubi_queries.ndjson", "ubi_events.ndjson"]


def test_catalogue_alone_has_the_same_bytes(shop_folder: Path, tmp_path: Path) -> None:
    """Streaming the products into a file gives the products.jsonl of the whole shop."""
    write_catalogue(tmp_path, seed=1, products=4000)
    assert (tmp_path / "products.jsonl").read_bytes() == (shop_folder / "products.jsonl").read_bytes()


def test_prices_are_written_with_cents(shop_folder: Path) -> None:
    """No price shows the noise of binary fractions."""
    lines = (shop_folder / "products.jsonl").read_text("utf-8").splitlines()
    assert max(len(str(json.loads(line)["price_eur"]).split(".")[1]) for line in lines) <= 2
