"""Checkpoints of a training: tensors as safetensors, the rest as JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gram_plugin.contract.bundle import write_json
from gram_plugin.errors import TrainingError

STATE = "state.json"
TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Position:
    """Where a training stands; `fingerprint` names the data and settings that it belongs to, losses are in nats."""

    step: int
    steps: int
    fingerprint: str
    loss_first: float | None = None
    loss_last: float | None = None


def save_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Replaces the checkpoint in `folder`."""
    staging = folder.with_name(folder.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file(_tensors(model, optimiser), staging / TENSORS)
    write_json(staging / STATE, asdict(position))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staging, folder)


def load_checkpoint(
    folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, fingerprint: str
) -> Position | None:
    """Fills model and optimiser from `folder`; None when there is no checkpoint.

    Raises:
        TrainingError: the checkpoint is damaged, or belongs to other data or settings.
    """
    if not (folder / STATE).is_file():
        return None
    again = "delete the folder or train without --resume"
    try:
        position = Position(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise TrainingError(f"checkpoint {folder} is damaged: {error}", next_step=again) from error
    if position.fingerprint != fingerprint:
        raise TrainingError(f"checkpoint {folder} belongs to other data or settings", next_step=again)
    _restore(tensors, model, optimiser)
    return position


def _tensors(model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    tensors = {f"model/{name}": parameter.detach().contiguous() for name, parameter in named.items()}
    for name, parameter in named.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.detach().clone().contiguous()
    return tensors


def _restore(tensors: dict[str, torch.Tensor], model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            state = {key.split("/")[0]: value for key, value in tensors.items() if key.partition("/")[2] == name}
            optimiser.state[parameter] = {key: value for key, value in state.items() if key != "model"}
