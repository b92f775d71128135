"""`gram init` on files: what it writes, explains and refuses."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gram_exporter.config import CatalogueConfig, Config, FeedbackConfig, SearchConfig, load_config
from gram_exporter.init import InitRequest, catalogue_url, index_name, run_init
from gram_exporter.source import Intake
from gram_plugin.errors import CatalogueError, ConfigError, JudgmentsError

COLOURS = ["red", "blue", "green"]


def product(number: int) -> dict[str, Any]:
    """A small product."""
    title = f"title of thing {number}"
    return {"id": f"p{number}", "title": title, "category": f"c{number % 4}", "colour": COLOURS[number % 3]}


def catalogue(folder: Path, lines: list[str] | None = None, name: str = "My Shop.jsonl.gz") -> Path:
    """Writes a catalogue."""
    path = folder / name
    text = "\n".join(lines or [json.dumps(product(number)) for number in range(30)])
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def run(request: InitRequest) -> str:
    """Runs init and returns what it says."""
    console = Console(file=io.StringIO(), width=120)
    written = run_init(request, console)
    assert load_config(request.output) == written
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_written_file_is_the_proposal_with_reasons(tmp_path: Path) -> None:
    """The file loads as the proposal, paths beside it are relative, and each choice has its reason as a comment."""
    path, output = catalogue(tmp_path), tmp_path / "gram.toml"
    said = run(InitRequest(str(path), output))
    assert load_config(output) == Config(
        catalogue=CatalogueConfig(
            path=path, id="id", text=("title",), attributes={"category": "type", "colour": "colour"}
        ),
        search=SearchConfig(index="my-shop", fields=("title^3", "category^2", "colour")),
    )
    text = output.read_text(encoding="utf-8")
    assert 'path = "My Shop.jsonl.gz"' in text
    assert "category = \"type\"  # its name is one of a category; 100 % of products, 4 values such as 'c0'" in text
    assert "Seen in 30 products" in said
    assert "gram train --config" in said


def test_csv_of_another_encoding_and_titles_only(tmp_path: Path) -> None:
    """A UTF-16 table with titles alone gives a valid config without attributes."""
    path = tmp_path / "titel.csv"
    path.write_bytes("".join(["sku;Titel\n", *(f"{n};Größe {n} für alle\n" for n in range(9))]).encode("utf-16"))
    output = tmp_path / "gram.toml"
    assert "attributes are learned from the titles" in run(InitRequest(str(path), output))
    assert load_config(output).catalogue == CatalogueConfig(path=path, id="sku", text=("Titel",))


def test_feedback_files_are_read_and_named(tmp_path: Path) -> None:
    """Judgments and clicks go into the file; a broken one is told now."""
    judgments, queries = tmp_path / "j.qrels", tmp_path / "q.tsv"
    judgments.write_text("q1 0 p1 1\n")
    queries.write_text("q1\tred thing\n")
    output = tmp_path / "gram.toml"
    request = InitRequest(str(catalogue(tmp_path)), output, judgments=judgments, queries=queries)
    run(request)
    assert load_config(output).feedback == FeedbackConfig(judgments=judgments, queries=queries)
    with pytest.raises(ConfigError, match="--clicks takes two files"):
        run(InitRequest(request.catalogue, output, clicks=(judgments,), force=True))
    judgments.write_text("q9 0 p1 1\n")
    with pytest.raises(JudgmentsError, match=r"j\.qrels:1: "):
        run(InitRequest(request.catalogue, output, judgments=judgments, queries=queries, force=True))


@pytest.mark.parametrize(
    ("url", "environ", "written"),
    [
        (None, {}, "http://localhost:9200"),
        (None, {"GRAM_OPENSEARCH_URL": "https://search:9201"}, "https://search:9201"),
        (None, {"GRAM_OPENSEARCH_URL": "https://me:secret@search:9201/os/"}, "https://search:9201/os"),
        ("https://me:secret@other:9202", {"GRAM_OPENSEARCH_URL": "https://search:9201"}, "https://other:9202"),
    ],
)
def test_the_address_that_was_asked_is_written_without_its_secrets(
    tmp_path: Path, url: str | None, environ: dict[str, str], written: str
) -> None:
    """gram.toml names the OpenSearch that init read, from --url or the environment, and no password."""
    assert catalogue_url(InitRequest("shop", tmp_path / "gram.toml", url=url), environ) == written


def test_a_file_has_no_secrets_either(tmp_path: Path) -> None:
    """Credentials in --url are left out and the owner is told where later commands look for them."""
    output = tmp_path / "gram.toml"
    said = run(InitRequest(str(catalogue(tmp_path)), output, url="https://me:pa55@search:9201"))
    assert "pa55" not in output.read_text() + said
    assert "GRAM_OPENSEARCH_USERNAME and GRAM_OPENSEARCH_PASSWORD" in said
    assert load_config(output).catalogue.url == "https://search:9201"


@pytest.mark.parametrize("name", ["nodir/gram.toml", "."])
def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    """A folder that is not there, or an output that is a folder, is an error with what to do."""
    output = tmp_path / name
    with pytest.raises(ConfigError, match=r"cannot be written: .*name another --output"):
        run(InitRequest(str(catalogue(tmp_path)), output, force=True))


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    """What an owner edited is not overwritten by accident."""
    output = tmp_path / "gram.toml"
    output.write_text("mine")
    with pytest.raises(ConfigError, match="exists") as caught:
        run(InitRequest(str(catalogue(tmp_path)), output))
    assert "--force" in caught.value.next_step
    assert output.read_text() == "mine"
    run(InitRequest(str(catalogue(tmp_path)), output, force=True))
    assert output.read_text() != "mine"


def test_broken_lines_are_counted_and_not_fatal(tmp_path: Path) -> None:
    """Init looks past broken lines and says how many there are; training is strict unless told otherwise."""
    lines = [json.dumps(product(number)) for number in range(30)]
    path = catalogue(tmp_path, [*lines[:9], "broken", *lines[9:], "{", lines[0]])
    output = tmp_path / "gram.toml"
    assert "2 broken lines" in run(InitRequest(str(path), output))
    settings = load_config(output).catalogue
    with pytest.raises(CatalogueError, match=":10: no JSON object"):
        Intake(settings).read()
    intake = Intake(settings, skip_invalid=True)
    assert intake.read() == {f"p{number}": product(number) for number in range(30)}
    assert intake.skipped == {"no JSON object": 2, "id … is a duplicate": 1}


@pytest.mark.parametrize(
    ("name", "lines", "finding"),
    [
        ("a.jsonl", ["[1, 2]", "3"], r"a\.jsonl:1: expected a JSON object, found list.*no other line is a record"),
        ("a.csv", ["id,title"], r"a\.csv:1: holds no record"),
    ],
)
def test_files_that_are_no_catalogue(tmp_path: Path, name: str, lines: list[str], finding: str) -> None:
    """A file without a single record is named with its first fault; nothing is written."""
    output = tmp_path / "gram.toml"
    with pytest.raises(CatalogueError, match=finding):
        run(InitRequest(str(catalogue(tmp_path, lines, name)), output))
    assert not output.exists()


def test_a_missing_file_is_not_taken_for_an_index(tmp_path: Path) -> None:
    """What looks like a file name but is none is an error of its own, without a connection."""
    for name in ("none.jsonl", f"{tmp_path}/none"):
        with pytest.raises(CatalogueError, match="no such file"):
            run(InitRequest(name, tmp_path / "gram.toml"))


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("products.jsonl.gz", "products"),
        ("My.Shop.DE.JSONL", "my-shop-de"),
        ("2026.10.csv.gz", "2026-10"),
        ("My Shop (2).csv", "my-shop-2"),
        ("_x.tsv", "x"),
        ("商品.csv", "products"),
    ],
)
def test_index_names(name: str, index: str) -> None:
    """The proposed index has a name that OpenSearch takes."""
    assert index_name(Path(name)) == index
