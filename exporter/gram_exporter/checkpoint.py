"""Checkpoints of a training: one safetensors file with its position as metadata, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gram_plugin.errors import TrainingError

FILE = "checkpoint.safetensors"
_POSITION = "position"


@dataclass(frozen=True)
class Position:
    """Where a training stands; `fingerprint` names the data and settings that it belongs to, losses are in nats."""

    step: int
    steps: int
    fingerprint: str
    loss_first: float | None = None
    loss_last: float | None = None


def save_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Replaces the checkpoint in `folder`; stopped at any moment, the earlier or the new one is there."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f"{FILE}.part"
    save_file(_tensors(model, optimiser), staging, metadata={_POSITION: json.dumps(asdict(position))})
    os.replace(staging, folder / FILE)


def load_checkpoint(
    folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, fingerprint: str
) -> Position | None:
    """Fills model and optimiser from `folder`; None when there is no checkpoint.

    Raises:
        TrainingError: the checkpoint is damaged, or belongs to other data or settings.
    """
    if not (folder / FILE).is_file():
        return None
    again = "delete the folder or train without --resume"
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            position = Position(**json.loads(file.metadata()[_POSITION]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
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
            optimiser.state[parameter] = {
                # AdamW counts its steps on the CPU, wherever the weights are.
                key: value if key == "step" else value.to(parameter.device, copy=True)
                for key, value in state.items()
                if key != "model"
            }
