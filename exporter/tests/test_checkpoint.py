"""Checkpoints of a training."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from gram_exporter.checkpoint import Position, load_checkpoint, save_checkpoint
from gram_plugin.errors import TrainingError


def _trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        optimiser.step()
    return model, optimiser


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Position, weights and moments are those that were saved, whatever the model was before."""
    model, optimiser = _trained(3)
    save_checkpoint(tmp_path / "c", model, optimiser, Position(3, 8, "x", 2.5, 1.5))
    again, other = _trained(1)
    assert load_checkpoint(tmp_path / "c", again, other, "x") == Position(3, 8, "x", 2.5, 1.5)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other.state_dict()["state"], optimiser.state_dict()["state"], rtol=0, atol=0)


def test_moments_go_where_the_weights_are(tmp_path: Path) -> None:
    """On another device than the CPU the moments are put there, and the count of steps stays on the CPU."""
    save_checkpoint(tmp_path / "c", *_trained(3), Position(3, 8, "x"))
    model = torch.nn.Linear(3, 2, device="meta")
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    load_checkpoint(tmp_path / "c", model, optimiser, "x")
    devices = [{key: value.device.type for key, value in state.items()} for state in optimiser.state.values()]
    assert devices == 2 * [{"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}]


def test_there_is_a_checkpoint_at_every_moment(tmp_path: Path) -> None:
    """While a checkpoint is replaced again and again, nobody who looks finds none or half of one."""
    model, optimiser = _trained(1)
    looker, other = _trained(1)
    save_checkpoint(tmp_path / "c", model, optimiser, Position(0, 8, "x"))
    done, missed = threading.Event(), list[int]()

    def look() -> None:
        while not done.is_set():
            if load_checkpoint(tmp_path / "c", looker, other, "x") is None:
                missed.append(1)

    thread = threading.Thread(target=look)
    thread.start()
    for step in range(200):
        save_checkpoint(tmp_path / "c", model, optimiser, Position(step, 8, "x"))
    done.set()
    thread.join()
    assert missed == []


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    """A first training with --resume begins at its beginning."""
    assert load_checkpoint(tmp_path / "c", *_trained(0), "x") is None


def test_another_fingerprint_is_refused(tmp_path: Path) -> None:
    """The message says what to do, and the model is left as it was."""
    save_checkpoint(tmp_path / "c", *_trained(2), Position(2, 8, "x"))
    model, optimiser = _trained(0)
    with pytest.raises(TrainingError, match=r"other data or settings.*without --resume"):
        load_checkpoint(tmp_path / "c", model, optimiser, "y")
    torch.testing.assert_close(model.state_dict(), _trained(0)[0].state_dict(), rtol=0, atol=0)
