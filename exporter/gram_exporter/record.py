"""The folder that training leaves for export: model, tokenizer, codebook, record and calibration texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gram_plugin.contract.bundle import Tokens, write_json
from gram_plugin.contract.codes import Code, Role
from gram_plugin.contract.text import Rendering
from gram_plugin.errors import ExportError

MODEL = "model"  # folder: a Hugging Face seq2seq model (config.json, generation_config.json, model.safetensors)
TOKENIZER = "tokenizer.json"
CODEBOOK = "codebook.tsv"
RECORD = "record.json"
CALIBRATION_TEXTS = "calibration.jsonl"
HELD = "held.csv"  # feedback that training did not read: query,docid,rating


@dataclass(frozen=True)
class TrainingRecord:
    """What export must know of a finished training; becomes part of the manifest."""

    generation: str
    architecture: str
    rendering: Rendering
    id_field: str
    tokens: Tokens
    data_source: str
    data_licence: str
    products: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationText:
    """A rendered text that training never saw, with every code of what it wants.

    `shares`, one for each code, > 0 to 1: for a query the part of its wanted products that carry the code, by weight;
    for a product 1.
    """

    role: Role
    text: str
    codes: tuple[Code, ...]
    shares: tuple[float, ...] = ()

    def share_of(self) -> dict[Code, float]:
        """The shares by code; 1 for each where none are given."""
        return dict(zip(self.codes, self.shares or (1.0,) * len(self.codes), strict=True))


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Writes `record.json`; the last file that training writes, so its presence means finished."""
    write_json(folder / RECORD, asdict(record))


def read_record(folder: Path) -> TrainingRecord:
    """Reads `record.json`.

    Raises:
        ExportError: the folder holds no finished training.
    """
    path = folder / RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rendering = {**document["rendering"], "fields": tuple(document["rendering"]["fields"])}
        prompts = {role: tuple(ids) for role, ids in document["tokens"]["prompts"].items()}
        parsed = {"rendering": Rendering(**rendering), "tokens": Tokens(**{**document["tokens"], "prompts": prompts})}
        return TrainingRecord(**{**document, **parsed})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ExportError(
            f"there is no finished training in {folder}",
            next_step=f"run `gram train --training {folder}`; --resume goes on with one that was interrupted",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is no record of a finished training: {error!r}", next_step="run `gram train` again"
        ) from error


def write_calibration_texts(path: Path, texts: Iterable[CalibrationText]) -> None:
    """Writes one JSON object for each line: role, text, codes with their shares."""
    lines = (
        json.dumps(
            {
                "role": item.role,
                "text": item.text,
                "codes": {code.text: round(share, 6) for code, share in item.share_of().items()},
            }
        )
        for item in texts
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_held(path: Path, held: Mapping[str, Mapping[str, float]]) -> None:
    """Writes feedback as judgments, a product's weight as its rating; no file where there is none."""
    path.unlink(missing_ok=True)
    if not held:
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("query", "docid", "rating"))
        rows.writerows((query, key, f"{weight:.6g}") for query, own in held.items() for key, weight in own.items())


def read_calibration_texts(path: Path) -> Iterator[CalibrationText]:
    """Reads what `write_calibration_texts` wrote."""
    for line in path.read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        codes = document["codes"]
        yield CalibrationText(
            Role(document["role"]), document["text"], tuple(map(Code.parse, codes)), tuple(map(float, codes.values()))
        )
