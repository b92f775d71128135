"""State files of clusters that outlive their command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.account import server_account
from gram_plugin.node.detached import DetachedNode, find_detached, state_path, stop_detached
from gram_plugin.node.folder import ClusterFolder


def store_state(environ: dict[str, str], folder: Path) -> Path:
    """Writes the state of a cluster whose pids belong to nobody."""
    path = state_path(environ, "default")
    path.parent.mkdir(parents=True)
    document = {"name": "default", "version": "3.8.0", "urls": ["http://127.0.0.1:9200"], "folder": str(folder)}
    path.write_text(json.dumps({**document, "keeper_pid": 1, "pids": [1]}), encoding="utf-8")
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose state folder is the test's own."""
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def test_a_state_whose_keeper_is_gone_is_removed(environ: dict[str, str], tmp_path: Path) -> None:
    """After a crash or a reboot nothing is believed, and no pid of the file is ever signalled."""
    path = store_state(environ, tmp_path)
    assert find_detached(environ) is None
    assert not path.exists()
    with pytest.raises(NodeError, match="no node 'default' runs"):
        stop_detached(environ)


def test_a_cluster_whose_folder_is_locked_is_found(environ: dict[str, str], tmp_path: Path) -> None:
    """The lock, not the pid, says that it runs."""
    store_state(environ, tmp_path)
    with ClusterFolder.open(tmp_path, server_account(uid=1000)):
        found = find_detached(environ)
    assert found == DetachedNode("default", "3.8.0", ("http://127.0.0.1:9200",), tmp_path, 1, (1,))


@pytest.mark.parametrize("content", ["", "[]", '{"urls": []}'])
def test_a_broken_state_file_is_named(environ: dict[str, str], tmp_path: Path, content: str) -> None:
    """The reader learns which file to delete."""
    path = store_state(environ, tmp_path)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(NodeError, match="is no state of a node") as caught:
        find_detached(environ)
    assert caught.value.next_step == f"delete it (rm '{path}')"


@pytest.mark.parametrize("name", ["", "../x", "a b"])
def test_a_name_that_is_no_file_name_is_refused(environ: dict[str, str], name: str) -> None:
    """A name never leads out of the state folder."""
    with pytest.raises(ConfigError, match="node name"):
        state_path(environ, name)
