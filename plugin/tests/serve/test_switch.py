"""The switch of a shim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gram_plugin.cli import build_app
from gram_plugin.errors import ConfigError
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim
from gram_plugin.serve.switch import Switch, turn_off, turn_on

LEXICAL = {"query": {"match": {"title": "red couch"}}}


def gram(*arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and words of a verb."""
    done = CliRunner(env={"GRAM_OFF_FILE": "", **variables}).invoke(build_app(), list(arguments))
    return done.exit_code, done.output.strip()


def test_file_and_signal_each_switch_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Either is enough; only with both gone codes are on; each change is one line in the log, with its cause."""
    switch, file = Switch(tmp_path / "off"), tmp_path / "off"
    found = []
    for act in (lambda: None, file.touch, switch.off, file.unlink, switch.on, switch.off, switch.on):
        act()
        found += [switch.is_off, switch.is_off]
    assert found[::2] == [False, True, True, True, False, True, False]
    assert found[1::2] == found[::2]
    off = {"event": "switch", "off": True}
    on = {"event": "switch", "off": False}
    told = [vars(record)["fields"] for record in caplog.records]
    assert told == [{**off, "by": f"file {file}"}, on, {**off, "by": "signal"}, on]


def test_without_a_file_only_signals_count() -> None:
    """A switch that knows no file is on until it is told."""
    switch = Switch()
    assert not switch.is_off


def test_a_file_that_cannot_be_looked_for_changes_nothing(tmp_path: Path) -> None:
    """An error of the file system is no reason to fail a search, nor to switch."""
    file = tmp_path / ("x" * 300)
    assert not Switch(file).is_off


def test_signals_act_while_the_file_cannot_be_looked_for(tmp_path: Path) -> None:
    """Off by a signal ends with the other signal; a file that was there counts until it is seen to be gone."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "off"
    switch, found = Switch(file), []

    def hide() -> None:  # a name that is too long cannot be looked for, whoever asks: a right could be root's
        folder.rmdir()
        folder.symlink_to("x" * 300)

    def show() -> None:
        folder.unlink()
        folder.mkdir()

    for act in (hide, switch.off, switch.on, show, file.touch):
        act()
        found.append(switch.is_off)
    file.unlink()
    hide()
    found.append(switch.is_off)
    show()
    found.append(switch.is_off)
    assert found == [False, True, False, False, True, True, False]


def test_turning_is_told_once(tmp_path: Path) -> None:
    """The file is made and removed; a second time says that nothing was to be done."""
    file = tmp_path / "off"
    assert [turn_off(file), turn_off(file), file.exists()] == [True, False, True]
    assert [turn_on(file), turn_on(file), file.exists()] == [True, False, False]


@pytest.mark.parametrize("turn", [turn_off, turn_on])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, turn: Any) -> None:
    """A folder that is no folder: a finding and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be") as caught:
        turn(tmp_path / "file" / "off")
    assert "that the shim knows" in str(caught.value.next_step)


def test_the_verbs_make_and_remove_the_file(tmp_path: Path) -> None:
    """`gram off` and `gram on` say what they did; the file comes from the option or the variable."""
    file = tmp_path / "off"
    assert gram("off", "--file", str(file)) == (0, f"codes are off: searches pass untouched while {file} exists")
    assert gram("off", GRAM_OFF_FILE=str(file)) == (0, f"{file} exists already")
    assert gram("on", GRAM_OFF_FILE=str(file)) == (0, f"codes are on: {file} is removed")
    assert gram("on", "--file", str(file)) == (0, f"codes were not switched off: there is no {file}")


def test_a_verb_without_a_file_names_the_ways() -> None:
    """Without a file: the option, the variable and the signals."""
    code, words = gram("off")
    assert code == 2
    assert all(way in words for way in ("--file", "GRAM_OFF_FILE", "kill -USR1", "kill -USR2"))


async def test_readiness_and_metrics_show_it(
    client: Any, serve: Any, opensearch_url: str, fake_generator: Any, tmp_path: Path
) -> None:
    """Off is visible before the first search, and a restart with the file in place stays off."""
    file = tmp_path / "off"
    settings = ShimSettings(upstream_url=opensearch_url, budget_ms=20_000, off_file=file)
    url = await serve(create_shim(settings, fake_generator()))
    shown = []
    for act in (lambda: None, file.touch):
        act()
        page, ready = (await client(url + "/-/metrics")).body, (await client(url + "/-/ready")).body
        shown.append([line for line in page.split(b"\n") if line.startswith(b"gram_switched_off ")])
        shown[-1].append(b'"switched_off":true' in ready)
    assert shown == [[b"gram_switched_off 0.0", False], [b"gram_switched_off 1.0", True]]
    restarted = await serve(create_shim(replace(settings), fake_generator()))
    got = await client.search(restarted + "/shop/_search", LEXICAL)
    assert (got.status, got.status_header) == (200, "off; reason=switched-off")
