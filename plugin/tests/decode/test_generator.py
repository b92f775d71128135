"""The generator on a real, tiny bundle: what it writes, for which texts, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.contract.codes import BEAM_WIDTH, MAX_CODES, Role
from gram_plugin.contract.features import BUCKETS, features_of
from gram_plugin.contract.text import render_query
from gram_plugin.decode.beam import Ranking
from gram_plugin.decode.generator import OnnxGenerator, batches_of, blend, rarity_of
from gram_plugin.decode.likely import Likely
from gram_plugin.decode.linear import LinearArm
from gram_plugin.decode.shortlist import ClusteredCodes
from gram_plugin.errors import BundleError, DecodeError

EditManifest = Callable[[Callable[[dict[str, Any]], object]], Path]


def by_code(ranking: Ranking) -> dict[int, float]:
    """Log-probability by code."""
    return dict(zip(ranking.code.tolist(), ranking.log_probability.tolist(), strict=True))


def test_probabilities_over_the_whole_codebook_sum_to_one(generator: OnnxGenerator) -> None:
    """Asked for every code, the model spreads exactly one over them, whatever the role."""
    for role in Role:
        ranking = generator.rank(["a red shoe"], role, limit=len(generator.codebook))[0]
        assert sorted(ranking.code.tolist()) == list(range(len(generator.codebook)))
        assert np.exp(ranking.log_probability).sum() == pytest.approx(1.0, abs=1e-5)


def test_ten_beams_find_the_best_of_an_exhaustive_search(generator: OnnxGenerator) -> None:
    """On the tiny codebook the usual beam finds the same first code as looking at all codes."""
    usual = generator.rank(["a red shoe"], Role.QUERY)[0]
    exhaustive = generator.rank(["a red shoe"], Role.QUERY, limit=len(generator.codebook))[0]
    assert usual.code.size == MAX_CODES
    every = by_code(exhaustive)
    assert by_code(usual) == pytest.approx({code: every[code] for code in by_code(usual)}, abs=1e-5)
    assert usual.code[0] == exhaustive.code[0]


def test_codes_carry_calibrated_probabilities(generator: OnnxGenerator) -> None:
    """`generate` is `rank` through the role's curve, code by code."""
    ranking = generator.rank(["a red shoe"], Role.PRODUCT)[0]
    expected = generator.bundle.calibration[Role.PRODUCT].at(ranking.log_probability)
    scored = generator.generate(["a red shoe"], Role.PRODUCT)[0]
    assert [item.code for item in scored] == [generator.codebook[index].code for index in ranking.code]
    assert [item.probability for item in scored] == pytest.approx(expected.tolist())


def test_roles_read_the_same_text_differently(generator: OnnxGenerator) -> None:
    """The prompt of the role is part of what the model sees."""
    query, product = (generator.rank(["a red shoe"], role)[0] for role in Role)
    assert by_code(query) != by_code(product)


@settings(max_examples=30)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=5), role=st.sampled_from(Role))
def test_an_answer_does_not_depend_on_what_else_is_asked(
    generator: OnnxGenerator, texts: list[str], role: Role
) -> None:
    """Texts of mixed lengths together or alone give every code the same log-probability within 1e-4."""
    whole = len(generator.codebook)
    for text, together in zip(texts, generator.rank(texts, role, limit=whole), strict=True):
        alone = generator.rank([text], role, limit=whole)[0]
        assert by_code(together) == pytest.approx(by_code(alone), abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "y " * 5_000,
        "z" * 10_000,
        "👟👟 размер",
        "حذاء رياضي أحمر",
        "נעל אדומה",
        "\ud800 lone",
        "e\u0301\u200b",
        "\x00\x07",
    ],
    ids=["one", "10000 words", "10000 letters", "emoji", "arabic", "hebrew", "surrogate", "marks", "controls"],
)
@pytest.mark.parametrize("rendered", [True, False])
def test_any_text_gets_ranked_codes(generator: OnnxGenerator, text: str, rendered: bool) -> None:
    """Length, script and broken characters change nothing in the form of the answer."""
    asked = render_query(text) if rendered else text
    codes = generator.generate([asked], Role.QUERY)[0]
    probabilities = [item.probability for item in codes]
    assert len(codes) == (MAX_CODES if asked else 0)
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 < probability <= 1 for probability in probabilities)


def test_a_text_without_words_gets_no_code(generator: OnnxGenerator) -> None:
    """Empty and blank texts are answered without asking the model, in their places."""
    found = generator.generate(["", "shoe", " \t\n"], Role.QUERY)
    assert [len(codes) for codes in found] == [0, MAX_CODES, 0]


def test_no_text_at_all_gets_no_list(generator: OnnxGenerator) -> None:
    """Nothing asked, nothing answered."""
    assert generator.generate([], Role.QUERY) == []


def test_a_text_cannot_spell_a_special_token(generator: OnnxGenerator) -> None:
    """The end token and prompts are put in by us alone."""
    tokens = generator.manifest.tokens
    special = {tokens.pad, tokens.eos, *tokens.prompts["query"], *tokens.prompts["product"]}
    ids = generator.frame("a </s> <query> <pad> b", Role.QUERY)
    assert (ids[0], ids[-1]) == (tokens.prompts["query"][0], tokens.eos)
    assert not special.intersection(ids[1:-1])


def test_long_texts_are_cut_to_the_most_tokens_of_their_role(generator: OnnxGenerator) -> None:
    """Prompt and end token are kept, whatever is cut."""
    tokens = generator.manifest.tokens
    query, product = (generator.frame("word " * 400, role) for role in Role)
    assert (len(query), len(product)) == (tokens.max_query_tokens, tokens.max_product_tokens)
    assert query[-1] == product[-1] == tokens.eos


def test_fewer_codes_are_the_first_of_more(generator: OnnxGenerator) -> None:
    """The limit cuts the list and changes nothing before the cut."""
    three, ten = (generator.generate(["a red shoe"], Role.QUERY, limit=n)[0] for n in (3, 10))
    assert [item.code for item in three] == [item.code for item in ten[:3]]


def test_a_limit_below_one_is_refused(generator: OnnxGenerator) -> None:
    """Asking for no code is a mistake of the caller."""
    with pytest.raises(DecodeError, match="limit must be at least 1, found 0"):
        generator.generate(["shoe"], Role.QUERY, limit=0)


def test_texts_of_an_int8_bundle_run_one_by_one(edit_manifest: EditManifest) -> None:
    """Where activations share a scale, an answer is the same to the last bit, alone or in company."""
    generator = OnnxGenerator.open(edit_manifest(lambda manifest: manifest.update(precision="int8")))
    texts = ["a red shoe", "a much longer text about something else", "boots"]
    alone = [generator.generate([text], Role.QUERY)[0] for text in texts]
    assert generator.generate(texts, Role.QUERY) == alone


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 1000))
def test_batches_hold_every_text_once_within_their_tokens(lengths: list[int], most: int) -> None:
    """Padding counted; only a text that is too long by itself exceeds the bound, and it is alone."""
    batches = batches_of(lengths, most)
    assert sorted(place for batch in batches for place in batch) == [n for n, length in enumerate(lengths) if length]
    assert all(len(batch) == 1 or len(batch) * max(lengths[n] for n in batch) <= most for batch in batches)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(300, 3000))
def test_no_text_that_still_fits_opens_a_batch(lengths: list[int], most: int) -> None:
    """Batches are as full as the bound lets them be."""
    for batch, after in pairwise(batches_of(lengths, most)):
        assert (len(batch) + 1) * lengths[after[0]] > most


@pytest.mark.parametrize("most", [1, 40, 10_000])
def test_a_bound_on_tokens_changes_how_texts_are_read_and_not_what_is_written(
    generator: OnnxGenerator, listened_to: Any, most: int
) -> None:
    """The same codes in the places of their texts, whatever is read together; no call is larger than the bound."""
    texts = ["boots", "", "a much longer text about something else entirely", "a red shoe", "shoe", "red boots"]
    alone = [by_code(generator.rank([text], Role.QUERY)[0]) for text in texts]
    listening, shapes = listened_to(replace(generator, max_batch_tokens=most))

    found = listening.rank(texts, Role.QUERY)

    assert [by_code(ranking) for ranking in found] == [pytest.approx(expected, abs=1e-5) for expected in alone]
    assert sum(rows for rows, _ in shapes) == 5
    assert all(rows == 1 or rows * columns <= most for rows, columns in shapes)
    assert most not in (1, 10_000) or len(shapes) == (5 if most == 1 else 1)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda manifest: manifest["tokens"].update(first_attribute=200), "260 text tokens, attributes from 200"),
        (lambda manifest: manifest["tokens"]["prompts"].pop("query"), "no prompt for role query"),
        (lambda manifest: manifest.update(precision="int4"), "precision 'int4', this version runs fp32 and int8"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    edit_manifest: EditManifest, change: Callable[[dict[str, Any]], object], finding: str
) -> None:
    """The message says which numbers contradict each other."""
    with pytest.raises(BundleError, match=finding):
        OnnxGenerator.open(edit_manifest(change))


def test_a_broken_tokenizer_is_refused(replace_file: Callable[[str, bytes], Path]) -> None:
    """A right checksum does not make a tokenizer."""
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer"):
        OnnxGenerator.open(replace_file("tokenizer.json", b"{}"))


def test_logits_that_do_not_reach_the_attributes_are_refused(replace_file: Callable[[str, bytes], Path]) -> None:
    """A codebook of another training has more attributes than the graph answers for, or fewer."""
    with pytest.raises(BundleError, match=r"attributes up to column \d+, logits of \d+ columns"):
        OnnxGenerator.open(replace_file("codebook.tsv", b"type=notebook\t3\n"))


def ranking_of(probability: dict[int, float]) -> Ranking:
    """What a generator wrote, from code to probability."""
    return Ranking(np.array(list(probability), np.int64), np.log(np.array(list(probability.values()), float)))


def likely_of(probability: Sequence[float], told: Iterable[int] | None = None) -> Likely:
    """What an arm says of some codes, of all unless told otherwise."""
    codes = np.array(sorted(range(len(probability)) if told is None else told), np.int64)
    return Likely(codes, np.array(probability, float)[codes])


def slow_blend(written: dict[int, float], linear: list[float], share: float, limit: int) -> list[tuple[int, float]]:
    """Code by code: the mixture of two probabilities, likeliest first, equal ones by number, none that cannot be."""
    mixture = {code: share * probability for code, probability in enumerate(linear)}
    for code, probability in written.items():
        mixture[code] += (1 - share) * probability
    ranked = sorted(mixture.items(), key=lambda item: (-item[1], item[0]))
    return [(code, probability) for code, probability in ranked[:limit] if probability > 0]


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[dict[int, float], list[float]]:
    """What a generator wrote and an arm's probabilities of all codes, no two of them equal."""
    weights = draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=40, unique=True))
    linear = [weight / sum(weights) for weight in weights]
    codes = draw(st.lists(st.integers(0, len(linear) - 1), max_size=10, unique=True))
    return {code: draw(st.floats(1e-6, 1.0)) / 10 for code in codes}, linear


@given(parts=mixtures(), share=st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0), limit=st.integers(1, 50))
def test_a_blend_equals_the_slow_reference(
    parts: tuple[dict[int, float], list[float]], share: float, limit: int
) -> None:
    """Although the arm tells of its likeliest codes and the written ones only, no better one is missed."""
    written, linear = parts
    likeliest = sorted(range(len(linear)), key=lambda code: -linear[code])[:limit]
    found = blend(ranking_of(written), likely_of(linear, {*likeliest, *written}), share, limit)
    expected = slow_blend(written, linear, share, limit)
    probability = np.exp(found.log_probability)
    np.testing.assert_allclose(probability, [probability for _, probability in expected], rtol=1e-9)
    mixture = dict(slow_blend(written, linear, share, len(linear)))
    np.testing.assert_allclose(probability, [mixture[code] for code in found.code.tolist()], rtol=1e-9)
    assert len(set(found.code.tolist())) == found.code.size
    assert found.code.dtype == np.int64


WRITTEN = ranking_of({2: 0.5, 0: 0.25})
LINEAR = likely_of([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("share", "limit", "expected"),
    [
        (0.5, 4, {2: 0.4, 3: 0.2, 0: 0.175, 1: 0.1}),
        (0.5, 2, {2: 0.4, 3: 0.2}),
        (0.5, 1, {2: 0.4}),
        (1.0, 9, {3: 0.4, 2: 0.3, 1: 0.2, 0: 0.1}),
        (0.0, 9, {2: 0.5, 0: 0.25}),
    ],
    ids=["both", "two", "one", "the arm alone", "the generator alone"],
)
def test_a_blend_is_the_weighted_sum_best_first(share: float, limit: int, expected: dict[int, float]) -> None:
    """A share of 1 is the arm's ranking, one of 0 the generator's, without codes that it did not write."""
    found = blend(WRITTEN, LINEAR, share, limit)
    assert found.code.tolist() == list(expected)
    assert np.exp(found.log_probability).tolist() == pytest.approx(list(expected.values()))


def test_equally_likely_codes_keep_the_order_of_the_codebook() -> None:
    """The same text gets the same answer every time."""
    found = blend(Ranking.empty(), likely_of([0.25] * 4), 0.5, 4)
    assert found.code.tolist() == [0, 1, 2, 3]


def test_nothing_is_blended_where_the_arm_knows_nothing() -> None:
    """What the generator wrote of such a text is a guess, and it is left to the words."""
    found = blend(WRITTEN, None, 0.5, 4)
    assert by_code(found) == {}


@given(carriers=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=20), products=st.integers(2, 1_000_000))
def test_rarity_is_within_its_bounds_and_falls_with_the_carriers(carriers: list[int], products: int) -> None:
    """ln(products / carriers) / ln(products), from 1 for one carrier down to 0.01, for impossible counts too."""
    found = rarity_of(sorted(carriers), products)
    counts = [min(max(1, count), products) for count in sorted(carriers)]
    expected = [max(0.01, math.log(products / count) / math.log(products)) for count in counts]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert 0.01 <= found.min() <= found.max() <= 1.0
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("products", [0, 1])
def test_rarity_is_one_where_the_catalogue_is_not_known(products: int) -> None:
    """A bundle that does not tell its products weighs all codes alike."""
    assert rarity_of([0, 1, 900], products).tolist() == [1.0, 1.0, 1.0]


def test_rarity_of_known_carriers() -> None:
    """Of a thousand products one, ten, a hundred and all: the logarithm is what counts."""
    assert rarity_of([1, 10, 100, 1000], 1000).tolist() == pytest.approx([1.0, 2 / 3, 1 / 3, 0.01])


SHARE = 0.6
KNOWN = "a red shoe"


@pytest.fixture
def arm_bytes(tmp_path: Path, generator: OnnxGenerator) -> bytes:
    """The file of an arm that knows the words of `KNOWN` and nothing else."""
    rng = np.random.default_rng(1)
    features = np.zeros((BUCKETS, 4), np.float32)
    known = list(features_of(KNOWN).buckets)
    features[known] = rng.normal(size=(len(known), 4))
    codes = len(generator.codebook)
    vectors = rng.normal(size=(codes, 4)).astype(np.float32)
    clustered = ClusteredCodes.of(vectors, np.zeros(codes, np.float32), np.arange(codes) % 3)
    arm = LinearArm(features.astype(np.float16), clustered, codes)
    arm.save(tmp_path / "arm.npz")
    return (tmp_path / "arm.npz").read_bytes()


@pytest.fixture
def blending(
    arm_bytes: bytes, replace_file: Callable[[str, bytes], Path], edit_manifest: EditManifest
) -> OnnxGenerator:
    """The generator of a copy of the tiny bundle that has an arm."""
    replace_file("linear.npz", arm_bytes)
    return OnnxGenerator.open(edit_manifest(lambda manifest: manifest.update(linear_share=SHARE)))


def test_queries_are_ranked_by_the_mixture(generator: OnnxGenerator, blending: OnnxGenerator) -> None:
    """Codes of the usual beams and codes of the arm, by s · P_linear + (1 - s) · P_generator, best first."""
    arm = blending.linear
    assert arm is not None
    codes = len(generator.codebook)
    linear = arm.likely(KNOWN, codes, np.arange(codes))
    assert linear is not None and linear.code.tolist() == list(range(codes))
    written = generator.rank([KNOWN], Role.QUERY, limit=BEAM_WIDTH)[0]
    known = {code: math.exp(nats) for code, nats in by_code(written).items()}
    expected = slow_blend(known, linear.probability.tolist(), SHARE, MAX_CODES)
    found = blending.rank([KNOWN], Role.QUERY)[0]
    assert found.code.tolist() == [code for code, _ in expected]
    np.testing.assert_allclose(np.exp(found.log_probability), [probability for _, probability in expected], rtol=1e-6)


def test_products_are_ranked_by_the_generator_alone(generator: OnnxGenerator, blending: OnnxGenerator) -> None:
    """The arm has learned from queries only."""
    found, alone = (model.generate([KNOWN, "x500"], Role.PRODUCT) for model in (blending, generator))
    assert found == alone
    assert [len(codes) for codes in found] == [MAX_CODES, MAX_CODES]


def test_codes_of_the_mixture_carry_calibrated_probabilities(blending: OnnxGenerator) -> None:
    """`generate` is the mixture through the query's curve, at most as many codes as asked for."""
    ranking = blending.rank([KNOWN], Role.QUERY, limit=5)[0]
    curve = blending.bundle.calibration[Role.QUERY]
    found = blending.generate([KNOWN], Role.QUERY, limit=5)[0]
    assert [item.code for item in found] == [blending.codebook[at].code for at in ranking.code]
    assert [item.probability for item in found] == curve.at(ranking.log_probability).tolist()


def test_a_query_of_which_the_arm_knows_no_part_gets_no_code(blending: OnnxGenerator) -> None:
    """A model number is left to the words, in its place among queries that are answered."""
    found = blending.generate(["x500", KNOWN, "", "!?"], Role.QUERY)
    assert [len(codes) for codes in found] == [0, MAX_CODES, 0, 0]


def test_codes_carry_the_rarity_of_their_place_in_the_codebook(edit_manifest: EditManifest) -> None:
    """Every written code has the rarity that its carriers give it in a catalogue of this size."""
    generator = OnnxGenerator.open(edit_manifest(lambda manifest: manifest.update(products=100)))
    rarity = {entry.code: math.log(100 / entry.products) / math.log(100) for entry in generator.codebook}
    found = {item.code: item.rarity for item in generator.generate([KNOWN], Role.QUERY)[0]}
    assert found == pytest.approx({code: rarity[code] for code in found})


def test_a_share_without_an_arm_is_refused(edit_manifest: EditManifest) -> None:
    """The manifest promises a file that is not there."""
    with pytest.raises(BundleError, match=r"manifest\.json does not list linear\.npz"):
        OnnxGenerator.open(edit_manifest(lambda manifest: manifest.update(linear_share=SHARE)))


def test_an_arm_without_a_share_is_left_alone(
    generator: OnnxGenerator, arm_bytes: bytes, replace_file: Callable[[str, bytes], Path]
) -> None:
    """Where held-out queries were better off without it, the generator answers alone, also what the arm would not."""
    alone = OnnxGenerator.open(replace_file("linear.npz", arm_bytes))
    assert alone.linear is None
    assert alone.generate([KNOWN, "x500"], Role.QUERY) == generator.generate([KNOWN, "x500"], Role.QUERY)
