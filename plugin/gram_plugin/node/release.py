"""Releases of OpenSearch: their coordinates, the cache folder, and how an archive becomes a verified server folder.

The archive is the `integ-test-zip` distribution from the Maven repository, fetched by the package
`maven-artifact`. The 3.8.0 archive holds the whole server and its modules; the 2.19.4 one holds
`transport-netty4` alone, so analyzers such as `english`, `rank_features` and scripts are missing there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_plugin.errors import ConfigError, ExtraMissingError, NodeError

DEFAULT_VERSION = "3.8.0"
GROUP = "org.opensearch.distribution.integ-test-zip"
SHA512 = {
    "3.8.0": "8470fc447309e84216f9359030db53a85b087492e161e5ce1a29276e776d4725"
    "b802f93ba8d218ea88e4a7999addadb863be93b8e1f89e9a292163e636e62de3",
    "2.19.4": "f647ffad1263d5cef32657abe14533cf83e297b7dda42b0c27fa7250aa1de223"
    "67876a4b4bbc76205d84dabeea5f70c8c34d93753e751441a469f09b5e24a8a2",
}
"""Checksums that we have seen ourselves; other versions are checked against the repository's own."""

_CHUNK_BYTES = 1 << 20
_NETWORK_TIMEOUT_S = 30.0

Progress = Callable[[int, int], None]
"""Called with bytes fetched so far and bytes in all (0 if unknown)."""


@dataclass(frozen=True)
class Release:
    """One version of OpenSearch, such as 3.8.0."""

    version: str = DEFAULT_VERSION

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ConfigError(
                f"OpenSearch version {self.version!r} is not of the form 3.8.0",
                next_step=f"leave --version out to get {DEFAULT_VERSION}",
            )

    @property
    def major(self) -> int:
        """The leading number of the version."""
        return int(self.version.split(".")[0])

    @property
    def name(self) -> str:
        """The name of the archive's only folder, e.g. `opensearch-3.8.0`."""
        return f"opensearch-{self.version}"

    @property
    def coordinates(self) -> str:
        """What `maven-artifact` parses."""
        return f"{GROUP}:opensearch:zip:{self.version}"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/gram-opensearch`, by default `~/.cache/gram-opensearch`; not created here."""
    configured = Path(environ.get("XDG_CACHE_HOME", ""))
    root = configured if configured.is_absolute() else Path.home() / ".cache"
    return root / "gram-opensearch"


def provide(
    release: Release, cache: Path, servers: Path, *, repository: str = "", progress: Progress | None = None
) -> Path:
    """Returns the unpacked, verified server folder below `servers`; fetches the archive into `cache` if it must.

    With the server folder in place nothing is read but its name: no network, no checksum.

    Raises:
        NodeError: the archive cannot be fetched, or is not the one that the checksum names.
        ExtraMissingError: it must be fetched and `maven-artifact` is not installed.
    """
    home = servers / release.name
    if not (home / "bin" / "opensearch").is_file():
        archive = cache / f"{release.name}.zip"
        if archive.is_file():
            check_archive(release, archive)
        else:
            fetch(release, archive, repository=repository, progress=progress)
        unpack(archive, home)
    return home


def fetch(release: Release, archive: Path, *, repository: str = "", progress: Progress | None = None) -> None:
    """Downloads archive and checksum; `archive` appears whole and verified or not at all.

    Raises:
        NodeError: no network, no such version, a connection that broke off, or bytes that the checksum refuses.
    """
    maven = _maven()
    artifact = maven.Artifact.parse(release.coordinates)
    try:
        requestor = maven.Requestor()
        resolver = maven.Resolver(repository, requestor) if repository else maven.Downloader().resolver
        url = resolver.uri_for_artifact(artifact)
        archive.parent.mkdir(parents=True, exist_ok=True)
        expected = SHA512.get(release.version) or _remote_checksum(requestor, url)
        with requestor.request(url, None, stream=True, timeout=_NETWORK_TIMEOUT_S) as response:
            _write_verified(archive, response, expected, progress)
    except (OSError, maven.RequestException) as error:  # every error of requests is an OSError
        raise NodeError(
            f"OpenSearch {release.version} is not in the cache ({archive.parent}) and could not be fetched: {error}",
            next_step=f"connect to the network once, or put {archive.name} and {_checksum_path(archive).name} there",
        ) from error


def check_archive(release: Release, archive: Path) -> None:
    """Compares the archive with the known checksum, or with the one stored beside it.

    Raises:
        NodeError: they differ, or there is no checksum to compare with.
    """
    expected = SHA512.get(release.version) or _stored_checksum(archive)
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha512").hexdigest()
    if found != expected:
        raise NodeError(
            f"{archive} is damaged: SHA-512 expected {expected[:16]}…, found {found[:16]}…",
            next_step=f"delete it (rm '{archive}') and start again to fetch it anew",
        )


def unpack(archive: Path, home: Path) -> None:
    """Unpacks the archive's one folder as `home`, readable for every account; atomic.

    Raises:
        NodeError: the archive is no zip file with a folder of that name.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_folder(home.parent) as scratch:
        try:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(scratch)
                _set_modes(zipped, scratch)
            (scratch / home.name).rename(home)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            if not (home / "bin").is_dir():  # else another process was faster
                raise NodeError(
                    f"{archive} cannot be unpacked to {home}: {error}", next_step=f"delete {archive}"
                ) from error


def _maven() -> Any:
    try:
        return importlib.import_module("maven_artifact")
    except ImportError as error:
        raise ExtraMissingError(
            "fetching OpenSearch needs the extra [node]", next_step="pip install 'gram-opensearch[node]'"
        ) from error


def _remote_checksum(requestor: Any, url: str) -> str:
    answer: str = requestor.request(f"{url}.sha512", None, lambda found: found.text, timeout=_NETWORK_TIMEOUT_S)
    return (answer.split() or [""])[0].lower()


def _write_verified(archive: Path, response: Any, expected: str, progress: Progress | None) -> None:
    total, digest = int(response.headers.get("Content-Length", 0)), hashlib.sha512()
    partial = archive.with_name(f"{archive.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                if progress:
                    progress(file.tell(), total)
        if digest.hexdigest() != expected:
            raise OSError(f"the repository sent {partial.stat().st_size} bytes whose SHA-512 is not {expected[:16]}…")
        _checksum_path(archive).write_text(f"{expected}\n", encoding="ascii")
        os.replace(partial, archive)
    finally:
        partial.unlink(missing_ok=True)


def _stored_checksum(archive: Path) -> str:
    path = _checksum_path(archive)
    try:
        return path.read_text(encoding="ascii").split()[0].lower()
    except (OSError, IndexError) as error:
        message = f"{archive} has no checksum to compare with"
        raise NodeError(message, next_step=f"put its SHA-512 into {path}") from error


def _checksum_path(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha512")


@contextlib.contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _set_modes(zipped: zipfile.ZipFile, folder: Path) -> None:
    """Python's zipfile forgets modes; scripts must be executable, and all be readable for the server's account."""
    for entry in zipped.infolist():
        executable = entry.is_dir() or (entry.external_attr >> 16) & 0o111
        (folder / entry.filename).chmod(0o755 if executable else 0o644)
