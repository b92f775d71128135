"""A tiny bundle of random weights (`python benchmarks/decode.py --tiny FOLDER` makes it again)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gram_plugin.contract.bundle import manifest_checksum
from gram_plugin.decode.generator import OnnxGenerator

TINY = Path(__file__).parent / "tiny_bundle"

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="session")
def generator() -> OnnxGenerator:
    """A generator of the tiny bundle, fp32, with a codebook of 40 codes."""
    return OnnxGenerator.open(TINY)


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture
def edit_manifest(bundle_path: Path) -> Callable[[Edit], Path]:
    """Changes the manifest of `bundle_path` in place and gives its path."""

    def edit(change: Edit) -> Path:
        path = bundle_path / "manifest.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        document.pop("manifest_sha256")
        change(document)
        document["manifest_sha256"] = manifest_checksum(document)
        path.write_text(json.dumps(document), encoding="utf-8")
        return bundle_path

    return edit


@pytest.fixture
def replace_file(bundle_path: Path, edit_manifest: Callable[[Edit], Path]) -> Callable[[str, bytes], Path]:
    """Replaces a file of `bundle_path` and tells the manifest, so that checksums agree."""

    def replace(name: str, content: bytes) -> Path:
        (bundle_path / name).write_bytes(content)
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        return edit_manifest(lambda document: document["files"].update({name: entry}))

    return replace
