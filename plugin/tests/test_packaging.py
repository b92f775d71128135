"""The distribution against the tree: what is written is what gets installed."""

from __future__ import annotations

import importlib
import tomllib
from importlib.metadata import files, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {"gram_plugin": ROOT / "plugin/gram_plugin", "gram_exporter": ROOT / "exporter/gram_exporter"}


def pyproject() -> dict[str, Any]:
    """The project's settings."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in(home: Path, name: str) -> set[str]:
    """Every folder under a package that holds Python, as a dotted name."""
    folders = {path.parent.relative_to(home) for path in home.rglob("*.py")}
    return {".".join((name, *folder.parts)) for folder in folders}


def files_in(folder: Path) -> set[str]:
    """Paths of all files below a folder, Python and data alike, without what running them leaves behind."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_room_is_listed() -> None:
    """A room that is missing from pyproject's list of packages would silently stay out of the wheel."""
    listed = set(pyproject()["tool"]["setuptools"]["packages"])
    assert listed == set.union({"gram_mappings"}, *(packages_in(home, name) for name, home in HOMES.items()))


@pytest.mark.parametrize("package", HOMES)
def test_installed_package_is_the_tree(package: str) -> None:
    """The installed package holds every file of the tree and no other: no tests, nothing stale, no data left out."""
    installed = Path(str(importlib.import_module(package).__file__)).parent
    assert files_in(installed) == files_in(HOMES[package])


def json_in(folder: Path) -> dict[str, bytes]:
    """Name and content of the JSON files of a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_installed_mappings_are_the_tree() -> None:
    """Every JSON file of mappings/ is installed, byte for byte."""
    spec = find_spec("gram_mappings")
    folders = [Path(item) for item in (spec and spec.submodule_search_locations) or () if Path(item).is_dir()]
    assert json_in(ROOT / "mappings")
    assert [json_in(folder) for folder in folders] == [json_in(ROOT / "mappings")]


def test_distribution_has_no_tests() -> None:
    """No test is part of what users install."""
    assert [str(path) for path in files("gram-opensearch") or () if "tests" in path.parts] == []


@pytest.mark.parametrize("folder", ["plugin", "exporter", "mappings", "docker", "benchmarks", "integration_tests"])
def test_top_level_folders_are_no_packages(folder: str) -> None:
    """An `__init__.py` there would capture imports such as `import docker`."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_version_is_the_one_in_pyproject() -> None:
    """What is installed is what is written: a stale install fails here first."""
    assert version("gram-opensearch") == pyproject()["project"]["version"]


def test_changelog_has_the_version() -> None:
    """The changelog has a section for the version that is being built."""
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("## ")
    ]
    assert any(line.split()[1] == version("gram-opensearch") for line in headings)


def test_licence_is_whole() -> None:
    """The licence's text is complete, from its title to its appendix."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert [line.strip() for line in text.splitlines() if line.strip()][:2] == [
        "Apache License",
        "Version 2.0, January 2004",
    ]
    assert "APPENDIX: How to apply the Apache License to your work." in text
