"""The bundle: the folder that training writes and serving reads, checked whole before first use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gram_plugin.contract.codebook import Codebook, read_codebook
from gram_plugin.contract.codes import Role, check_generation
from gram_plugin.contract.text import MAX_PRODUCT_CHARS, TEXT_VERSION, Rendering
from gram_plugin.errors import BundleError, CodeError

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
CODEBOOK = "codebook.tsv"
TOKENIZER = "tokenizer.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
CALIBRATION = "calibration.json"
LINEAR = "linear.npz"
"""The linear arm; a bundle may do without."""
TAGGER = "tagger.json"
REQUIRED_FILES = (CODEBOOK, TOKENIZER, ENCODER, DECODER, CALIBRATION, TAGGER)

_CHECKSUM = "manifest_sha256"
_RETRAIN = "make the bundle again with `gram export`, or copy it again whole"
_EXPORT = "make one with `gram export`, or name the folder of one; a copy must be whole"


@dataclass(frozen=True)
class FileEntry:
    """Size and checksum of one file of the bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph: name, element type as onnxruntime spells it, axes (int or symbol)."""

    name: str
    dtype: str
    axes: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """One ONNX graph with the tensors that serving relies on."""

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Tokens:
    """Token ids that decoding needs; `prompts` are put in front of a text, by role.

    An attribute is one token: the codebook's attributes in order of `Attribute.sort_key` have the
    ids `first_attribute`, `first_attribute + 1`, ... (see `codebook.attributes_of`). They are no tokens of
    the text tokenizer, so no text can spell one. A code is its attributes' tokens, then `eos`.
    The most tokens of a role count its prompt and `eos` in.
    """

    pad: int
    eos: int
    decoder_start: int
    first_attribute: int
    prompts: Mapping[str, tuple[int, ...]]
    max_query_tokens: int
    max_product_tokens: int

    def framed(self, text: Sequence[int], role: Role) -> list[int]:
        """Encoder input of a tokenised text: prompt, text, `eos`; the text is cut so that all fits the role's most."""
        most = self.max_query_tokens if role is Role.QUERY else self.max_product_tokens
        prompt = self.prompts[role.value]
        return [*prompt, *text[: most - len(prompt) - 1], self.eos]


@dataclass(frozen=True)
class Manifest:
    """Everything that serving must know before it opens a graph.

    `precision` is `fp32`, or `int8`: there the activations of one run share their scale, so texts
    are decoded one by one and an answer never depends on what else is asked at the time.
    `products` is the size of the training catalogue. `linear_share`, 0 to 1, is the linear arm's part in
    P(code | query), the rest being the generator's.
    """

    generation: str
    architecture: str
    rendering: Rendering
    id_field: str
    tokens: Tokens
    graphs: Mapping[str, Graph]
    files: Mapping[str, FileEntry]
    created_at: str
    data_source: str
    data_licence: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    products: int = 0
    linear_share: float = 0.0
    format_version: int = FORMAT_VERSION
    text_version: int = TEXT_VERSION


@dataclass(frozen=True)
class Curve:
    """Piecewise-linear, non-decreasing map from log-probability (nats) to calibrated probability.

    Outside its knots it is constant; `probability` is in (0, 1].
    """

    log_probability: tuple[float, ...]
    probability: tuple[float, ...]

    def at(self, log_probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities, same shape as the input, float64."""
        return np.interp(log_probability, self.log_probability, self.probability)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file's checksum has been compared with the manifest."""

    path: Path
    manifest: Manifest
    codebook: Codebook
    calibration: Mapping[Role, Curve]

    def file(self, name: str) -> Path:
        """Path of one file of the bundle."""
        return self.path / name


def open_bundle(path: Path) -> Bundle:
    """Reads and checks a bundle.

    Raises:
        BundleError: a file is missing or changed, the format is of another version, or a part is malformed.
    """
    manifest = read_manifest(path)
    for name, entry in manifest.files.items():
        _check_file(path / name, entry)
    return Bundle(path, manifest, read_codebook(path / CODEBOOK), read_calibration(path / CALIBRATION))


def read_manifest(path: Path) -> Manifest:
    """Reads only the manifest and checks versions and the list of files.

    Raises:
        BundleError: it is missing, changed, malformed, of another version, or does not name a required file.
    """
    if not (path / MANIFEST).exists():
        reason = f"it has no {MANIFEST}" if path.is_dir() else "there is no such folder"
        raise BundleError(f"there is no bundle in {path}: {reason}", next_step=_EXPORT)
    document = _read_json(path / MANIFEST)
    _check_version(document, "format_version", FORMAT_VERSION, path)
    _check_version(document, "text_version", TEXT_VERSION, path)
    if document.pop(_CHECKSUM, None) != manifest_checksum(document):
        raise BundleError(f"{path / MANIFEST} has changed: its own checksum does not fit", next_step=_RETRAIN)
    try:
        manifest = _manifest_of(document)
    except (KeyError, TypeError, ValueError, AttributeError, CodeError) as error:
        raise BundleError(f"{path / MANIFEST} is malformed: {error!r}", next_step=_RETRAIN) from error
    needed = (*REQUIRED_FILES, *(graph.file for graph in manifest.graphs.values()))
    if manifest.linear_share:
        needed = (*needed, LINEAR)
    missing = sorted({name for name in needed if name not in manifest.files})
    if missing:
        raise BundleError(f"{path / MANIFEST} does not list {', '.join(missing)}", next_step=_RETRAIN)
    return manifest


def write_bundle(staging: Path, target: Path, manifest: Manifest) -> Bundle:
    """Finishes a staged folder: the manifest last, then one rename. An existing target is replaced.

    `staging` must be on the file system of `target` and hold every required file;
    the manifest's `files` are computed here.

    Raises:
        BundleError: a required file is missing in `staging`.
    """
    files = {name: _entry_of(staging / name) for name in sorted(_names(staging))}
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise BundleError(f"{staging} lacks {', '.join(missing)}", next_step="stage every required file first")
    finished = Manifest(**{**_shallow(manifest), "files": files})
    document = asdict(finished)
    write_json(staging / MANIFEST, {**document, _CHECKSUM: manifest_checksum(document)})
    _replace_folder(staging, target)
    return open_bundle(target)


def manifest_checksum(document: Mapping[str, Any]) -> str:
    """sha256 of a manifest's content, whatever its spacing and order of keys; 64 hex digits."""
    text = json.dumps(document, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_calibration(path: Path) -> dict[Role, Curve]:
    """Reads one curve for each role.

    Raises:
        BundleError: a role is missing or a curve is not finite, increasing and inside (0, 1].
    """
    document = _read_json(path)
    try:
        curves = {role: _curve_of(document[role.value]) for role in Role}
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} is malformed: {error!r}", next_step=_RETRAIN) from error
    return curves


def write_calibration(path: Path, calibration: Mapping[Role, Curve]) -> None:
    """Writes one curve for each role."""
    write_json(path, {role.value: asdict(curve) for role, curve in calibration.items()})


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes indented JSON with sorted keys, whole or not at all."""
    text = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def _manifest_of(document: Mapping[str, Any]) -> Manifest:
    unknown = set(document) - {item.name for item in fields(Manifest)}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    tokens = dict(document["tokens"])
    tokens["prompts"] = {Role(role).value: tuple(ids) for role, ids in tokens["prompts"].items()}
    parsed = {
        "generation": check_generation(document["generation"]),
        "rendering": _rendering_of(document["rendering"]),
        "tokens": Tokens(**tokens),
        "graphs": {name: _graph_of(graph) for name, graph in document["graphs"].items()},
        "files": {name: FileEntry(**entry) for name, entry in document["files"].items()},
        "products": _checked_count(document["products"]),
        "linear_share": _checked_share(document["linear_share"]),
    }
    return Manifest(**{**document, **parsed})


def _checked_count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"products is {value!r}, no count")
    return value


def _checked_share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"linear_share is {value!r}, not between 0 and 1")
    return float(value)


def _rendering_of(document: Mapping[str, Any]) -> Rendering:
    rendering = Rendering(**{**document, "fields": tuple(document["fields"])})
    if not rendering.fields or not 0 < rendering.max_chars <= 64 * MAX_PRODUCT_CHARS:
        raise ValueError("rendering needs at least one field and a max_chars that can be served")
    return rendering


def _graph_of(document: Mapping[str, Any]) -> Graph:
    return Graph(document["file"], _tensors_of(document["inputs"]), _tensors_of(document["outputs"]))


def _tensors_of(documents: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(item["name"], item["dtype"], tuple(item["axes"])) for item in documents)


def _curve_of(document: Mapping[str, Any]) -> Curve:
    curve = Curve(tuple(map(float, document["log_probability"])), tuple(map(float, document["probability"])))
    knots, values = np.asarray(curve.log_probability), np.asarray(curve.probability)
    if knots.size == 0 or knots.shape != values.shape or not np.isfinite(np.stack([knots, values])).all():
        raise ValueError("a curve needs equally many finite log-probabilities and probabilities")
    if (np.diff(knots) <= 0).any() or (np.diff(values) < 0).any() or values.min() <= 0 or values.max() > 1:
        raise ValueError("a curve must increase and stay inside (0, 1]")
    return curve


def _check_version(document: Mapping[str, Any], key: str, known: int, path: Path) -> None:
    found = document.get(key)
    if found == known:
        return
    newer = isinstance(found, int) and found > known
    step = "upgrade gram-opensearch on this machine" if newer else _RETRAIN
    raise BundleError(f"{path / MANIFEST}: {key} is {found!r}, this version reads {known}", next_step=step)


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise BundleError(f"bundle file {path} is missing", next_step=_RETRAIN)
    found = _entry_of(path)
    if found != entry:
        raise BundleError(
            f"bundle file {path} has changed: expected {entry.size_bytes} bytes with sha256 {entry.sha256}, "
            f"found {found.size_bytes} bytes with sha256 {found.sha256}",
            next_step=_RETRAIN,
        )


def _entry_of(path: Path) -> FileEntry:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(digest, path.stat().st_size)


def _names(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir() if item.is_file() and item.name != MANIFEST]


def _shallow(manifest: Manifest) -> dict[str, Any]:
    return {item.name: getattr(manifest, item.name) for item in fields(manifest)}


def _replace_folder(staging: Path, target: Path) -> None:
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(staging, target)
    shutil.rmtree(old, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing", next_step=_RETRAIN) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}", next_step=_RETRAIN) from error
    if not isinstance(document, dict):
        raise BundleError(f"{path} must hold a JSON object", next_step=_RETRAIN)
    return document
