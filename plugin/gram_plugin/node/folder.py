"""The folder of a cluster: temporary or named, locked while its servers run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gram_plugin.errors import NodeError
from gram_plugin.node.account import Account

LOCK = "lock"


@dataclass(frozen=True)
class ClusterFolder:
    """A folder and an open, locked file in it; the keeper inherits the lock and so holds it as long as it lives."""

    path: Path
    temporary: bool
    lock: int

    @classmethod
    def open(cls, named: Path | None, account: Account) -> ClusterFolder:
        """Makes and locks the named folder, or a temporary one.

        Raises:
            NodeError: servers run in it already, or the server's account cannot enter it.
        """
        path = _temporary_folder(account) if named is None else _named_folder(named)
        if not account.can_enter(path):
            raise NodeError(
                f"account {account.name!r}, which runs the server in place of root, cannot enter {path}",
                next_step="choose a --data folder below one that every account can enter, such as /var/tmp",
            )
        return cls(path, named is None, _lock(path))

    def __enter__(self) -> ClusterFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes our hold of the lock, and clears a temporary folder that no keeper has taken over."""
        os.close(self.lock)
        if error is not None and self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)


def is_locked(folder: Path) -> bool:
    """Whether a keeper holds the folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _temporary_folder(account: Account) -> Path:
    usual = Path(tempfile.gettempdir())
    root = usual if account.can_enter(usual) else Path("/var/tmp")  # noqa: S108 - mkdtemp makes the name ours alone
    path = Path(tempfile.mkdtemp(prefix="gram-node-", dir=root))
    path.chmod(0o755)  # mkdtemp lets its owner alone in, the server may be another account
    return path


def _named_folder(named: Path) -> Path:
    path = named.expanduser().absolute()
    try:
        if not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(0o755)
    except OSError as error:
        raise NodeError(f"data folder {path} cannot be made: {error}", next_step="choose another --data") from error
    return path


def _lock(path: Path) -> int:
    handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise NodeError(
            f"{path} is in use by servers that run already", next_step="`gram node stop`, or choose another --data"
        ) from error
    return handle
