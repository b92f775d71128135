"""Beam search against brute force over the whole codebook."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.decode.beam import Ranking, search
from gram_plugin.decode.trie import Trie
from gram_plugin.errors import DecodeError

EOS = 1
VOCABULARY = 8

Path = tuple[int, ...]
ROUNDING = 1e-5
"""Nats: a softmax over single-precision logits, once for each of at most five steps."""
paths = st.lists(st.lists(st.integers(2, 7), min_size=1, max_size=4).map(tuple), min_size=1, max_size=30, unique=True)


def logits_after(text: int, prefix: Path) -> npt.NDArray[np.float32]:
    """The model that is asked: any function of text and prefix will do."""
    rng = np.random.default_rng([text, *prefix])
    return rng.normal(0, 3, VOCABULARY).astype(np.float32)


class FakeSteps:
    """Remembers prefixes as a decoder with a cache does."""

    def __init__(self, texts: list[int]) -> None:
        self.rows: list[tuple[int, Path]] = [(text, ()) for text in texts]
        self.asked = 0

    def first(self) -> npt.NDArray[np.float32]:
        """Logits of the first token."""
        return self._logits()

    def next(self, rows: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits after the rows went on by a token each."""
        old = self.rows
        self.rows = [(old[row][0], (*old[row][1], int(token))) for row, token in zip(rows, tokens, strict=True)]
        return self._logits()

    def _logits(self) -> npt.NDArray[np.float32]:
        self.asked += 1
        return np.stack([logits_after(text, prefix) for text, prefix in self.rows])


def brute_force(codes: list[Path], text: int) -> npt.NDArray[np.float64]:
    """Log-probability of every code: at each step a softmax over the tokens that some code allows there."""
    return np.array([sum(step(codes, text, code, at) for at in range(len(code) + 1)) for code in codes])


def step(codes: list[Path], text: int, code: Path, at: int) -> float:
    """Log-probability of the token at `at` (the end token after the last), given those before."""
    prefix, token = code[:at], (*code, EOS)[at]
    allowed = {(*other, EOS)[at] for other in codes if other[:at] == prefix and len(other) >= at}
    logits = logits_after(text, prefix).astype(np.float64)
    return float(logits[token] - np.log(sum(np.exp(logits[other]) for other in allowed)))


def ask(codes: list[Path], texts: list[int], *, width: int, limit: int) -> list[Ranking]:
    """Searches the trie of `codes` for `texts`."""
    return search(Trie.of(codes, EOS), FakeSteps(texts), len(texts), width=width, limit=limit)


@given(paths, st.integers(0, 99))
def test_a_wide_beam_equals_brute_force(codes: list[Path], text: int) -> None:
    """With room for the whole codebook every code is found, in order, with its exact probability."""
    expected = brute_force(codes, text)
    found = ask(codes, [text], width=len(codes), limit=len(codes))[0]
    assert found.code.tolist() == np.argsort(-expected).tolist()
    np.testing.assert_allclose(found.log_probability, np.sort(expected)[::-1], atol=ROUNDING)


@given(paths, st.integers(0, 99))
def test_probabilities_over_the_codebook_sum_to_one(codes: list[Path], text: int) -> None:
    """No probability is lost to what the trie forbids."""
    found = ask(codes, [text], width=len(codes), limit=len(codes))[0]
    assert np.exp(found.log_probability).sum() == pytest.approx(1.0, abs=ROUNDING)


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 12))
def test_the_best_of_a_wide_node_are_found_among_many(text: int, width: int, limit: int) -> None:
    """Where a node has hundreds of edges, ends and others, looking only at the best of them misses nothing."""
    vocabulary = 400
    codes = [(token,) for token in range(2, vocabulary, 2)] + [(token, 2) for token in range(3, vocabulary, 2)]
    codes += [(token, 4) for token in range(3, vocabulary, 2)]

    class Wide(FakeSteps):
        def _logits(self) -> npt.NDArray[np.float32]:
            rngs = [np.random.default_rng([text, *prefix]) for text, prefix in self.rows]
            return np.stack([rng.normal(0, 3, vocabulary).astype(np.float32) for rng in rngs])

    exact = search(Trie.of(codes, EOS), Wide([text]), 1, width=len(codes), limit=len(codes))[0]
    found = search(Trie.of(codes, EOS), Wide([text]), 1, width=width, limit=limit)[0]
    every = dict(zip(exact.code.tolist(), exact.log_probability.tolist(), strict=True))
    assert found.code.size == limit
    np.testing.assert_allclose(found.log_probability, [every[code] for code in found.code.tolist()], atol=ROUNDING)
    ends = [code for code in exact.code.tolist() if len(codes[code]) == 1][:limit]
    assert found.log_probability[-1] >= min(every[code] for code in ends) - ROUNDING


@given(paths, st.lists(st.integers(0, 99), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 6))
def test_texts_searched_together_equal_texts_searched_alone(
    codes: list[Path], texts: list[int], width: int, limit: int
) -> None:
    """Beams of several texts never mix."""
    together = ask(codes, texts, width=width, limit=limit)
    for text, ranking in zip(texts, together, strict=True):
        alone = ask(codes, [text], width=width, limit=limit)[0]
        assert ranking.code.tolist() == alone.code.tolist()
        np.testing.assert_allclose(ranking.log_probability, alone.log_probability, atol=1e-12)


@given(paths, st.integers(0, 99), st.integers(1, 5), st.integers(1, 5))
def test_a_narrow_beam_may_miss_codes_but_never_misstates_them(
    codes: list[Path], text: int, width: int, limit: int
) -> None:
    """What is found carries its exact probability, is in order, and is at most `limit` codes."""
    expected = brute_force(codes, text)
    found = ask(codes, [text], width=width, limit=limit)[0]
    np.testing.assert_allclose(found.log_probability, expected[found.code], atol=ROUNDING)
    assert (np.diff(found.log_probability) <= 0).all()
    assert 1 <= found.code.size <= limit
    assert len(set(found.code.tolist())) == found.code.size


def test_codes_of_one_attribute_cost_one_step() -> None:
    """The model is not asked again when every code is finished."""
    steps = FakeSteps([0])
    search(Trie.of([(2,), (3,), (4,)], EOS), steps, 1, width=3, limit=3)
    assert steps.asked == 1


def test_the_search_stops_when_no_beam_can_reach_the_last_place() -> None:
    """A beam below the worst wanted code is dropped, for its end can only be lower."""
    short = [(token,) for token in range(2, 7)]
    long = [(7, 2, 3, 4), (7, 3, 3, 4)]
    text = next(text for text in range(100) if logits_after(text, ())[7] == logits_after(text, ())[2:].min())
    steps = FakeSteps([text])
    search(Trie.of([*short, *long], EOS), steps, 1, width=9, limit=2)
    assert steps.asked == 1


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_model_that_answers_no_number_is_an_error(number: float) -> None:
    """Not-a-number and the infinite never become a ranking."""

    class Broken(FakeSteps):
        def first(self) -> npt.NDArray[np.float32]:
            """One that is none."""
            return np.array([[0.0, 1.0, number, *[0.0] * (VOCABULARY - 3)]], np.float32)

    with pytest.raises(DecodeError, match="not finite"):
        search(Trie.of([(2,), (3,)], EOS), Broken([0]), 1, width=2, limit=2)
