"""Checkpoints of random weights, as Hugging Face writes them, small enough to be made by a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from gram_exporter.model import EOS, PAD, train_tokenizer

WIDTH = 32
_BERT_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_checkpoint(folder: Path, kind: str, texts: Sequence[str]) -> Path:
    """Writes a checkpoint of a kind, with a tokenizer that knows the words of the texts."""
    torch.manual_seed(0)
    _MAKERS[kind](folder, texts)
    return folder


def _bert(folder: Path, texts: Sequence[str]) -> None:
    words = [*_BERT_WORDS, *sorted({word for text in texts for word in text.lower().split()})]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=WIDTH,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)


def _roberta(folder: Path, texts: Sequence[str]) -> None:
    words = _byte_level(folder, texts, cls=EOS, sep=EOS)
    config = RobertaConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=WIDTH,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    RobertaModel(config).save_pretrained(folder)


def _t5(folder: Path, texts: Sequence[str]) -> None:
    words = _byte_level(folder, texts)
    T5ForConditionalGeneration(T5Config(vocab_size=words + 28, **_T5)).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _mt5(folder: Path, texts: Sequence[str], *, tied: bool = False) -> None:
    words = _byte_level(folder, texts)
    MT5ForConditionalGeneration(MT5Config(vocab_size=words, tie_word_embeddings=tied, **_T5)).save_pretrained(folder)


def _bart(folder: Path, texts: Sequence[str]) -> None:
    words = _byte_level(folder, texts)
    config = BartConfig(
        vocab_size=words,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)


def _byte_level(folder: Path, texts: Sequence[str], **special: str) -> int:
    tokenizer = train_tokenizer(texts, 400)
    named = {f"{name}_token": token for name, token in {"pad": PAD, "eos": EOS, **special}.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return tokenizer.get_vocab_size()


_T5: Mapping[str, Any] = {
    "d_model": WIDTH, "d_kv": WIDTH, "d_ff": WIDTH, "num_heads": 1, "num_layers": 1, "num_decoder_layers": 1,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_MAKERS: Mapping[str, Callable[[Path, Sequence[str]], None]] = {
    "bert": _bert,
    "roberta": _roberta,
    "t5": _t5,
    "mt5": _mt5,
    "tied-mt5": partial(_mt5, tied=True),
    "bart": _bart,
}
