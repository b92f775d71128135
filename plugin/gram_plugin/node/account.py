"""The account that the server runs under: OpenSearch refuses root, so root hands over to an unprivileged one."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from gram_plugin.errors import NodeError

UNPRIVILEGED = ("opensearch", "nobody")
"""Accounts that root hands over to, the first that exists."""


@dataclass(frozen=True)
class Account:
    """A user of the system; `changes` says that the server runs under another one than we do."""

    name: str
    uid: int
    gid: int
    changes: bool

    def can_enter(self, folder: Path) -> bool:
        """Whether a server under this account can reach `folder`; a part that is missing yet counts as reachable."""
        if not self.changes:
            return True
        resolved = folder.resolve()
        return all(self._may_traverse(part) for part in (resolved, *resolved.parents))

    def own(self, folder: Path) -> None:
        """Makes `folder` and all in it the server's."""
        if not self.changes:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def _may_traverse(self, folder: Path) -> bool:
        try:
            status = folder.stat()
        except FileNotFoundError:
            return True
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def server_account(*, uid: int | None = None, name: str = "") -> Account:
    """Our own account, or for root the one named, or the first of `UNPRIVILEGED`.

    Raises:
        NodeError: we are root and there is no such account, or it is root again.
    """
    current = os.geteuid() if uid is None else uid
    if current != 0:
        return Account("", current, os.getegid(), changes=False)
    entry = next(filter(None, map(_entry, (name,) if name else UNPRIVILEGED)), None)
    if entry is None or entry.pw_uid == 0:
        wanted = name or " or ".join(UNPRIVILEGED)
        raise NodeError(
            f"OpenSearch refuses to run as root and there is no unprivileged account {wanted}",
            next_step="name one with --user, or start as another user",
        )
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, changes=True)


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
