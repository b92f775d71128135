"""Fetching with the extra [node]: a Maven repository on loopback, one that is not there, and what it may send."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gram_plugin.errors import NodeError
from gram_plugin.node.node import NodeSettings, start_node
from gram_plugin.node.release import Release, provide

RELEASE = Release("9.9.9")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and keeps silent."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Prints nothing."""


@dataclass
class Repository:
    """A Maven repository on loopback."""

    root: Path
    url: str

    @property
    def archive(self) -> Path:
        """Where the archive of `RELEASE` lies."""
        return self.root / "org/opensearch/distribution/integ-test-zip/opensearch/9.9.9/opensearch-9.9.9.zip"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """A repository with one small release."""
    handler = partial(QuietHandler, directory=str(tmp_path / "repository"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        offered = Repository(tmp_path / "repository", f"http://127.0.0.1:{server.server_port}")
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as zipped:
            zipped.writestr("opensearch-9.9.9/bin/opensearch", "#!/bin/sh\n")
        offered.archive.parent.mkdir(parents=True)
        offered.archive.write_bytes(content.getvalue())
        checksum = hashlib.sha512(content.getvalue()).hexdigest()
        offered.archive.with_name("opensearch-9.9.9.zip.sha512").write_text(checksum, encoding="ascii")
        yield offered
        server.shutdown()


def test_a_release_is_fetched_verified_and_kept(repository: Repository, tmp_path: Path) -> None:
    """The cache holds archive and checksum afterwards, and the last progress is the whole."""
    seen: list[tuple[int, int]] = []

    cache, servers = tmp_path / "cache", tmp_path / "servers"

    home = provide(RELEASE, cache, servers, repository=repository.url, progress=lambda *at: seen.append(at))

    size = repository.archive.stat().st_size
    assert (home / "bin" / "opensearch").is_file()
    assert seen[-1] == (size, size)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        "opensearch-9.9.9.zip",
        "opensearch-9.9.9.zip.sha512",
    ]


@pytest.mark.parametrize("kept", [0, 50])
def test_a_cut_archive_never_reaches_the_cache(repository: Repository, tmp_path: Path, kept: int) -> None:
    """A connection that broke off leaves nothing that a later start could take for the archive."""
    repository.archive.write_bytes(repository.archive.read_bytes()[:kept])
    with pytest.raises(NodeError, match=f"the repository sent {kept} bytes whose SHA-512 is not"):
        provide(RELEASE, tmp_path / "cache", tmp_path / "servers", repository=repository.url)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_version_that_nobody_has_is_named(repository: Repository, tmp_path: Path) -> None:
    """The error carries the repository's answer."""
    with pytest.raises(NodeError, match=r"OpenSearch 9\.9\.8 is not in the cache .* could not be fetched: 404"):
        provide(Release("9.9.8"), tmp_path / "cache", tmp_path / "servers", repository=repository.url)


def test_no_network_and_no_cache_is_named(tmp_path: Path) -> None:
    """The next step names both ways out: the network, or two files in the cache folder."""
    with pytest.raises(NodeError, match=r"is not in the cache .* could not be fetched") as caught:
        provide(Release(), tmp_path / "cache", tmp_path / "servers", repository="http://127.0.0.1:1")
    assert caught.value.next_step == (
        "connect to the network once, or put opensearch-3.8.0.zip and opensearch-3.8.0.zip.sha512 there"
    )


def test_a_warm_cache_needs_no_network() -> None:
    """With the server unpacked a node starts although the repository is out of reach."""
    quick = ("-XX:TieredStopAtLevel=1",)
    with start_node(NodeSettings(repository="http://127.0.0.1:1", jvm_options=quick)) as running:
        assert running.url.startswith("http://127.0.0.1:")
