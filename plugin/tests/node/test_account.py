"""The account that the server runs under, and which folders it can enter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gram_plugin.errors import NodeError
from gram_plugin.node.account import Account, server_account

STRANGER = Account("stranger", 4_000_000, 4_000_000, changes=True)


def test_an_ordinary_user_runs_the_server_as_himself() -> None:
    """Only root has to hand over."""
    assert server_account(uid=1000) == Account("", 1000, os.getegid(), changes=False)


def test_root_hands_over_to_an_unprivileged_account() -> None:
    """The account that root picks is never root."""
    account = server_account(uid=0)
    assert account.changes
    assert account.uid > 0


@pytest.mark.parametrize("name", ["root", "no-such-account"])
def test_an_account_that_is_root_or_missing_is_refused(name: str) -> None:
    """Neither would start."""
    with pytest.raises(NodeError, match=f"no unprivileged account {name}"):
        server_account(uid=0, name=name)


def test_a_folder_below_a_closed_one_cannot_be_entered(tmp_path: Path) -> None:
    """Every folder on the way counts; one that is missing yet does not."""
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    reachable = STRANGER.can_enter(tmp_path)
    open_folder.chmod(0o755)
    assert STRANGER.can_enter(open_folder / "missing" / "deeper") is reachable
    open_folder.chmod(0o700)
    assert STRANGER.can_enter(open_folder / "missing") is False


def test_our_own_account_enters_everything(tmp_path: Path) -> None:
    """Without a change of account there is nothing to ask."""
    tmp_path.chmod(0o700)
    assert server_account(uid=os.getuid() or 1000).can_enter(tmp_path)
