"""The documentation against the program: what exists is on its page, and what a page points to exists."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gram_plugin import errors
from gram_plugin.serve.settings import ShimSettings, SidecarSettings, variable

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "plugin/gram_plugin"
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "mappings/*.md", "docker/*.md") for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
METRIC = re.compile(r"""(?:Counter|Gauge|Histogram|Summary|Info|Enum)\(\s*["'](gram_\w+)["']""")
HEADER = re.compile(r"""["'](x-gram-[a-z-]+)["']""", re.IGNORECASE)
ENDPOINT = re.compile(r"""Route\(\s*["'](/[^"'{]*)["']""")
NAMED_TEST = re.compile(r"`((?:plugin/tests|exporter/tests|integration_tests)/[\w/]+\.py)::(\w+)`")
VARIABLE = re.compile(r"\bGRAM_[A-Z_]*[A-Z]\b")


def page(name: str) -> str:
    """Text of a page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def found_in_sources(pattern: re.Pattern[str]) -> set[str]:
    """Everything that a pattern finds in the sources of gram_plugin."""
    return {match for path in SOURCES.rglob("*.py") for match in pattern.findall(path.read_text(encoding="utf-8"))}


def missing(names: set[str], text: str) -> set[str]:
    """Names that a text does not mention as a whole word."""
    return {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)}


def field_paths(properties: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths of the fields of a mapping."""
    for name, field in properties.items():
        if "properties" in field:
            yield from field_paths(field["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(
        r"^#+ (.+)$", CODE.sub(lambda code: code[0].strip("`"), path.read_text(encoding="utf-8")), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def is_broken(source: Path, link: str) -> bool:
    """Whether a link inside the repository leads nowhere."""
    target, _, anchor = link.partition("#")
    path = (source.parent / target).resolve() if target else source
    return not path.exists() or bool(anchor and anchor not in anchors(path))


@pytest.mark.parametrize("settings", [ShimSettings, SidecarSettings])
def test_settings_are_on_their_page(settings: type) -> None:
    """Every setting of shim and sidecar is in docs/settings.md under the name of its variable."""
    assert missing({variable(item.name) for item in fields(settings)}, page("settings.md")) == set()


def test_settings_page_names_no_other() -> None:
    """docs/settings.md tells of no variable that the programs do not read."""
    known = {variable(item.name) for cls in (ShimSettings, SidecarSettings) for item in fields(cls)}
    read = known | found_in_sources(VARIABLE)
    assert set(VARIABLE.findall(page("settings.md"))) - read == set()


def test_errors_are_on_their_page() -> None:
    """Every class of the tree of errors is in docs/errors-and-headers.md."""
    names = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, Exception)}
    assert missing(names, page("errors-and-headers.md")) == set()


@pytest.mark.parametrize("pattern", [METRIC, HEADER, ENDPOINT], ids=["metrics", "headers", "endpoints"])
def test_operator_surface_is_on_its_page(pattern: re.Pattern[str]) -> None:
    """Every metric, header and endpoint in the sources is in docs/errors-and-headers.md."""
    found = found_in_sources(pattern)
    assert found
    assert missing(found, page("errors-and-headers.md")) == set()


@pytest.mark.parametrize("document", ["docs/mappings.md", "mappings/README.md"])
def test_mapping_fields_are_on_their_pages(document: str) -> None:
    """Every field that the component templates add to an index is described."""
    templates = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "mappings").glob("gram-codes*.json")]
    names = {name for item in templates for name in field_paths(item["template"]["mappings"]["properties"])}
    assert names
    assert missing(names, (ROOT / document).read_text(encoding="utf-8")) == set()


def test_every_promise_names_tests_that_exist() -> None:
    """docs/promises.md has every promise, each line of it names a test, and each test that is named exists."""
    text = page("promises.md")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what"))]
    named = {pair for line in lines for pair in NAMED_TEST.findall(line)}
    absent = {
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.M)
    }
    assert [line for line in lines if not NAMED_TEST.search(line)] == []
    assert absent == set()
    assert re.findall(r"^### (\d+)\. ", text, re.M) == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every link inside the repository leads to a file, and its anchor to a heading."""
    links = LINK.findall(CODE.sub("", path.read_text(encoding="utf-8")))
    assert [link for link in links if "://" not in link and is_broken(path, link)] == []


def test_index_lists_every_page() -> None:
    """docs/README.md leads to every page and every decision record."""
    linked = {(ROOT / "docs" / link).resolve() for link in LINK.findall(page("README.md")) if "://" not in link}
    assert {path for path in PAGES if path.is_relative_to(ROOT / "docs") and path.name != "README.md"} - linked == set()


def test_image_and_compose_file_use_settings_that_exist() -> None:
    """Every GRAM_ variable in docker/ is a setting, so a renamed one cannot stop a container at its start."""
    known = {variable(item.name) for cls in (ShimSettings, SidecarSettings) for item in fields(cls)}
    used = {name for path in (ROOT / "docker").iterdir() for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert used
    assert used - known == set()
