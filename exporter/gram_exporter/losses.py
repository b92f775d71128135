"""The losses of GRAM: likelihood of codes, query side plus λ times product side, and preference between codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from gram_plugin.contract.bundle import Tokens

IGNORED = -100
_OF_DISTANCES = ("t5", "mt5")
"""Model types whose position bias knows distances only, and which scale what tied heads read."""


@dataclass(frozen=True)
class Betas:
    """How much the winner and the loser of a pair count in `preference_loss`, each > 0."""

    won: float
    lost: float


def code_nll(model: Any, inputs: torch.Tensor, codes: torch.Tensor, *, special: Tokens) -> torch.Tensor:
    """Mean negative log-likelihood of codes given texts, in nats for each code; a scalar.

    L = -E_(x,c) Σ_i log Pr(c_i | prompt, x, c_<i)   (arXiv 2504.01403, as quoted in its summaries)

    Args: as of `token_log_probability`.
    """
    found = token_log_probability(model, inputs, codes, special=special)  # (texts, per_text, steps)
    return -found.sum() / (codes.shape[0] * codes.shape[1])


def token_log_probability(model: Any, inputs: torch.Tensor, codes: torch.Tensor, *, special: Tokens) -> torch.Tensor:
    """Log-probability of every token of codes given texts, in nats, 0 where padded; shape (texts, per_text, steps).

    The softmax is over what a code can hold: attributes and the end token. With a T5 all codes of a text are decoded
    as one sequence under a block-diagonal causal mask, so that the text's keys and values are computed once; its
    position bias knows distances only, which are the same within every block. Others number their positions, so
    there every code is a sequence.

    Args:
        model: an encoder-decoder of transformers.
        inputs: int64, shape (texts, length), padded with the model's pad token.
        codes: int64, shape (texts, per_text, steps): attribute tokens, then the end token, padded with pad.
        special: ids of pad, end, decoder start and the first attribute.
    """
    present = torch.ne(inputs, special.pad)  # (texts, length)
    encoder = model.get_encoder()
    encoded = encoder(input_ids=inputs, attention_mask=present.long()).last_hidden_state  # (texts, length, d)
    start = torch.full_like(codes[..., :1], special.decoder_start)  # (texts, per_text, 1)
    before = torch.cat([start, codes[..., :-1]], dim=-1)  # (texts, per_text, steps)
    packed = model.config.model_type in _OF_DISTANCES
    decoded = (_packed if packed else _apart)(model.get_decoder(), before, encoded, present)  # (texts, codes', d)
    logits = code_logits(model, decoded, special)  # (texts, codes', outputs)
    first = special.first_attribute
    output_of = torch.where(codes >= first, codes - first + 1, 0)  # (texts, per_text, steps)
    targets = torch.where(torch.eq(codes, special.pad), IGNORED, output_of).flatten()  # (texts * per_text * steps,)
    nll = functional.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
    return -nll.view(codes.shape)


def _packed(decoder: Any, before: torch.Tensor, encoded: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Hidden states of all codes of a text in one sequence; shape (texts, per_text * steps, d)."""
    texts, per_text, steps = before.shape
    hidden: torch.Tensor = decoder(
        input_ids=before.flatten(1),  # (texts, per_text * steps)
        attention_mask=_block_causal(per_text, steps, encoded).expand(texts, -1, -1, -1),
        encoder_hidden_states=encoded,
        encoder_attention_mask=present,
        use_cache=False,
    ).last_hidden_state
    return hidden


def _apart(decoder: Any, before: torch.Tensor, encoded: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Hidden states of every code as a sequence of its own; shape (texts, per_text * steps, d)."""
    texts, per_text, _steps = before.shape
    hidden: torch.Tensor = decoder(
        input_ids=before.flatten(0, 1),  # (texts * per_text, steps)
        encoder_hidden_states=encoded.repeat_interleave(per_text, dim=0),
        encoder_attention_mask=present.repeat_interleave(per_text, dim=0),
        use_cache=False,
    ).last_hidden_state  # (texts * per_text, steps, d)
    return hidden.reshape(texts, -1, hidden.shape[-1])


def code_logits(model: Any, decoded: torch.Tensor, special: Tokens) -> torch.Tensor:
    """What the output layer says of the end token, then of the attributes; shape (..., outputs) for (..., d)."""
    if model.config.model_type in _OF_DISTANCES and model.config.tie_word_embeddings:
        decoded = decoded * model.config.d_model**-0.5  # (..., d)
    found = decoded @ _outputs(model.get_output_embeddings().weight, special).T  # (..., outputs)
    bias = getattr(model, "final_logits_bias", None)  # BART adds one after its output layer, shape (1, vocabulary)
    return found if bias is None else found + _outputs(bias[0], special)


def _outputs(rows: torch.Tensor, special: Tokens) -> torch.Tensor:
    return torch.cat([rows[special.eos : special.eos + 1], rows[special.first_attribute :]])


def _block_causal(blocks: int, steps: int, like: torch.Tensor) -> torch.Tensor:
    """Additive mask, shape (1, 1, blocks * steps, blocks * steps): each step sees itself and before, in its block."""
    lower = torch.ones(steps, steps, device=like.device).tril()
    seen = torch.kron(torch.eye(blocks, device=like.device), lower)
    hidden = torch.zeros_like(seen, dtype=like.dtype).masked_fill(seen.eq(0), torch.finfo(like.dtype).min)
    return hidden[None, None]


def joint_loss(query_nll: torch.Tensor, product_nll: torch.Tensor, product_weight: float) -> torch.Tensor:
    """L_SFT = L_q + λ · L_t, λ being `product_weight`."""
    return query_nll + product_weight * product_nll


def preference_loss(
    won: torch.Tensor, lost: torch.Tensor, won_before: torch.Tensor, lost_before: torch.Tensor, *, betas: Betas
) -> torch.Tensor:
    """GRAM's co-alignment loss over pairs of codes; a scalar.

    L_CA = -E log σ( β_w · log π(c_w)/π_SFT(c_w) - β_l · log π(c_l)/π_SFT(c_l) )   (arXiv 2504.01403, Eq. 6 as quoted)

    Args:
        won: log π_θ(c_w | q, t) in nats, shape (pairs,), see `of_both`.
        lost: log π_θ(c_l | q, t), shape (pairs,).
        won_before: the same of the model before alignment, shape (pairs,).
        lost_before: likewise.
        betas: weights of the two terms.
    """
    margin = betas.won * (won - won_before) - betas.lost * (lost - lost_before)  # (pairs,)
    return -functional.logsigmoid(margin).mean()


def of_both(given_query: torch.Tensor, given_product: torch.Tensor) -> torch.Tensor:
    """Log π(c | q, t) with π(c | q, t) = (π(c | q) + π(c | t)) / 2, from the two logarithms; shape as given."""
    return torch.logaddexp(given_query, given_product) - math.log(2)
