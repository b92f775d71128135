"""A model that learned nothing, in the folder that training would leave: for tests and measurements.

Its codes are noise, but its size, its graphs and its speed are those of a trained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import T5Config, T5ForConditionalGeneration

from gram_exporter.record import (
    CALIBRATION_TEXTS,
    CODEBOOK,
    MODEL,
    TOKENIZER,
    CalibrationText,
    TrainingRecord,
    write_calibration_texts,
    write_record,
)
from gram_plugin.contract.bundle import TAGGER, Tokens
from gram_plugin.contract.codebook import CodebookEntry, attributes_of, write_codebook
from gram_plugin.contract.codes import Attribute, Code, Role
from gram_plugin.contract.tagging import Lexicon, Tagger
from gram_plugin.contract.text import Rendering

PAD, EOS, QUERY, PRODUCT = range(4)
_SPECIAL = ("<pad>", "</s>", "<query>", "<product>")


@dataclass(frozen=True)
class Shape:
    """Size of a T5 and of its codebook."""

    d_model: int = 256
    d_ff: int = 1024
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 2
    text_tokens: int = 8000
    types: int = 300
    brands: int = 700
    codes: int = 10_000


def write_untrained(folder: Path, shape: Shape, *, seed: int = 0) -> TrainingRecord:
    """Writes model, tokenizer, codebook, calibration texts and record to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    codebook = random_codebook(shape, np.random.default_rng(seed))
    tokenizer = random_tokenizer(shape.text_tokens)
    tokens = Tokens(PAD, EOS, PAD, tokenizer.get_vocab_size(), {"query": (QUERY,), "product": (PRODUCT,)}, 32, 96)
    model = random_model(shape, tokens.first_attribute + len(attributes_of(codebook)), seed)
    model.save_pretrained(folder / MODEL)
    tokenizer.save(str(folder / TOKENIZER))
    write_codebook(folder / CODEBOOK, codebook)
    Tagger(("title",), {}, Lexicon({}), Lexicon({})).save(folder / TAGGER)
    write_calibration_texts(folder / CALIBRATION_TEXTS, _calibration_texts(codebook))
    record = TrainingRecord("g1", "t5", Rendering(("title",)), "id", tokens, "random numbers", "CC0-1.0")
    write_record(folder, record)
    return record


def random_codebook(shape: Shape, rng: np.random.Generator) -> list[CodebookEntry]:
    """Codes of one to four attributes; every code's first attribute is a code by itself."""
    found: dict[Code, int] = {}
    while len(found) < shape.codes:
        parts = [
            Attribute("type", f"type_{rng.integers(shape.types)}"),
            Attribute("brand", f"brand_{rng.integers(shape.brands)}"),
            Attribute("colour", f"colour_{rng.integers(12)}"),
            Attribute("technical_spec", f"{rng.integers(1, 40)}_gb"),
        ]
        chosen = [parts[0], *(part for part in parts[1:] if rng.random() < 0.5)]
        found.setdefault(Code.of(parts[:1]), 9)
        found.setdefault(Code.of(chosen), int(rng.integers(1, 9)))
    return [CodebookEntry(code, products) for code, products in found.items()]


def random_tokenizer(size: int) -> Tokenizer:
    """Byte-level BPE of `size` tokens (at least 260) whose merges are pairs of letters, then pairs of those."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *alphabet))}
    letters = list("etaoinshrdlucmfwypvbgkqjxz")
    pairs = [(a, b) for a in letters for b in letters]
    longer = [(a + b, c) for a, b in pairs for c in letters]
    merges = [*pairs, *longer][: max(0, size - len(vocabulary))]
    vocabulary |= {a + b: len(vocabulary) + index for index, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def random_model(shape: Shape, vocabulary: int, seed: int) -> T5ForConditionalGeneration:
    """A T5 of random weights, small as GRAM's own initialisation makes them."""
    torch.manual_seed(seed)
    config = T5Config(  # type: ignore[no-untyped-call]
        vocab_size=vocabulary,
        d_model=shape.d_model,
        d_kv=shape.d_model // shape.heads,
        d_ff=shape.d_ff,
        num_heads=shape.heads,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.shared.weight.normal_(0.0, 0.3)
    model.train(False)
    return model


def _calibration_texts(codebook: Sequence[CodebookEntry]) -> list[CalibrationText]:
    return [
        CalibrationText(role, entry.code.text.replace("|", " ").replace("=", " "), (entry.code,))
        for role in Role
        for entry in codebook[:40]
    ]
