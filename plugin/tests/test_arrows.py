"""The arrows between rooms hold, and the check that holds them can fail."""

from __future__ import annotations

import pkgutil
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gram_plugin

ROOT = Path(__file__).parents[2]
WORKSHOP_ONLY = ("torch", "transformers", "optimum", "onnx", "accelerate", "ir_measures", "matplotlib", "gram_exporter")
MODULES = [item.name for item in pkgutil.walk_packages(gram_plugin.__path__, "gram_plugin.")]

IMPORT_WITHOUT = """
import importlib, sys
for name in {blocked!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources and of the settings that name the arrows."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("plugin/gram_plugin", "exporter/gram_exporter"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the copy."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    paths = f"{folder / 'plugin'}:{folder / 'exporter'}"
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)


def test_every_module_imports_without_the_workshop() -> None:
    """Every module of gram_plugin imports in a process where nothing of the workshop can be imported."""
    code = IMPORT_WITHOUT.format(blocked=WORKSHOP_ONLY, modules=MODULES)
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


def test_arrows_hold(copy: Path) -> None:
    """The sources keep every contract between the rooms."""
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("contract/codes.py", "gram_plugin.search"),
        ("decode/__init__.py", "gram_plugin.search"),
        ("search/__init__.py", "gram_plugin.decode"),
        ("node/__init__.py", "gram_plugin.contract"),
        ("serve/__init__.py", "torch"),
        ("serve/__init__.py", "gram_exporter"),
        ("serve/__init__.py", "gram_plugin.node"),
    ],
)
def test_a_wrong_arrow_is_found(copy: Path, module: str, forbidden: str) -> None:
    """An import against an arrow breaks a contract, so the check is no ornament."""
    with (copy / "plugin/gram_plugin" / module).open("a", encoding="utf-8") as stream:
        stream.write(f"\nimport {forbidden}\n")
    assert lint_imports(copy).returncode == 1


def test_every_room_has_a_contract() -> None:
    """Every room of gram_plugin is the source of a contract of its own."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    guarded = {
        name for contract in settings["tool"]["importlinter"]["contracts"] for name in contract["source_modules"]
    }
    rooms = {item.name for item in pkgutil.iter_modules(gram_plugin.__path__, "gram_plugin.") if item.ispkg}
    assert rooms - guarded == set()
