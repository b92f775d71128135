"""How the npm packages of the tests are installed: as the lock names them, by digest, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from javascript import PINS, PROGRAMS, node_js, packages
from programs import ProgramError

MANIFEST = {"name": "sofa", "version": "1.0.0", "scripts": {"postinstall": "touch ran"}}


def tarball(text: str) -> bytes:
    """A package as a registry holds it."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as packed:
        for name, content in (("package.json", json.dumps(MANIFEST)), ("index.js", text)):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content.encode()))
    return held.getvalue()


def integrity(data: bytes) -> str:
    """The digest in the form of npm."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


@dataclass
class Registry:
    """A registry on loopback with one package, whatever its bytes are now; it tells the digest of these."""

    url: str = ""
    bytes_now: bytes = b""
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> bytes:
        """The document of the package, or its bytes."""
        self.asked.append(path)
        if path.endswith(".tgz"):
            return self.bytes_now
        dist = {"tarball": f"{self.url}/sofa/-/sofa-1.0.0.tgz", "integrity": integrity(self.bytes_now)}
        versions = {"1.0.0": {"name": "sofa", "version": "1.0.0", "dist": dist}}
        return json.dumps({"name": "sofa", "dist-tags": {"latest": "1.0.0"}, "versions": versions}).encode()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Runs for one test."""
    held = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = held.answer(self.path)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is said."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        held.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield held
        server.shutdown()
        thread.join()


def pinned(folder: Path, data: bytes) -> Path:
    """A folder whose lock names the package with these bytes."""
    folder.mkdir()
    needed = {"dependencies": {"sofa": "1.0.0"}}
    lock = {"": needed, "node_modules/sofa": {"version": "1.0.0", "integrity": integrity(data)}}
    (folder / "package.json").write_text(json.dumps({"private": True, **needed}), encoding="utf-8")
    (folder / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": lock}), encoding="utf-8")
    return folder


def environ(registry: Registry, folder: Path) -> dict[str, str]:
    """The environment with this registry and with nothing that npm kept from earlier."""
    return {
        **os.environ,
        "npm_config_registry": registry.url,
        "npm_config_cache": str(folder / "npm"),
        "npm_config_userconfig": str(folder / "npmrc"),
    }


def test_the_lock_names_every_package_by_digest_and_no_address() -> None:
    """Each entry has version and SHA-512; no registry is named, so everybody's own is used."""
    text = (PROGRAMS / "package-lock.json").read_text(encoding="utf-8")
    entries = {name: entry for name, entry in json.loads(text)["packages"].items() if name}
    assert {name for name, entry in entries.items() if not entry["integrity"].startswith("sha512-")} == set()
    assert "node_modules/@opensearch-project/opensearch" in entries
    assert ("://" in text, "resolved" in text) == (False, False)


def test_packages_are_installed_once_and_run_no_script(registry: Registry, tmp_path: Path) -> None:
    """The package lies below the cache, its install script did not run, and a second call asks nobody."""
    registry.bytes_now = tarball("module.exports = 1")
    pins, cache = pinned(tmp_path / "pins", registry.bytes_now), tmp_path / "cache"
    found = packages(node_js(), pins, cache, environ(registry, tmp_path))
    asked = list(registry.asked)
    assert packages(node_js(), pins, cache, environ(registry, tmp_path)) == found
    assert sorted(path.name for path in (found / "sofa").iterdir()) == ["index.js", "package.json"]
    assert (found.parent.parent, [path.name for path in cache.iterdir()]) == (cache, [found.parent.name])
    assert sorted(path.name for path in found.parent.iterdir()) == sorted([*PINS, "node_modules"])
    assert (registry.asked, len(asked)) == (asked, 2)


def test_a_package_with_other_bytes_is_refused(registry: Registry, tmp_path: Path) -> None:
    """Although the registry vouches for what it sends: the lock decides, and nothing is left behind."""
    pins, cache = pinned(tmp_path / "pins", tarball("module.exports = 1")), tmp_path / "cache"
    registry.bytes_now = tarball("module.exports = 'something else'")
    with pytest.raises(ProgramError, match="EINTEGRITY"):
        packages(node_js(), pins, cache, environ(registry, tmp_path))
    assert list(cache.iterdir()) == []
