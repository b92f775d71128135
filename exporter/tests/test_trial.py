"""A search tried in memory, against plain loops and on catalogues that fit on a page."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from gram_exporter.codebook import Codebook
from gram_exporter.measures import graded
from gram_exporter.trial import Hits, Trial, page_worth, scale_of, together
from gram_plugin.contract.codes import MAX_CODES, Code

CODES = tuple(Code.parse(f"type=t{at:02}") for at in range(40))
WORDS = ("sofa", "red", "oak", "lamp", "沙发")
K1, B = 1.5, 0.75


def codebook(carried: list[list[int]]) -> Codebook:
    """A codebook of forty codes; for each product the codes that it carries."""
    matrix = np.zeros((len(carried), len(CODES)), np.float32)
    for row, own in enumerate(carried):
        matrix[row, own] = 1.0
    return Codebook(CODES, sparse.csr_array(matrix))


def slow_bm25(texts: list[list[str]], query: list[str]) -> list[float]:
    """Lucene's BM25, word by word."""
    mean = sum(map(len, texts)) / len(texts)
    scores = [0.0] * len(texts)
    for word in query:
        holders = sum(word in text for text in texts)
        idf = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
        for row, text in enumerate(texts):
            count = Counter(text)[word]
            scores[row] += idf * count / (count + K1 * (1 - B + B * len(text) / mean))
    return scores


@settings(max_examples=40)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), min_size=2, max_size=8),
    query=st.lists(st.sampled_from((*WORDS, "unknown")), max_size=3, unique=True),
)
def test_words_are_ranked_by_bm25(texts: list[list[str]], query: list[str]) -> None:
    """As Lucene does it, in any script, products without a word of the query left out."""
    texts = [[word for word in text if word != "沙发"] or ["oak"] for text in texts]
    query = [word for word in query if word != "沙发"]
    trial = Trial([" ".join(text) for text in texts], codebook([[0]] * len(texts)))
    found = trial.by_words(" ".join(query))
    expected = slow_bm25(texts, query)
    assert sorted(found.rows.tolist()) == [row for row, score in enumerate(expected) if score > 0]
    np.testing.assert_allclose(found.scores, sorted((s for s in expected if s > 0), reverse=True), rtol=1e-4)
    np.testing.assert_allclose(found.scores, [expected[row] for row in found.rows], rtol=1e-4)


def test_words_of_scripts_without_spaces_are_found_by_their_characters() -> None:
    """Each character is a word, so a product that holds both is ahead of one that holds one."""
    trial = Trial(["红色实木沙发", "红色木门", "oak door"], codebook([[0]] * 3))
    assert trial.by_words("沙发").rows.tolist() == [0]
    assert trial.by_words("红沙发").rows.tolist() == [0, 1]


@pytest.mark.parametrize("texts", [["—", "!"], ["oak", "sofa"]])
def test_a_query_of_no_known_word_finds_nothing(texts: list[str]) -> None:
    """Nor does any query in a catalogue without words."""
    found = Trial(texts, codebook([[0]] * 2)).by_words("lamp")
    assert (found.rows.tolist(), found.scores.tolist()) == ([], [])


@settings(max_examples=50)
@given(
    carried=st.lists(st.lists(st.integers(0, 39), unique=True, max_size=5), min_size=2, max_size=12),
    seed=st.integers(0, 99),
)
def test_codes_give_the_points_of_those_that_a_product_carries(carried: list[list[int]], seed: int) -> None:
    """Σ √P · rarity over the 24 likeliest codes; products without any of them are not found."""
    trial = Trial(["oak"] * len(carried), codebook(carried))
    probability = np.random.default_rng(seed).dirichlet(np.ones(len(CODES)))
    likeliest = set(np.argsort(-probability)[:MAX_CODES].tolist())
    support = Counter(code for own in carried for code in own)

    def rarity(code: int) -> float:
        return max(0.01, math.log(len(carried) / max(1, support[code])) / math.log(len(carried)))

    points = [sum(math.sqrt(probability[code]) * rarity(code) for code in own if code in likeliest) for own in carried]
    found = trial.by_codes(probability)
    assert sorted(found.rows.tolist()) == [row for row, own in enumerate(points) if own > 0]
    np.testing.assert_allclose(found.scores, [points[row] for row in found.rows], rtol=1e-4)
    assert (np.diff(found.scores) <= 0).all()


def hits(**scores: float) -> Hits:
    """Hits by letters: a is the first product."""
    ordered = sorted(scores.items(), key=lambda pair: -pair[1])
    return Hits(
        np.array([ord(name) - ord("a") for name, _ in ordered]), np.array([score for _, score in ordered], np.float32)
    )


def test_a_page_adds_the_points_of_codes_to_the_scores_of_words() -> None:
    """A product of both is first, and each side brings its own."""
    page = together(hits(a=3.0, b=2.0), hits(b=1.0, c=0.5), 2.0)
    assert (page.rows.tolist(), page.scores.tolist()) == ([1, 0, 2], [4.0, 3.0, 1.0])


def test_the_scale_is_the_median_spread_of_the_first_hundred_scores() -> None:
    """Queries with one hit have no spread; without any query the scale is one."""
    long = Hits(np.arange(150), np.linspace(15, 0.1, 150).astype(np.float32))
    assert scale_of([hits(a=5.0, b=2.0), hits(a=9.0)]) == 3.0
    assert scale_of([long]) == pytest.approx(float(long.scores[0] - long.scores[99]))
    assert scale_of([hits(a=1.0)]) == 1.0


def test_codes_are_worth_what_they_bring_to_the_page() -> None:
    """Words find one of two wanted products; codes that find the other are worth half of R@100 and some nDCG."""
    trial = Trial(["red sofa", "couch", "oak lamp"], codebook([[0], [0], [1]]))
    wanted = {"sofa": {0: 1.0, 1: 1.0}}
    found = [trial.by_words("sofa")]
    right, wrong = np.zeros(len(CODES)), np.zeros(len(CODES))
    right[0] = wrong[1] = 1.0
    (words_alone,) = trial.worths(lambda _text: None, wanted, found)
    assert words_alone == pytest.approx((1 / (1 + 1 / math.log2(3)) + 0.5) / 2)
    assert trial.worths(lambda _text: right, wanted, found).tolist() == pytest.approx([1.0])
    assert trial.worths(lambda _text: wrong, wanted, found).tolist() == pytest.approx([words_alone])


@settings(max_examples=50)
@given(
    rows=st.lists(st.integers(0, 130), unique=True, max_size=120),
    wanted=st.dictionaries(st.integers(0, 130), st.integers(1, 4), min_size=1, max_size=20),
)
def test_a_page_is_worth_what_the_measures_say(rows: list[int], wanted: dict[int, int]) -> None:
    """The mean of the evaluation's nDCG@10 and R@100, where grades are whole."""
    page = Hits(np.array(rows, np.int64), np.ones(len(rows), np.float32))
    judgments = {"q": {str(row): float(grade) for row, grade in wanted.items()}}
    measured = graded({"q": [str(row) for row in rows]}, judgments, ["q"])
    expected = (measured["nDCG@10"][0] + measured["R@100"][0]) / 2
    assert page_worth(page, {row: float(grade) for row, grade in wanted.items()}) == pytest.approx(expected, abs=1e-6)
