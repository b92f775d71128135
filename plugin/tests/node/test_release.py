"""Releases: names, the cache folder, checksums, and archives that become a server folder whole or not at all."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from pathlib import Path

import pytest

from gram_plugin.errors import ConfigError, NodeError
from gram_plugin.node.release import Release, cache_folder, check_archive, provide, unpack

UNKNOWN = Release("9.9.9")
"""A version whose checksum is not known beforehand."""


def store_archive(cache: Path, release: Release = UNKNOWN, *, folder: str = "opensearch-9.9.9") -> Path:
    """Writes a small archive with its checksum beside it, as fetching does."""
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{release.name}.zip"
    script = zipfile.ZipInfo(f"{folder}/bin/opensearch")
    script.external_attr = (stat.S_IFREG | 0o755) << 16
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(script, "#!/bin/sh\n")
        zipped.writestr(f"{folder}/config/jvm.options", "-Xms1g\n")
    checksum = hashlib.sha512(archive.read_bytes()).hexdigest()
    archive.with_name(f"{archive.name}.sha512").write_text(f"{checksum}\n", encoding="ascii")
    return archive


@pytest.mark.parametrize("version", ["", "3.8", "latest", "3.8.0-SNAPSHOT", "../3.8.0"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    """Only three numbers make a version, so a version never becomes another path or a moving target."""
    with pytest.raises(ConfigError, match=r"is not of the form 3\.8\.0"):
        Release(version)


def test_coordinates_of_the_default_release() -> None:
    """The archive with the whole server has these Maven coordinates."""
    assert Release().coordinates == "org.opensearch.distribution.integ-test-zip:opensearch:zip:3.8.0"


def test_the_cache_follows_xdg() -> None:
    """An absolute XDG_CACHE_HOME is used, a relative one ignored as the XDG specification says."""
    assert cache_folder({"XDG_CACHE_HOME": "/var/tmp/x"}) == Path("/var/tmp/x/gram-opensearch")
    assert cache_folder({"XDG_CACHE_HOME": "x"}) == cache_folder({}) == Path.home() / ".cache" / "gram-opensearch"


def test_a_cached_archive_becomes_a_server_without_network(tmp_path: Path) -> None:
    """With archive and checksum in the cache nothing is fetched; scripts are executable, all is readable."""
    store_archive(tmp_path / "cache")

    home = provide(UNKNOWN, tmp_path / "cache", tmp_path / "servers", repository="http://127.0.0.1:1")

    modes = {path.relative_to(home).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*.*")}
    assert (home, modes) == (tmp_path / "servers" / "opensearch-9.9.9", {"config/jvm.options": 0o644})
    assert stat.S_IMODE((home / "bin" / "opensearch").stat().st_mode) == 0o755


def test_an_unpacked_server_needs_no_archive(tmp_path: Path) -> None:
    """The second start reads neither archive nor checksum."""
    archive = store_archive(tmp_path)
    home = provide(UNKNOWN, tmp_path, tmp_path)
    archive.unlink()
    assert provide(UNKNOWN, tmp_path, tmp_path, repository="http://127.0.0.1:1") == home


@pytest.mark.parametrize("position", [0, 40, -1])
def test_one_flipped_byte_is_found(tmp_path: Path, position: int) -> None:
    """A damaged archive is named together with the command that helps, and nothing is unpacked."""
    archive = store_archive(tmp_path)
    content = bytearray(archive.read_bytes())
    content[position] ^= 1
    archive.write_bytes(content)

    with pytest.raises(NodeError, match="is damaged: SHA-512 expected") as caught:
        provide(UNKNOWN, tmp_path, tmp_path / "servers")

    assert caught.value.next_step == f"delete it (rm '{archive}') and start again to fetch it anew"
    assert not (tmp_path / "servers").exists()


def test_a_truncated_archive_of_a_known_version_is_found(tmp_path: Path) -> None:
    """Known versions are compared with our own checksum, whatever lies beside the archive."""
    archive = store_archive(tmp_path, Release("3.8.0"))
    with pytest.raises(NodeError, match="expected 8470fc447309e842…"):
        check_archive(Release("3.8.0"), archive)


def test_an_archive_without_checksum_is_refused(tmp_path: Path) -> None:
    """Nothing unverified is ever run."""
    archive = store_archive(tmp_path)
    archive.with_name(f"{archive.name}.sha512").unlink()
    with pytest.raises(NodeError, match="has no checksum to compare with"):
        check_archive(UNKNOWN, archive)


def test_an_archive_with_another_folder_leaves_nothing(tmp_path: Path) -> None:
    """An archive that is whole but not OpenSearch is refused, and its scratch folder removed."""
    archive = store_archive(tmp_path, folder="something-else")
    with pytest.raises(NodeError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "servers" / UNKNOWN.name)
    assert list((tmp_path / "servers").iterdir()) == []
