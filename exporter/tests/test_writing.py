"""Codes written by the model itself, against trying all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_exporter.config import TrainingConfig
from gram_exporter.losses import token_log_probability
from gram_exporter.model import TokenLimits, input_ids, new_model, padded, tokens_of, train_tokenizer
from gram_exporter.writing import MOST_LOGITS, WRITTEN_AT_ONCE, TorchSteps, Writer
from gram_plugin.contract.codes import Role
from gram_plugin.decode.beam import search
from gram_plugin.decode.session import Batch

WORDS = ("blue", "red", "sofa", "lamp", "table", "oak")


@pytest.fixture(scope="module")
def writer() -> Writer:
    """A model of random weights with six codes of one to three of its four attributes, none of which begins another."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 512)
    tokens = tokens_of(tokenizer, TokenLimits(16, 24))
    model = new_model(4, tokens, TrainingConfig(d_model=32, encoder_layers=1, decoder_layers=1, vocabulary=512))
    with torch.no_grad():
        model.shared.weight.mul_(30)  # else all codes are alike
    first = tokens.first_attribute
    paths = [(0,), (1, 2), (1, 3), (2, 3), (3, 0, 1), (3, 0, 2)]
    return Writer(model, tokenizer, tokens, [[*(first + at for at in path), tokens.eos] for path in paths], 4)


def brute_force(writer: Writer, text: str, role: Role) -> np.ndarray:
    """Log-probability of every code, by the product over what may follow, code by code; shape (codes,)."""
    rows = padded(input_ids(writer.tokenizer, [text], role, writer.tokens), writer.tokens.pad)
    paths = [tuple(row[:-1]) for row in writer.rows]

    def free(prefix: tuple[int, ...]) -> dict[int, float]:
        following = sorted({path[len(prefix)] for path in paths if path[: len(prefix)] == prefix and path != prefix})
        codes = torch.tensor([[[*prefix, token] for token in following]])
        with torch.no_grad():
            found = token_log_probability(writer.model, rows, codes, special=writer.tokens)[0, :, -1].double()
        return dict(zip(following, torch.log_softmax(found, dim=0).tolist(), strict=True))

    return np.array([sum(free(path[:at])[path[at]] for at in range(len(path))) for path in paths])


@settings(max_examples=20)
@given(text=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), role=st.sampled_from(Role))
def test_written_codes_are_those_of_trying_all(writer: Writer, text: str, role: Role) -> None:
    """In order, with their probabilities, which sum to one."""
    (found,) = writer.written([text], role, 6)
    expected = brute_force(writer, text, role)
    assert np.exp(expected).sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(found.code, np.argsort(-expected, kind="stable"))
    np.testing.assert_allclose(found.log_probability, np.sort(expected)[::-1], atol=1e-4)


def test_batches_change_nothing(writer: Writer) -> None:
    """Texts of several lengths, over more than one batch, each as it is alone; a text without a token gets no code."""
    texts = [" ".join(WORDS[: at % 4]) for at in range(WRITTEN_AT_ONCE + 3)]
    told: list[int] = []
    found = list(writer.written(texts, Role.QUERY, 3, told=told.append))
    assert told == [WRITTEN_AT_ONCE, len(texts)]
    for text, ranking in list(zip(texts, found, strict=True))[-8:]:
        (alone,) = writer.written([text], Role.QUERY, 3)
        assert ranking.code.tolist() == alone.code.tolist()
        np.testing.assert_allclose(ranking.log_probability, alone.log_probability, atol=1e-5)
        assert len(ranking.code) == (3 if text else 0)


def test_a_writer_says_what_the_whole_model_says(writer: Writer) -> None:
    """The steps that read codes alone find what those of the whole output layer find, number by number."""
    texts = ["red sofa", "lamp", "blue oak table"]
    batch = Batch.of(input_ids(writer.tokenizer, texts, Role.QUERY, writer.tokens), writer.tokens.pad)
    whole = search(writer.trie, TorchSteps(writer.model, batch, writer.tokens, 4), 3, width=6, limit=6)
    for found, expected in zip(writer.written(texts, Role.QUERY, 6), whole, strict=True):
        assert found.code.tolist() == expected.code.tolist()
        np.testing.assert_allclose(found.log_probability, expected.log_probability, atol=1e-5)


def test_fewer_texts_are_read_together_where_a_step_would_give_too_much(writer: Writer) -> None:
    """Numbers of all beams count: two texts at once, or one, however wide the beam; the codes are the same."""
    texts, told = ["red sofa", "lamp", "blue oak table"], list[int]()
    for most, done in ((2, [2, 3]), (1, [1, 2, 3]), (0, [1, 2, 3])):
        told.clear()
        width = MOST_LOGITS // (5 * most) if most else MOST_LOGITS
        found = list(writer.written(texts, Role.QUERY, width, told=told.append))
        assert told == done
        expected = writer.written(texts, Role.QUERY, 6)
        assert [ranking.code.tolist() for ranking in found] == [ranking.code.tolist() for ranking in expected]
