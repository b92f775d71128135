"""Vectors of a whole catalogue, encoded once and kept in a folder in parts, so that a broken-off run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gram_exporter.rivals.encoder import SentenceEncoder
from gram_plugin.progress import Progress

Floats = npt.NDArray[np.float32]

PART_TEXTS = 512
"""Texts encoded between two writes: on two cores some ten seconds of work, the most that a broken-off run loses."""
_VECTORS = "vectors"


@dataclass(frozen=True)
class Catalogue:
    """Products as the encoder sees them: `ids` in order and `vectors`, unit, float32, shape (products, width)."""

    ids: tuple[str, ...]
    vectors: Floats


def catalogue_vectors(
    encoder: SentenceEncoder, texts: Mapping[str, str], work: Path, progress: Progress, *, stage: str = "encode"
) -> Catalogue:
    """Encodes the products, taking from `work` what an earlier run with the same encoder and texts left there.

    Args:
        encoder: what encodes.
        texts: product id to text.
        work: folder of parts; made if it is not there.
        progress: told of every part.
        stage: what the progress is called.
    """
    folder = work / encoder.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    ids, parts = tuple(texts), []
    for start in range(0, len(ids), PART_TEXTS):
        part = [texts[key] for key in ids[start : start + PART_TEXTS]]
        parts.append(_part(encoder, part, folder))
        progress(stage, start + len(part), len(ids))
    return Catalogue(ids, np.concatenate(parts) if parts else np.zeros((0, encoder.width), np.float32))


def _part(encoder: SentenceEncoder, texts: Sequence[str], folder: Path) -> Floats:
    path = folder / f"{_digest(texts)}.safetensors"
    found = _kept(path, (len(texts), encoder.width))
    if found is None:
        found = encoder.encode(texts)
        staging = path.with_suffix(f".{os.getpid()}.part")
        save_file({_VECTORS: found}, staging)
        os.replace(staging, path)
    return found


def _kept(path: Path, shape: tuple[int, int]) -> Floats | None:
    """Vectors of an earlier run; None where there are none that are whole."""
    if not path.is_file():
        return None
    try:
        vectors = load_file(path)[_VECTORS]
    except (OSError, KeyError, SafetensorError):
        return None  # broken by a full disk or a foreign hand: encoding again mends it
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()
