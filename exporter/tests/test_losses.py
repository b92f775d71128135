"""Losses against slow references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from gram_exporter.config import TrainingConfig
from gram_exporter.losses import Betas, code_nll, joint_loss, of_both, preference_loss, token_log_probability
from gram_exporter.model import TokenLimits, input_ids, new_model, padded, tokens_of, train_tokenizer
from gram_plugin.contract.codes import Attribute, Role

SETTINGS = TrainingConfig(d_model=32, encoder_layers=1, decoder_layers=1, vocabulary=512, dropout=0.0)


def test_loss_equals_a_slow_reference() -> None:
    """Token by token it is log softmax over attributes and end, 0 where padded; the loss is the mean sum of a code."""
    attributes = [Attribute.of("type", name) for name in ("sofa", "lamp", "table")]
    tokenizer = train_tokenizer(["blue sofa", "red lamp", "table"] * 3, 512)
    tokens = tokens_of(tokenizer, TokenLimits(16, 24))
    model = new_model(len(attributes), tokens, SETTINGS)
    torch.nn.Module.eval(model)
    texts, first = ["a blue sofa", "lamp"], tokens.first_attribute
    codes = [[first, first + 1, tokens.eos], [first + 2, tokens.eos], [first + 1, tokens.eos], [first, tokens.eos]]
    rows = padded(input_ids(tokenizer, texts, Role.QUERY, tokens), tokens.pad)
    with torch.no_grad():
        packed = padded(codes, tokens.pad).view(2, 2, -1)  # (texts, per_text, steps)
        each = token_log_probability(model, rows, packed, special=tokens)
        found = code_nll(model, rows, packed, special=tokens)
        expected = [_reference(model, rows[at // 2].tolist(), code, first, tokens.eos) for at, code in enumerate(codes)]
    wanted = torch.tensor([[*tokens, *[0.0] * (3 - len(tokens))] for tokens in expected]).view(2, 2, 3)
    torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, -wanted.sum() / 4, rtol=1e-4, atol=1e-4)


def _reference(model: T5ForConditionalGeneration, row: list[int], code: list[int], first: int, eos: int) -> list[float]:
    kept = [token for token in row if token != model.config.pad_token_id]
    logits = model(input_ids=torch.tensor([kept]), labels=torch.tensor([code])).logits[0]
    allowed = [eos, *range(first, logits.shape[1])]
    steps = functional.log_softmax(logits[:, allowed], dim=1)
    return [float(steps[at, allowed.index(token)]) for at, token in enumerate(code)]


def test_joint_loss_weighs_the_product_side() -> None:
    """L_q + λ·L_t with λ = 0.5."""
    assert joint_loss(torch.tensor(2.0), torch.tensor(4.0), 0.5) == 4.0


_logs = st.floats(-30, 0)


@given(st.lists(st.tuples(_logs, _logs, _logs, _logs), min_size=1, max_size=5), st.floats(0.05, 2), st.floats(0.05, 2))
def test_preference_loss_equals_its_formula(pairs: list[tuple[float, ...]], won: float, lost: float) -> None:
    """Pair by pair, -log σ(β_w · (w - w₀) - β_l · (l - l₀)), and the mean of them."""
    margins = [won * (winner - first) - lost * (loser - second) for winner, loser, first, second in pairs]
    expected = sum(math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins) / len(margins)
    columns = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    found = preference_loss(*columns, betas=Betas(won, lost))
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(_logs, _logs)
def test_both_sides_count_alike(query: float, product: float) -> None:
    """The mean of two probabilities, from and to logarithms."""
    found = of_both(torch.tensor([query], dtype=torch.float64), torch.tensor([product], dtype=torch.float64))
    assert float(found.exp()) == pytest.approx((math.exp(query) + math.exp(product)) / 2, rel=1e-9)
