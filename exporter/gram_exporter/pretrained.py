"""Pretrained checkpoints of Hugging Face as the beginning of GRAM: encoder-decoders, and encoders with our decoder.

An encoder-decoder (T5, mT5, BART) is taught as it is: attributes become new tokens of it. An encoder (BERT and MiniLM
families) takes the place of T5's own, before a small T5 decoder as wide as it; what it makes of an attribute's words
is the attribute's first vector, so that the untrained whole already ranks attributes by their likeness to the text.
Nothing is fetched, and nothing is unpickled: a checkpoint is a folder with `config.json`, a tokenizer and safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, PretrainedConfig, T5Config
from transformers import T5ForConditionalGeneration as T5
from transformers.modeling_outputs import BaseModelOutput

from gram_exporter.config import TrainingConfig
from gram_exporter.model import ENCODED_AT_ONCE, PROMPTS, TokenLimits, padded, t5_config
from gram_exporter.warm import LOGIT_RANGE, NOISE, calm_decoder
from gram_plugin.contract.bundle import Tokens
from gram_plugin.contract.codes import Attribute, Role, readable_value
from gram_plugin.errors import TrainingError

WRITERS = ("t5", "mt5", "bart")
"""Model types of encoder-decoders that are taught and exported."""
READERS = ("bert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Model types of encoders that are put before a decoder of ours."""
WORDS_OF_ATTRIBUTE = 16
"""Most tokens of an attribute's words that are read for its first vector."""
READ_AT_ONCE = 128
_WRONG = (OSError, ValueError, KeyError, RuntimeError)
"""What transformers raises for a folder that it cannot read."""
_TEXT_ENCODER = "text_encoder"
_SAFELY: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Nothing comes from the network, and no program that lies in the folder is run."""


class TextEncoder(nn.Module):
    """A pretrained encoder, called as T5 calls its own."""

    main_input_name = "input_ids"

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.reader: nn.Module = AutoModel.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_unused: Any
    ) -> BaseModelOutput:
        """Hidden states, float32, shape (texts, length, width), of token ids, int64, shape (texts, length)."""
        # No text has tokens of attributes, but what optimum makes up to trace the graph has.
        known = input_ids.clamp(max=self.config.vocab_size - 1)
        found = self.reader(input_ids=known, attention_mask=attention_mask)
        return BaseModelOutput(last_hidden_state=found.last_hidden_state)


def reader_writer(config: T5Config) -> Any:
    """A T5 whose encoder is another model, of the configuration `config.text_encoder`; its weights are random.

    It is no class of its own, because optimum exports none but those of transformers.
    """
    own = dict(getattr(config, _TEXT_ENCODER))
    model: Any = T5(config)
    model.encoder = TextEncoder(AutoConfig.for_model(own.pop("model_type"), **own))
    return model


def load_writer(folder: Path) -> Any:
    """The encoder-decoder that training left in a folder; never from the network.

    Raises:
        OSError, ValueError, KeyError: the folder holds none.
    """
    config = AutoConfig.from_pretrained(folder, **_SAFELY)
    if not hasattr(config, _TEXT_ENCODER):
        return AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True, **_SAFELY)
    model = reader_writer(config)
    try:
        load_model(model, folder / "model.safetensors")
    except (RuntimeError, SafetensorError) as error:  # what torch says of weights of other shapes
        raise ValueError(f"its weights do not fit its configuration: {error}") from error
    return model


def is_pretrained(model: Any, name: str) -> bool:
    """Whether a parameter of a model that began with a checkpoint, by its name, is the checkpoint's."""
    return name.startswith("encoder.reader.") or not hasattr(model.config, _TEXT_ENCODER)


def vocabulary_weights(model: Any) -> list[nn.Parameter]:
    """The tables of an encoder-decoder that have a row for each token, each once."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(layer.weight): layer.weight for layer in layers if layer is not None}.values())


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint that was looked at: its configuration, and its tokenizer with the prompts of both roles.

    `before` are the ids that it wants in front of every text, the prompt not counted.
    """

    folder: Path
    config: PretrainedConfig
    tokenizer: Tokenizer
    before: tuple[int, ...]
    pad: int
    eos: int

    @classmethod
    def open(cls, folder: Path) -> Pretrained:
        """Reads configuration and tokenizer.

        Raises:
            TrainingError: the folder holds no checkpoint of a kind that can be taught.
        """
        try:
            config = AutoConfig.from_pretrained(folder, **_SAFELY)
            words = AutoTokenizer.from_pretrained(folder, **_SAFELY)  # type: ignore[no-untyped-call]
            tokenizer = Tokenizer.from_str(words.backend_tokenizer.to_str())
        except (*_WRONG, AttributeError, ImportError, TypeError) as error:
            raise _unusable(folder, f"cannot be read: {error}") from error
        if config.model_type not in (*WRITERS, *READERS):
            raise _unusable(folder, f"is of type {config.model_type!r}")
        first, pad = words.cls_token_id, words.pad_token_id
        end = words.sep_token_id if words.eos_token_id is None else words.eos_token_id
        if end is None or pad is None:
            raise _unusable(folder, "has a tokenizer without a padding token or a token for the end")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        prompts = list(PROMPTS.values())
        known = {own for token, own in tokenizer.get_vocab().items() if token not in prompts}
        tokenizer.add_special_tokens(prompts)
        if known & {tokenizer.token_to_id(prompt) for prompt in prompts}:
            raise _unusable(folder, "has a tokenizer whose ids have gaps, so that words and new tokens would be one")
        tokenizer.encode_special_tokens = True  # a text that spells a special token must not become one
        return cls(folder, config, tokenizer, () if first is None else (first,), pad, end)

    @property
    def writes(self) -> bool:
        """Whether it is an encoder-decoder."""
        return self.config.model_type in WRITERS

    @property
    def architecture(self) -> str:
        """The checkpoint's own type, for an encoder with that of our decoder."""
        kind = str(self.config.model_type)
        return kind if self.writes else f"{kind}+t5"

    def tokens(self, limits: TokenLimits) -> Tokens:
        """The token ids that decoding needs; limits are cut to what the checkpoint can read."""
        most = getattr(self.config, "max_position_embeddings", None) or max(limits.query, limits.product)
        most -= 2 if "roberta" in self.config.model_type else 0  # its positions begin after that of padding
        prompts = {role.value: (*self.before, self.tokenizer.token_to_id(name)) for role, name in PROMPTS.items()}
        start = self.config.decoder_start_token_id if self.writes else self.pad
        return Tokens(
            pad=self.pad,
            eos=self.eos,
            decoder_start=self.pad if start is None else start,
            first_attribute=max(self.tokenizer.get_vocab_size(), self.config.vocab_size),
            prompts=prompts,
            max_query_tokens=min(most, limits.query + len(self.before)),
            max_product_tokens=min(most, limits.product + len(self.before)),
        )

    def model(self, attributes: Sequence[Attribute], tokens: Tokens, settings: TrainingConfig) -> Any:
        """The model to train: the checkpoint's weights, and first vectors of prompts and attributes.

        Raises:
            TrainingError: the weights cannot be read; they are expected as safetensors.
        """
        torch.manual_seed(settings.seed)
        kind = AutoModelForSeq2SeqLM if self.writes else AutoModel
        try:
            found, report = kind.from_pretrained(self.folder, use_safetensors=True, output_loading_info=True, **_SAFELY)
        except _WRONG as error:
            raise _unusable(self.folder, f"has weights that cannot be read: {error}") from error
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:  # they would be random numbers
            raise _unusable(self.folder, f"lacks {len(missing)} weights, {', '.join(missing[:3])} among them")
        found = found.float()
        if self.writes:
            return self._taught(found, attributes, tokens)
        return self._led(found, attributes, tokens, settings)

    def _taught(self, model: Any, attributes: Sequence[Attribute], tokens: Tokens) -> Any:
        """An encoder-decoder with rows for attributes, each the mean of its words' vectors."""
        self._grow(model, tokens.first_attribute + len(attributes))
        words = self._words(attributes, tokens)
        with torch.no_grad():
            for table in vocabulary_weights(model):
                rows = torch.stack([table[ids].mean(dim=0) for ids in words])  # (attributes, width)
                table[tokens.first_attribute :] = rows
        return model

    def _led(self, reader: Any, attributes: Sequence[Attribute], tokens: Tokens, settings: TrainingConfig) -> Any:
        """Our decoder after an encoder."""
        self._grow(reader, max(self.tokenizer.get_vocab_size(), self.config.vocab_size))
        own = {_TEXT_ENCODER: reader.config.to_dict()}
        width = reader.config.hidden_size
        # T5's own encoder is thrown away: one layer is the least that it can have.
        config = t5_config(len(attributes), tokens, settings, width=width, encoder_layers=1, **own)
        model = reader_writer(config)
        model.encoder.reader.load_state_dict(reader.state_dict())
        model.eval()  # dropout would be in the first vectors of attributes
        with torch.no_grad():
            model.shared.weight.normal_(0.0, NOISE)
            model.shared.weight[tokens.first_attribute :] += self._meanings(model.encoder, attributes, tokens)
        calm_decoder(model)
        return model

    def _grow(self, model: Any, vocabulary: int) -> None:
        """Rows for tokens that the checkpoint does not have; a prompt begins as the mean of all words."""
        known = self.config.vocab_size
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
        with torch.no_grad():
            for table in vocabulary_weights(model):
                table[known:] = table[:known].mean(dim=0)

    def _words(self, attributes: Sequence[Attribute], tokens: Tokens) -> list[list[int]]:
        """Token ids of what attributes say, at least one for each."""
        found: list[list[int]] = []
        texts = [readable_value(attribute.value) for attribute in attributes]
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            encoded = self.tokenizer.encode_batch(texts[start : start + ENCODED_AT_ONCE], add_special_tokens=False)
            found += [encoding.ids[:WORDS_OF_ATTRIBUTE] or [tokens.eos] for encoding in encoded]
        return found

    def _meanings(self, encoder: TextEncoder, attributes: Sequence[Attribute], tokens: Tokens) -> torch.Tensor:
        """What the encoder makes of attributes: float32, shape (attributes, width), `LOGIT_RANGE` long at most.

        What all have in common, and whatever points its way, is taken away: it is in every text, and would favour
        the same attributes whatever the text says.
        """
        framed = [tokens.framed(ids, Role.PRODUCT) for ids in self._words(attributes, tokens)]
        by_length = sorted(range(len(framed)), key=lambda at: len(framed[at]))  # little padding
        means = torch.empty(len(framed), encoder.config.hidden_size)  # (attributes, width)
        for start in range(0, len(framed), READ_AT_ONCE):
            chosen = by_length[start : start + READ_AT_ONCE]
            ids = padded([framed[at] for at in chosen], tokens.pad)  # (chosen, length)
            there = torch.ne(ids, tokens.pad)  # (chosen, length)
            hidden = encoder(ids, there.long()).last_hidden_state  # (chosen, length, width)
            means[chosen] = (hidden * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True)  # (chosen, width)
        vectors = nn.functional.normalize(means, dim=1)  # (attributes, width)
        common = nn.functional.normalize(vectors.mean(dim=0), dim=0)  # (width,)
        vectors = vectors - vectors.mean(dim=0)  # (attributes, width)
        vectors = vectors - (vectors @ common)[:, None] * common  # (attributes, width)
        longest = vectors.norm(dim=1).max().clamp_min(1e-6)
        scaled: torch.Tensor = vectors * (LOGIT_RANGE / longest)  # (attributes, width)
        return scaled


def _unusable(folder: Path, finding: str) -> TrainingError:
    return TrainingError(
        f"the checkpoint {folder} {finding}",
        next_step=f"name a folder with config.json, tokenizer.json and model.safetensors of one of "
        f"{', '.join((*WRITERS, *READERS))}, or leave training.checkpoint out",
    )
