"""The workshop's place in the program."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer
from typer.main import get_command

from gram_plugin.cli import COMMANDS_GROUP, WORKSHOP, WORKSHOP_NEEDS, WORKSHOP_VERBS, build_app


def verbs_of(app: typer.Typer) -> set[str]:
    """Names of the commands at the top of a program."""
    return set(getattr(get_command(app), "commands", {}))


def test_placeholders_are_the_verbs_of_the_workshop() -> None:
    """Every verb that the workshop registers exists without its extra as well, and no other does."""
    whole, rooms_alone = verbs_of(build_app()), verbs_of(build_app(plugins=()))
    assert whole - rooms_alone == set(WORKSHOP_VERBS)


def test_workshop_is_an_entry_point() -> None:
    """The distribution announces the workshop in the group that the program loads."""
    assert [item.value for item in entry_points(group=COMMANDS_GROUP, name=WORKSHOP)] == ["gram_exporter.cli:register"]


def test_a_missing_part_of_the_extra_gives_placeholders() -> None:
    """One missing module of the extra is enough: a verb never fails half-way for want of a package."""
    for absent in WORKSHOP_NEEDS:
        app = build_app(is_importable=lambda module, absent=absent: module != absent)
        helps = {name: command.help for name, command in get_command(app).commands.items()}  # type: ignore[attr-defined]
        assert {helps[verb] for verb in WORKSHOP_VERBS} == {"Needs the extra: pip install 'gram-opensearch[exporter]'."}
