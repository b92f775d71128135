"""Writing with the trained model itself, in torch: the steps of a beam search, and the codes of many texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers.modeling_outputs import BaseModelOutput

from gram_exporter.losses import code_logits
from gram_exporter.model import input_ids
from gram_plugin.contract.bundle import Tokens
from gram_plugin.contract.codes import Role
from gram_plugin.decode.beam import Ranking, search
from gram_plugin.decode.session import Batch
from gram_plugin.decode.trie import IntArray, Trie

Float32Array = npt.NDArray[np.float32]

WRITTEN_AT_ONCE = 64
"""Most texts that the model reads together."""
MOST_LOGITS = 32_000_000
"""Most numbers that one step may give, 4 bytes each: fewer texts are read together where there are many attributes."""


def code_tokens(tokens: Tokens, attributes: int) -> list[int]:
    """The tokens of codes in order of the exported graph's columns: `eos`, then the attributes."""
    return [tokens.eos, *range(tokens.first_attribute, tokens.first_attribute + attributes)]


class TorchSteps:
    """The trained model as the `Steps` of a beam search, slow and obvious: no cache at all."""

    def __init__(self, model: Any, batch: Batch, tokens: Tokens, attributes: int) -> None:
        self._model, self._tokens = model, tokens
        self._offset = tokens.first_attribute - 1
        self._columns = code_tokens(tokens, attributes)
        self._device = next(model.parameters()).device
        self._mask = torch.from_numpy(batch.mask).to(self._device)  # [texts, tokens]
        ids = torch.from_numpy(batch.ids).to(self._device)  # [texts, tokens]
        with torch.no_grad():
            self._hidden = model.get_encoder()(input_ids=ids, attention_mask=self._mask).last_hidden_state
        self._text = torch.arange(len(ids), device=self._device)  # [rows]
        self._prefix = torch.full((len(ids), 1), tokens.decoder_start, device=self._device)  # [rows, steps]

    def first(self) -> Float32Array:
        """Logits [texts, columns] of the first token."""
        return self._logits()

    def next(self, rows: IntArray, tokens: IntArray) -> Float32Array:
        """Logits [beams, columns] after `tokens`; beam i goes on from row `rows[i]`."""
        chosen = torch.from_numpy(rows).to(self._device)
        self._text = self._text[chosen]  # [beams]
        written = torch.from_numpy(tokens).to(self._device)[:, None] + self._offset  # [beams, 1]
        self._prefix = torch.cat([self._prefix[chosen], written], dim=1)  # [beams, steps]
        return self._logits()

    def _logits(self) -> Float32Array:
        with torch.no_grad():
            found = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._hidden[self._text]),
                attention_mask=self._mask[self._text],
                decoder_input_ids=self._prefix,
                use_cache=False,
            )
        logits: Float32Array = found.logits[:, -1, self._columns].float().cpu().numpy()
        return logits


class _CodeSteps(TorchSteps):
    """The same, without what the model says of words: 250,000 of them for each beam would fill the memory."""

    def _logits(self) -> Float32Array:
        with torch.no_grad():
            hidden = self._model.get_decoder()(
                input_ids=self._prefix,
                encoder_hidden_states=self._hidden[self._text],
                encoder_attention_mask=self._mask[self._text],
                use_cache=False,
            ).last_hidden_state  # [rows, steps, width]
            found = code_logits(self._model, hidden[:, -1], self._tokens)  # [rows, columns]
        logits: Float32Array = found.float().cpu().numpy()
        return logits


class Writer:
    """A model in training, with what it needs to write codes; the model is in evaluation mode while it writes.

    Args:
        model: an encoder-decoder of transformers.
        tokenizer: of its texts.
        tokens: ids that decoding needs.
        rows: the tokens of each code, the end token last.
        attributes: how many there are.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, tokens: Tokens, rows: Sequence[Sequence[int]], attributes: int
    ) -> None:
        self.model, self.tokenizer, self.tokens, self.rows = model, tokenizer, tokens, rows
        self._attributes = attributes
        columns = [[token - tokens.first_attribute + 1 for token in row[:-1]] for row in rows]
        self.trie = Trie.of(columns, eos=0)

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's weights as they are now, kept where there is most memory."""
        return {name: weight.detach().to("cpu", copy=True) for name, weight in self.model.state_dict().items()}

    def written(
        self, texts: Sequence[str], role: Role, limit: int, *, told: Callable[[int], object] = lambda _done: None
    ) -> Iterator[Ranking]:
        """The best codes of each text, in order, at most `limit`; none for a text without a token.

        Args:
            texts: rendered texts.
            role: of all of them.
            limit: most codes of a text, and the width of the beam.
            told: of the number of texts that are done.
        """
        self.model.eval()
        ids = input_ids(self.tokenizer, texts, role, self.tokens)
        nothing = len(input_ids(self.tokenizer, [""], role, self.tokens)[0])
        together = max(1, min(WRITTEN_AT_ONCE, MOST_LOGITS // (limit * (self._attributes + 1))))
        for start in range(0, len(texts), together):
            group = ids[start : start + together]
            steps = _CodeSteps(self.model, Batch.of(group, self.tokens.pad), self.tokens, self._attributes)
            found = search(self.trie, steps, len(group), width=limit, limit=limit)
            told(start + len(group))
            yield from (
                ranking if len(row) > nothing else Ranking.empty() for row, ranking in zip(group, found, strict=True)
            )
