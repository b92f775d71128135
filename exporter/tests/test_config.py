"""gram.toml: defaults, strictness, and writing what reading gives back."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_exporter.config import (
    SECTIONS,
    CatalogueConfig,
    CodesConfig,
    Config,
    FeedbackConfig,
    SearchConfig,
    TrainingConfig,
    load_config,
    render_config,
)
from gram_plugin.errors import ConfigError

MINIMAL = '[catalogue]\npath = "p.jsonl"\nid = "id"\ntext = ["title"]\n'

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = TEXT.filter(lambda text: bool(text.strip()))
PATH = st.from_regex(r"[a-zé #\"'\\]{1,8}", fullmatch=True).map(lambda name: Path("/data") / f"x{name}x")
TYPES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
VALUES = {
    "str": TEXT,
    "str | None": st.none() | NAME,
    "Path | None": st.none() | PATH,
    "tuple[str, ...]": st.lists(NAME, unique=True).map(tuple),
}


def values(item: Field[Any]) -> st.SearchStrategy[Any]:
    """Any value inside a setting's bounds."""
    low, high, among = (item.metadata[bound] for bound in ("low", "high", "among"))
    if among:
        return st.sampled_from(among)
    if item.type == "int":
        return st.integers(low, high)
    if "float" in str(item.type):
        numbers = st.floats(low, high, allow_nan=False, allow_infinity=False)
        return numbers if item.type == "float" else st.none() | numbers
    return VALUES[str(item.type)]


def section(cls: type, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any section of a class, each setting inside its bounds."""
    return st.builds(
        cls, **{item.name: others[item.name] if item.name in others else values(item) for item in fields(cls)}
    )


CONFIGS = st.builds(
    Config,
    catalogue=st.builds(
        CatalogueConfig,
        path=PATH,
        index=st.none(),
        url=TEXT,
        id=NAME,
        text=st.lists(NAME, min_size=1, unique=True).map(tuple),
        source=TEXT,
        licence=TEXT,
        attributes=st.dictionaries(TEXT, TYPES),
    ),
    feedback=st.builds(
        FeedbackConfig,
        judgments=st.none() | PATH,
        queries=st.none() | PATH,
        clicks=st.just(()) | st.lists(PATH, min_size=2, max_size=2, unique=True).map(tuple),
    ),
    codes=section(CodesConfig),
    training=section(TrainingConfig, generation=st.integers(1, 99).map(lambda n: f"g{n}")),
    search=section(SearchConfig),
)


def save(folder: Path, text: str) -> Path:
    """Writes a gram.toml."""
    path = folder / "gram.toml"
    path.write_text(text, encoding="utf-8")
    return path


@settings(max_examples=60)
@given(CONFIGS)
def test_written_config_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    """Any config, with odd names and characters, survives writing and reading."""
    assert load_config(save(tmp_path_factory.mktemp("any"), render_config(config))) == config


def test_a_minimal_file_has_the_defaults(tmp_path: Path) -> None:
    """Only catalogue, id and text are needed; paths are taken from the file's folder."""
    assert load_config(save(tmp_path, MINIMAL)) == Config(
        catalogue=CatalogueConfig(path=tmp_path / "p.jsonl", id="id", text=("title",)),
    )


def test_every_setting_is_read(tmp_path: Path) -> None:
    """The example of the docs gives exactly these values; whole numbers fit where fractions are meant."""
    text = """
[catalogue]
index = "products"
url = "http://localhost:9201"
id = "sku"
text = ["title", "description"]
source = "our shop"
licence = "private"
[catalogue.attributes]
brand = "brand"
"specs.screen size" = "screen_size"
[feedback]
judgments = "train.qrels"
queries = "../queries.tsv"
clicks = ["ubi_queries.ndjson", "/logs/ubi_events.ndjson"]
[codes]
min_products = 3
[training]
minutes = 2
[search]
index = "products"
type = "best_fields"
fields = ["title^3"]
operator = "and"
strength = 4
"""
    assert load_config(save(tmp_path, text)) == Config(
        catalogue=CatalogueConfig(
            index="products",
            url="http://localhost:9201",
            id="sku",
            text=("title", "description"),
            source="our shop",
            licence="private",
            attributes={"brand": "brand", "specs.screen size": "screen_size"},
        ),
        feedback=FeedbackConfig(
            judgments=tmp_path / "train.qrels",
            queries=tmp_path / "../queries.tsv",
            clicks=(tmp_path / "ubi_queries.ndjson", Path("/logs/ubi_events.ndjson")),
        ),
        codes=CodesConfig(min_products=3),
        training=TrainingConfig(minutes=2.0),
        search=SearchConfig(index="products", type="best_fields", fields=("title^3",), operator="and", strength=4.0),
    )


@pytest.mark.parametrize(
    ("extra", "place", "step"),
    [
        ("[training]\nminuts = 3\n", ":6: unknown key 'minuts' in [training]", "did you mean 'minutes'?"),
        ("[trainig]\nminutes = 3\n", ":5: unknown section [trainig]", "did you mean 'training'?"),
        ("texts = []\n", ":5: unknown key 'texts' in [catalogue]", "did you mean 'text'?"),
        ("[search]\n\nfeilds = []\n", ":7: unknown key 'feilds' in [search]", "did you mean 'fields'?"),
    ],
)
def test_unknown_key_names_place_and_nearest(tmp_path: Path, extra: str, place: str, step: str) -> None:
    """An unknown key or section is an error with its line and the nearest known name."""
    path = save(tmp_path, MINIMAL + extra)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.message == f"{path}{place}"
    assert caught.value.next_step.startswith(step)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (MINIMAL + '[training]\nminutes = "3"\n', ':6: [training] minutes must be a number, found the text "3"'),
        (MINIMAL + "[training]\nminutes = true\n", ":6: [training] minutes must be a number, found the boolean true"),
        (MINIMAL + "[training]\nminutes = nan\n", ":6: [training] minutes must be a number, found the number NaN"),
        (MINIMAL + "[training]\nminutes = 0\n", ":6: [training] minutes must be at least 0.01, found the number 0"),
        (MINIMAL + "[codes]\nmin_products = 1.5\n",
         ":6: [codes] min_products must be a whole number, found the number 1.5"),
        (MINIMAL + "[codes]\nmax_attributes = 7\n", ":6: [codes] max_attributes must be at most 6, found the number 7"),
        (MINIMAL + '[search]\ntype = "phrase"\n',
         ':6: [search] type must be one of cross_fields, best_fields, most_fields, found the text "phrase"'),
        (MINIMAL + '[search]\nfields = ["a", "a"]\n',
         ':6: [search] fields must be a list of different texts, found the list ["a", "a"]'),
        (MINIMAL + '[training]\ngeneration = "v1"\n',
         ":6: [training] model generation 'v1' is not of the form g1, g2, ..."),
        (MINIMAL + '[feedback]\nclicks = ["a"]\n',
         ":6: [feedback] clicks must be two files: UBI queries, then UBI events"),
        (MINIMAL + '[feedback]\njudgments = ""\n', ':6: [feedback] judgments must be a path, found the text ""'),
        (MINIMAL + '[catalogue.attributes]\nbrand = "Brand"\n',
         ":6: [catalogue.attributes] type 'Brand' of field 'brand' is not a lower-case identifier"),
        (MINIMAL + 'index = "i"\n', ":1: [catalogue] must name either a path or an index"),
        ('[catalogue]\nid = "id"\ntext = ["t"]\n', ":1: [catalogue] must name either a path or an index"),
        ('[catalogue]\npath = "p"\nid = "id"\ntext = []\n', ":4: [catalogue] text must name at least one field"),
        ('[catalogue]\npath = "p"\ntext = ["t"]\n', ":1: [catalogue] lacks 'id': field with the product's id, unique"),
        ("catalogue = 3\n", ": [catalogue] must be a table, found the number 3"),
        ("", ": [catalogue] lacks 'id': field with the product's id, unique"),
        ("[catalogue\n", " is no TOML: Expected ']' at the end of a table declaration (at line 1, column 11)"),
    ],
    ids=range(19),
)  # fmt: skip
def test_wrong_value_is_named(tmp_path: Path, text: str, finding: str) -> None:
    """A wrong type, bound, choice or combination is an error that says what was expected and found, with its line."""
    path = save(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.message == f"{path}{finding}"
    assert caught.value.next_step


def test_missing_file_names_gram_init(tmp_path: Path) -> None:
    """Without a gram.toml the way out is `gram init`."""
    with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
        load_config(tmp_path / "gram.toml")
    assert "gram init" in caught.value.next_step


def test_file_in_another_encoding(tmp_path: Path) -> None:
    """A gram.toml that is not UTF-8 is an error of ours, not a traceback."""
    path = tmp_path / "gram.toml"
    path.write_bytes(MINIMAL.encode("utf-16"))
    with pytest.raises(ConfigError, match="is no TOML"):
        load_config(path)


def test_notes_and_relative_paths_are_written(tmp_path: Path) -> None:
    """Notes become comments on one line; paths inside the folder are written relative to it."""
    config = Config(
        catalogue=CatalogueConfig(path=tmp_path / "a" / "p.jsonl", id="id", text=("t",), attributes={"Farbe": "colour"})
    )
    notes = {"catalogue.id": "unique in\n5,000 products", "catalogue.attributes.Farbe": 'its name; e.g. "rot"'}
    text = render_config(config, folder=tmp_path, notes=notes)
    lines = text.splitlines()
    assert 'id = "id"  # unique in 5,000 products' in lines
    assert 'Farbe = "colour"  # its name; e.g. "rot"' in lines
    assert any(line.startswith('path = "a/p.jsonl"  # ') for line in lines)
    assert load_config(save(tmp_path, text)) == config


def test_docs_name_every_setting() -> None:
    """docs/gram-toml.md has each section, each setting and each default."""
    page = (Path(__file__).parents[2] / "docs" / "gram-toml.md").read_text(encoding="utf-8")
    for name, cls in SECTIONS.items():
        assert f"## `[{name}]`" in page
        part = page.partition(f"## `[{name}]`")[2].partition("\n## ")[0]
        for item in fields(cls):
            row = f"| `{item.name}` | {default_of(item)} | {item.metadata['doc']} |"
            assert row in part.splitlines()


def default_of(item: Field[Any]) -> str:
    """A default as the page words it."""
    if item.default is MISSING:
        return "needed" if item.default_factory is MISSING else "none"
    return "none" if item.default in (None, "", ()) else f"`{json.dumps(item.default)}`"
