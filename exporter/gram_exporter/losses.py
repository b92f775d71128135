"""The joint loss of GRAM: negative log-likelihood of codes, query side plus λ times product side."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from gram_plugin.contract.bundle import Tokens

IGNORED = -100


def code_nll(
    model: T5ForConditionalGeneration, inputs: torch.Tensor, codes: torch.Tensor, *, special: Tokens, per_text: int
) -> torch.Tensor:
    """Mean negative log-likelihood of codes given texts, in nats for each code; a scalar.

    L = -E_(x,c) Σ_i log Pr(c_i | prompt, x, c_<i)   (arXiv 2504.01403, as quoted in its summaries)

    The softmax is over what a code can hold: attributes and the end token.

    Args:
        model: the T5 with tied embeddings.
        inputs: int64, shape (texts, length), padded with the model's pad token.
        codes: int64, shape (texts * per_text, steps): attribute tokens then the end token, padded with pad.
        special: ids of pad, end, decoder start and the first attribute.
        per_text: codes for each text, consecutive in `codes`.
    """
    pad, eos = special.pad, special.eos
    mask = torch.ne(inputs, pad)
    encoded = model.encoder(input_ids=inputs, attention_mask=mask).last_hidden_state  # (texts, length, d)
    start = torch.full_like(codes[:, :1], special.decoder_start)  # (codes, 1)
    decoded = model.decoder(
        input_ids=torch.cat([start, codes[:, :-1]], dim=1),  # (codes, steps)
        encoder_hidden_states=encoded.repeat_interleave(per_text, dim=0),  # (codes, length, d)
        encoder_attention_mask=mask.repeat_interleave(per_text, dim=0),  # (codes, length)
        use_cache=False,
    ).last_hidden_state  # (codes, steps, d)
    embedding = model.shared.weight  # (vocabulary, d)
    outputs = torch.cat([embedding[eos : eos + 1], embedding[special.first_attribute :]])  # (outputs, d)
    logits = (decoded * model.config.d_model**-0.5) @ outputs.T  # (codes, steps, outputs)
    output_of = torch.where(codes >= special.first_attribute, codes - special.first_attribute + 1, 0)  # (codes, steps)
    targets = torch.where(codes == pad, IGNORED, output_of).flatten()  # (codes * steps,)
    nll = functional.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
    return nll / codes.shape[0]


def joint_loss(query_nll: torch.Tensor, product_nll: torch.Tensor, product_weight: float) -> torch.Tensor:
    """L_SFT = L_q + λ · L_t, λ being `product_weight`."""
    return query_nll + product_weight * product_nll
