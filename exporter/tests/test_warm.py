"""The warm start."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import torch
from scipy import sparse

from gram_exporter.config import TrainingConfig
from gram_exporter.losses import code_nll
from gram_exporter.model import TokenLimits, input_ids, new_model, padded, tokens_of, train_tokenizer
from gram_exporter.warm import CONFIDENT, COUNTED_AT_ONCE, LOGIT_RANGE, Sighting, associations, factors, warm_start
from gram_plugin.contract.codes import Attribute, Role

SETTINGS = TrainingConfig(d_model=32, encoder_layers=1, decoder_layers=1, dropout=0.0)


def test_association_is_positive_pointwise_mutual_information() -> None:
    """Equal to the formula by hand: a token seen with one attribute only, and one seen with both alike."""
    seen = [Sighting([0, 2], [0], [1.0]), Sighting([1, 2], [1], [1.0])] * 4
    counts, of_attribute = 4.0, 8.0**0.75
    expected = math.log(counts / (4.0 * of_attribute / (2 * of_attribute))) * counts / (counts + CONFIDENT)
    np.testing.assert_allclose(associations(seen, 3, 2).toarray(), [[expected, 0], [0, expected], [0, 0]])


def test_many_texts_are_counted_as_few_are() -> None:
    """Counted in several goes, every text counts once."""
    rng = np.random.default_rng(2)
    seen = [
        Sighting(rng.integers(6, size=3).tolist(), [int(rng.integers(4))], [1.0]) for _ in range(COUNTED_AT_ONCE + 7)
    ]
    counts = np.zeros((6, 4))
    for sighting in seen:
        for token in set(sighting.tokens):
            counts[token, sighting.attributes[0]] += 1
    smoothed = counts.sum(axis=0) ** 0.75
    expected = np.log(counts / (counts.sum(axis=1, keepdims=True) * smoothed / smoothed.sum()))
    found = associations(seen, 6, 4).toarray()
    np.testing.assert_allclose(found, np.maximum(expected, 0) * counts / (counts + CONFIDENT), rtol=1e-9)


def test_counting_takes_no_more_memory_for_more_texts() -> None:
    """The pairs of 20,000 texts, 24 bytes each, are never in memory together."""
    seen = [Sighting(list(range(30)), list(range(5)), [1.0] * 5)] * 20_000
    tracemalloc.start()
    associations(seen, 30, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * 20_000 * 30 * 5 * 24


def test_factors_give_back_a_matrix_of_low_rank() -> None:
    """Inner products of row and column vectors are the matrix; dimensions beyond its rank are zero."""
    rng = np.random.default_rng(1)
    matrix = rng.random((9, 2)) @ rng.random((2, 5))
    rows, columns = factors(sparse.csr_array(matrix), 8, seed=0)
    assert (rows.shape, columns.shape) == ((9, 8), (5, 8))
    np.testing.assert_allclose(rows @ columns.T, matrix, atol=1e-5)


def test_factors_follow_from_the_seed() -> None:
    """Equal calls give equal vectors, so that a resumed training starts as the first did."""
    matrix = sparse.csr_array(np.random.default_rng(1).random((9, 5)))
    np.testing.assert_array_equal(factors(matrix, 3, seed=4)[0], factors(matrix, 3, seed=4)[0])


def test_an_untrained_model_prefers_what_its_words_were_seen_with() -> None:
    """After the warm start and before any step, 'couch' is likelier a sofa than a lamp, and the other way round."""
    attributes = [Attribute.of("type", "sofa"), Attribute.of("type", "lamp"), Attribute.of("type", "table")]
    texts = {"blue couch": 0, "red couch": 0, "blue torch": 1, "red torch": 1, "blue desk": 2, "red desk": 2}
    tokenizer = train_tokenizer([text for text in texts for _ in range(4)], 512)
    tokens = tokens_of(tokenizer, TokenLimits(16, 24))
    model = new_model(len(attributes), tokens, SETTINGS)
    ids = input_ids(tokenizer, list(texts), Role.QUERY, tokens)
    seen = [Sighting(row, [attribute], [1.0]) for row, attribute in zip(ids, texts.values(), strict=True)] * 5
    warm_start(model, seen, first_attribute=tokens.first_attribute, seed=0)
    torch.nn.Module.eval(model)

    def nll(text: str, attribute: int) -> float:
        inputs = padded(input_ids(tokenizer, [text], Role.QUERY, tokens), tokens.pad)
        code = torch.tensor([[[tokens.first_attribute + attribute]]])
        with torch.no_grad():
            return float(code_nll(model, inputs, code, special=tokens))

    ranked = {text: int(np.argmin([nll(text, at) for at in range(3)])) for text in ("couch", "torch", "desk")}
    assert ranked == {"couch": 0, "torch": 1, "desk": 2}


def test_no_attribute_can_shout_down_the_others() -> None:
    """However uneven the catalogue, no attribute's vector is longer than the range of logits, noise aside."""
    rng = np.random.default_rng(3)
    attributes = [Attribute.of("type", f"t{at}") for at in range(60)]
    tokenizer = train_tokenizer(["alpha beta gamma delta"] * 4, 512)
    tokens = tokens_of(tokenizer, TokenLimits(16, 24))
    model = new_model(len(attributes), tokens, SETTINGS)
    seen = [
        Sighting(list(rng.integers(5, tokens.first_attribute, 4)), [int(59 * rng.power(8))], [float(rng.power(0.2))])
        for _ in range(3000)
    ]
    warm_start(model, seen, first_attribute=tokens.first_attribute, seed=0)
    norms = torch.linalg.vector_norm(model.shared.weight[tokens.first_attribute :].detach(), dim=1)
    assert float(norms.max()) < LOGIT_RANGE + 0.5
    assert float(norms.median()) > 0.5 * LOGIT_RANGE
