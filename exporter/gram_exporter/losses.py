"""The joint loss of GRAM: negative log-likelihood of codes, query side plus λ times product side."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from gram_plugin.contract.bundle import Tokens

IGNORED = -100


def code_nll(
    model: T5ForConditionalGeneration, inputs: torch.Tensor, codes: torch.Tensor, *, special: Tokens
) -> torch.Tensor:
    """Mean negative log-likelihood of codes given texts, in nats for each code; a scalar.

    L = -E_(x,c) Σ_i log Pr(c_i | prompt, x, c_<i)   (arXiv 2504.01403, as quoted in its summaries)

    The softmax is over what a code can hold: attributes and the end token. All codes of a text are decoded
    as one sequence under a block-diagonal causal mask, so that the text's keys and values are computed once;
    T5's position bias knows distances only, which are the same within every block.

    Args:
        model: the T5 with tied embeddings.
        inputs: int64, shape (texts, length), padded with the model's pad token.
        codes: int64, shape (texts, per_text, steps): attribute tokens, then the end token, padded with pad.
        special: ids of pad, end, decoder start and the first attribute.
    """
    per_text, steps = codes.shape[1:]
    present = torch.ne(inputs, special.pad)  # (texts, length)
    encoded = model.encoder(input_ids=inputs, attention_mask=present).last_hidden_state  # (texts, length, d)
    start = torch.full_like(codes[..., :1], special.decoder_start)  # (texts, per_text, 1)
    decoded = model.decoder(
        input_ids=torch.cat([start, codes[..., :-1]], dim=-1).flatten(1),  # (texts, per_text * steps)
        attention_mask=_block_causal(per_text, steps, encoded).expand(len(codes), -1, -1, -1),
        encoder_hidden_states=encoded,
        encoder_attention_mask=present,
        use_cache=False,
    ).last_hidden_state  # (texts, per_text * steps, d)
    embedding = model.shared.weight  # (vocabulary, d)
    eos, first = special.eos, special.first_attribute
    outputs = torch.cat([embedding[eos : eos + 1], embedding[first:]])  # (outputs, d)
    logits = (decoded * model.config.d_model**-0.5) @ outputs.T  # (texts, per_text * steps, outputs)
    output_of = torch.where(codes >= first, codes - first + 1, 0)  # (texts, per_text, steps)
    targets = torch.where(torch.eq(codes, special.pad), IGNORED, output_of).flatten()  # (texts * per_text * steps,)
    nll = functional.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
    return nll / (len(codes) * per_text)


def _block_causal(blocks: int, steps: int, like: torch.Tensor) -> torch.Tensor:
    """Additive mask, shape (1, 1, blocks * steps, blocks * steps): each step sees itself and before, in its block."""
    lower = torch.ones(steps, steps, device=like.device).tril()
    seen = torch.kron(torch.eye(blocks, device=like.device), lower)
    hidden = torch.zeros_like(seen, dtype=like.dtype).masked_fill(seen.eq(0), torch.finfo(like.dtype).min)
    return hidden[None, None]


def joint_loss(query_nll: torch.Tensor, product_nll: torch.Tensor, product_weight: float) -> torch.Tensor:
    """L_SFT = L_q + λ · L_t, λ being `product_weight`."""
    return query_nll + product_weight * product_nll
