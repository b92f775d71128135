"""The GRAM model: a text tokenizer and one small T5 that reads queries and products by two prompts.

Its vocabulary is the tokenizer's, then one token for each attribute of the codebook, so that a code is
as many decoding steps as it has attributes, plus one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration

from gram_exporter.config import TrainingConfig
from gram_plugin.contract.bundle import Tokens
from gram_plugin.contract.codes import Role

PAD, EOS = "<pad>", "</s>"
ENCODED_AT_ONCE = 1_000
"""Texts that the tokenizer is given at once: what it makes of one takes some 20 kB until its ids are read."""
PROMPTS = {Role.QUERY: "<query>", Role.PRODUCT: "<product>"}


@dataclass(frozen=True)
class TokenLimits:
    """Longest inputs in tokens, prompt and end token counted in."""

    query: int
    product: int


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE over rendered texts: no text of any script is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, EOS, *PROMPTS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A text that spells a special token must not become one.
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokens_of(tokenizer: Tokenizer, limits: TokenLimits) -> Tokens:
    """The token ids that decoding needs."""
    return Tokens(
        pad=tokenizer.token_to_id(PAD),
        eos=tokenizer.token_to_id(EOS),
        decoder_start=tokenizer.token_to_id(PAD),
        first_attribute=tokenizer.get_vocab_size(),
        prompts={role.value: (tokenizer.token_to_id(prompt),) for role, prompt in PROMPTS.items()},
        max_query_tokens=limits.query,
        max_product_tokens=limits.product,
    )


def new_model(attributes: int, tokens: Tokens, settings: TrainingConfig) -> T5ForConditionalGeneration:
    """A model from scratch; `warm.warm_start` gives it its embeddings, without them it hardly trains."""
    config = t5_config(attributes, tokens, settings, width=settings.d_model, encoder_layers=settings.encoder_layers)
    torch.manual_seed(settings.seed)
    return T5ForConditionalGeneration(config)


def t5_config(
    attributes: int, tokens: Tokens, settings: TrainingConfig, *, width: int, encoder_layers: int, **others: Any
) -> T5Config:
    """A small T5 as we make them; `others` are kept with it, under their names."""
    heads = max(1, width // 32)
    return T5Config(  # type: ignore[no-untyped-call]
        vocab_size=tokens.first_attribute + attributes,
        d_model=width,
        d_kv=width // heads,
        d_ff=width * 3,
        num_heads=heads,
        num_layers=encoder_layers,
        num_decoder_layers=settings.decoder_layers,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
        dropout_rate=settings.dropout,
        pad_token_id=tokens.pad,
        eos_token_id=tokens.eos,
        decoder_start_token_id=tokens.decoder_start,
        tie_word_embeddings=True,
        **others,
    )


def input_ids(tokenizer: Tokenizer, texts: Sequence[str], role: Role, tokens: Tokens) -> list[list[int]]:
    """Prompt, text tokens cut to the role's limit, end token; one list for each text."""
    found: list[list[int]] = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        encodings = tokenizer.encode_batch(list(texts[start : start + ENCODED_AT_ONCE]), add_special_tokens=False)
        found += [tokens.framed(encoding.ids, role) for encoding in encodings]
    return found


def padded(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Right-padded int64 tensor, shape (rows, longest)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
