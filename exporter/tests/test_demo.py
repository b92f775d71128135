"""What the demo makes once and finds again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gram_exporter.demo import SHOP, DemoSettings, provide_shop, work_folder


def _settings(folder: Path) -> DemoSettings:
    return DemoSettings(folder, products=500, seed=3, steps=7)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_rerun_finds_its_work_folder(tmp_path: Path) -> None:
    """The same settings name the same folder, wherever OpenSearch is; another size, seed or training names another."""
    settings = _settings(tmp_path / "work")
    first = work_folder(settings)
    (first / "made").touch()
    same = [settings, replace(settings, url="http://localhost:1"), replace(settings, keep=True)]
    others = [replace(settings, products=600), replace(settings, seed=4), replace(settings, steps=8)]
    assert {work_folder(one) for one in same} == {first}
    assert len({first, *map(work_folder, others)}) == 4
    assert (first / "made").is_file()


def test_a_changed_program_works_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """A model that an older program made is never taken for this one's; compiling or moving it is no change."""
    program = tmp_path / "program"
    (program / "words").mkdir(parents=True)
    (program / "train.py").write_text("rate = 1\n", encoding="utf-8")
    (program / "words" / "colours.in").write_text("red\n", encoding="utf-8")
    settings = _settings(tmp_path / "work")
    folders = [work_folder(settings, [program])]
    (program / "__pycache__").mkdir()
    (program / "__pycache__" / "train.pyc").write_bytes(b"compiled")
    moved = Path(shutil.copytree(program, tmp_path / "moved"))
    assert [work_folder(settings, [program]), work_folder(settings, [moved])] == 2 * folders
    (program / "train.py").write_text("rate = 2\n", encoding="utf-8")
    folders.append(work_folder(settings, [program]))
    (program / "words" / "colours.in").write_text("blue\n", encoding="utf-8")
    folders.append(work_folder(settings, [program]))
    (program / "train.py").rename(program / "course.py")
    folders.append(work_folder(settings, [program]))
    assert len({*folders, work_folder(settings)}) == 5


def test_the_shop_is_made_once_with_the_demo_s_steps(tmp_path: Path) -> None:
    """A re-run reads what lies there and writes nothing."""
    folder = tmp_path / SHOP
    first = provide_shop(folder, _settings(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = provide_shop(folder, _settings(tmp_path))
    assert again == first
    assert first.training.steps == 7
    assert first.catalogue.path == folder / "products.jsonl"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("remains", ["shop.part", "shop"])
def test_the_shop_is_whole_or_not_there(tmp_path: Path, remains: str) -> None:
    """What an interrupted run left, in the staging folder or in the shop's, is replaced as a whole."""
    (tmp_path / remains).mkdir()
    (tmp_path / remains / "stray").write_text("half", encoding="utf-8")
    provide_shop(tmp_path / SHOP, _settings(tmp_path))
    assert not (tmp_path / "shop.part").exists()
    assert {"gram.toml", "products.jsonl"} <= _names(tmp_path / SHOP)
    assert "stray" not in _names(tmp_path / SHOP)
