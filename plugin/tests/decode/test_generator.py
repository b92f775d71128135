"""The generator on a real, tiny bundle: what it writes, for which texts, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_plugin.contract.codes import MAX_CODES, Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.beam import Ranking
from gram_plugin.decode.generator import OnnxGenerator
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


@settings(max_examples=30, deadline=None)
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
