"""Co-alignment of the generator on a catalogue where words mislead."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from misleading import ASKED, CONFIG, PRODUCTS, WANTED, quiet
from safetensors.torch import load_file
from scipy import sparse

from gram_exporter.codebook import Codebook
from gram_exporter.data import Example
from gram_exporter.judge import Judge
from gram_exporter.losses import token_log_probability
from gram_exporter.model import TokenLimits, input_ids, tokens_of, train_tokenizer
from gram_exporter.prefer import (
    FREE_PRODUCTS,
    PAIRS,
    Taught,
    efficiency,
    log_probabilities,
    pairs_of,
    prefer,
    shared_beginning,
    taught_by,
)
from gram_exporter.prepare import Prepared
from gram_exporter.record import MODEL
from gram_exporter.train import Course, train
from gram_exporter.trial import Hits
from gram_exporter.writing import Writer
from gram_plugin.contract.codes import BEAM_WIDTH, MAX_PRODUCT_CODES, Role

SETTINGS = dataclasses.replace(
    CONFIG.training, steps=40, d_model=32, encoder_layers=1, decoder_layers=1, vocabulary=512, prefer_steps=40
)


@pytest.fixture(scope="module")
def trained(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A generator whose words and attributes are blurred, so that it errs; tests must not change it."""
    tokenizer = train_tokenizer([*prepared.texts, *WANTED], SETTINGS.vocabulary)
    course = Course(SETTINGS, prepared, tokenizer, tokens_of(tokenizer, TokenLimits(16, 24)))
    course.run(tmp_path_factory.mktemp("course"), resume=False, progress=quiet)
    with torch.no_grad():
        words = course.model.shared.weight
        words += words.std() * torch.randn(words.shape, generator=torch.Generator().manual_seed(0)).to(words.device)
    return course.writer()


@pytest.fixture
def writer(trained: Writer) -> Writer:
    """A copy of that generator."""
    found = copy.copy(trained)
    found.model = copy.deepcopy(trained.model)
    return found


def changed(writer: Writer, other: Writer) -> bool:
    """Whether two models differ in any weight."""
    weights = other.model.state_dict()
    return any(not torch.equal(weight, weights[name]) for name, weight in writer.model.state_dict().items())


def test_alignment_makes_held_out_pages_better(
    writer: Writer, trained: Writer, prepared: Prepared, judge: Judge
) -> None:
    """With as many codes as before; the figures tell the pages without codes that were generated, and with them."""
    told: list[tuple[str, int, int]] = []
    figures = prefer(writer, prepared, SETTINGS, judge, lambda *stage: told.append(stage))
    assert figures["prefer_steps"] in (20.0, 40.0)
    assert judge.worth_of_words < figures["held_written"] < figures["held_preferred"]
    assert figures["held_preferred"] == pytest.approx(prefer(writer, prepared, SETTINGS, judge, quiet)["held_written"])
    assert changed(writer, trained)
    assert [stage for stage in told if stage[0] == "align the generator"] == [
        ("align the generator", step, 40) for step in range(1, 41)
    ]
    written = [done for stage, done, _ in told if stage == "write codes to compare"]
    assert written == sorted(written) and written[-1] == 2 * len(prepared.queries)


def test_the_same_seed_aligns_alike(trained: Writer, prepared: Prepared, judge: Judge) -> None:
    """To the last bit."""
    models = []
    for _ in range(2):
        writer = copy.copy(trained)
        writer.model = copy.deepcopy(trained.model)
        prefer(writer, prepared, SETTINGS, judge, quiet)
        models.append(writer)
    assert not changed(*models)


def test_alignment_that_does_not_help_is_undone(
    writer: Writer, trained: Writer, prepared: Prepared, judge: Judge
) -> None:
    """Where held-out queries want what nothing finds, no page becomes better: the model is the one from before."""
    nothing = dataclasses.replace(judge, wanted={text: {len(PRODUCTS): 1.0} for text in judge.wanted})
    figures = prefer(writer, prepared, SETTINGS, nothing, quiet)
    assert figures["prefer_steps"] == 0.0
    assert figures["held_preferred"] == figures["held_written"]
    assert not changed(writer, trained)


def test_it_can_be_left_out(writer: Writer, trained: Writer, prepared: Prepared, judge: Judge) -> None:
    """Then nothing is written, asked or told."""
    assert prefer(writer, prepared, dataclasses.replace(SETTINGS, prefer_steps=0), judge, quiet) == {}
    assert not changed(writer, trained)


def test_pairs_are_of_codes_that_both_sides_write_and_that_one_writes(
    trained: Writer, prepared: Prepared, judge: Judge
) -> None:
    """Winners stand on both sides, losers only on the query's, and each winner is the more efficient one."""
    example_of = {example.text: example for example in prepared.queries}
    taught = taught_by(trained, prepared, judge, 0, quiet)
    assert len(taught) > len(prepared.queries) // 4
    for own in taught:
        (asked,) = trained.written([own.query], Role.QUERY, BEAM_WIDTH)
        (offered,) = trained.written([own.product], Role.PRODUCT, MAX_PRODUCT_CODES)
        example = example_of[own.query]
        assert own.product in {prepared.texts[row] for row in example.wanted}
        worth = efficiency(
            example, judge.trial.by_words(own.query), prepared.codebook.carried, prepared.codebook.support
        )
        assert set(own.won) <= set(asked.code) & set(offered.code)
        assert set(own.lost) <= set(asked.code) - set(offered.code)
        assert (worth[own.won] > worth[own.lost]).all()


def test_a_model_that_spoils_in_alignment_is_the_one_from_before(
    writer: Writer, trained: Writer, prepared: Prepared, judge: Judge
) -> None:
    """Where loss or gradient are no numbers any more it ends, and what was best is kept."""
    told: list[tuple[str, int, int]] = []

    def spoil(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if (stage, done) == ("align the generator", 3):
            with torch.no_grad():
                writer.model.shared.weight[writer.tokens.first_attribute :] = float("nan")

    figures = prefer(writer, prepared, SETTINGS, judge, spoil)
    assert figures["prefer_steps"] == 0.0
    assert told[-1] == ("align the generator", 3, 40)
    assert not changed(writer, trained)


def test_probabilities_of_pairs_equal_a_slow_reference_with_its_gradient(trained: Writer, prepared: Prepared) -> None:
    """Code by code and side by side; a loser teaches nothing up to where it leaves its winner."""
    first = trained.tokens.first_attribute
    beginning = [[token - first for token in row[:-1]] for row in trained.rows]
    long = [at for at, row in enumerate(beginning) if len(row) == 2]
    siblings = [at for at in long if beginning[at][0] == beginning[long[0]][0]][:2]
    short = next(at for at, row in enumerate(beginning) if row == beginning[long[0]][:1])
    other = next(at for at in long if beginning[at][0] != beginning[long[0]][0])
    won, lost = [siblings[0], short, siblings[0], other], [siblings[1], siblings[0], short, siblings[1]]
    taught = [
        Taught(text, product, np.array(won), np.array(lost))
        for text, product in (("blue comfy seat", prepared.texts[0]), ("shade", prepared.texts[-1]))
    ]
    weight = trained.model.shared.weight
    found = torch.stack(log_probabilities(trained, taught))
    expected = torch.stack(
        [
            torch.stack([_slow(trained, own, int(code), 0) for own in taught for code in own.won]).view(2, PAIRS),
            torch.stack(
                [
                    _slow(trained, own, int(loser), _common(trained.rows[loser], trained.rows[winner]))
                    for own in taught
                    for winner, loser in zip(own.won, own.lost, strict=True)
                ]
            ).view(2, PAIRS),
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    parts = torch.linspace(1, 2, 4 * PAIRS, device=found.device).view(found.shape)
    gradients = [torch.autograd.grad((parts * one).sum(), weight)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def _common(one: list[int], other: list[int]) -> int:
    """Tokens that both begin with."""
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def _slow(writer: Writer, own: Taught, code: int, untaught: int) -> torch.Tensor:
    """Log of the mean of both sides' probabilities of one code, whose first tokens teach nothing."""
    sides = []
    for text, role in ((own.query, Role.QUERY), (own.product, Role.PRODUCT)):
        device = writer.model.shared.weight.device
        inputs = torch.tensor(input_ids(writer.tokenizer, [text], role, writer.tokens), device=device)
        codes = torch.tensor([[writer.rows[code]]], device=device)
        tokens = token_log_probability(writer.model, inputs, codes, special=writer.tokens)[0, 0]
        sides.append(tokens[:untaught].detach().sum() + tokens[untaught:].sum())
    return (torch.exp(sides[0]) / 2 + torch.exp(sides[1]) / 2).log()


def test_a_training_aligns_its_generator_and_resumes_to_the_same_model(tmp_path: Path) -> None:
    """The record has the figures; stopped in the middle of alignment, it goes on from the end of joint training."""
    settings = dataclasses.replace(SETTINGS, steps=20, prefer_steps=4, linear_steps=2, align_steps=0)
    config = dataclasses.replace(CONFIG, training=settings)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(PRODUCTS, ASKED, config, whole)

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "align the generator" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PRODUCTS, ASKED, config, broken, progress=stop)
    found = train(PRODUCTS, ASKED, config, broken, resume=True)
    assert {**found.figures, "seconds": 0} == {**expected.figures, "seconds": 0}
    assert {"held_written", "prefer_steps", "held_preferred"} <= found.figures.keys()
    weights = [load_file(folder / MODEL / "model.safetensors") for folder in (whole, broken)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


products = st.integers(0, 5)


@given(
    carriers=st.lists(st.sets(products, min_size=1), min_size=1, max_size=4),
    wanted=st.dictionaries(products, st.sampled_from([0.5, 1.0, 3.0]), min_size=1),
    found=st.lists(products, unique=True),
)
def test_efficiency_equals_its_formula(carriers: list[set[int]], wanted: dict[int, float], found: list[int]) -> None:
    """Code by code, product by product; what words have first is worth nothing, what they lack all that it is."""
    carried = np.array([[float(row in own) for own in carriers] for row in range(6)], np.float32)
    matrix = sparse.csr_array(carried)
    none = np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32)
    example = Example("q", *none, np.array(list(wanted), np.int32), np.array(list(wanted.values()), np.float32))
    words = Hits(np.array(found, np.int64), np.arange(len(found), 0, -1, dtype=np.float32))

    def unfound(row: int) -> float:
        return 1 - 1 / math.log2(2 + found.index(row)) if row in found else 1.0

    expected = [
        sum(demand * unfound(row) for row, demand in wanted.items() if row in own)
        / sum(wanted.values())
        / (len(own) + FREE_PRODUCTS)
        for own in carriers
    ]
    np.testing.assert_allclose(efficiency(example, words, matrix, Codebook((), matrix).support), expected, rtol=1e-5)


codes = st.sets(st.integers(0, 7)).map(lambda own: np.array(sorted(own), np.int64))


@given(asked=codes, offered=codes, worth=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5]), min_size=8, max_size=8))
def test_there_are_pairs_where_any_winner_beats_any_loser(
    asked: np.ndarray, offered: np.ndarray, worth: list[float]
) -> None:
    """As many as are asked for, each of them right; none where no code of both sides beats one of the query alone."""
    values = np.array(worth)
    both, alone = set(asked) & set(offered), set(asked) - set(offered)
    found = pairs_of(asked, offered, values, np.arange(8) % 3 + 1, np.random.default_rng(0))
    assert (found is not None) == any(values[won] > values[lost] for won in both for lost in alone)
    if found is not None:
        won, lost = found
        assert won.shape == lost.shape == (PAIRS,)
        assert set(won) <= both and set(lost) <= alone and (values[won] > values[lost]).all()


def test_losers_of_every_length_are_drawn_alike() -> None:
    """One short code among twenty long ones loses half of the time, so that long ones do not lose all of it."""
    asked, lengths = np.arange(22), np.array([1, 1, *[2] * 20])
    rng = np.random.default_rng(0)
    drawn = [pairs_of(asked, np.array([0]), np.array([1.0, *[0.0] * 21]), lengths, rng) for _ in range(200)]
    lost = np.concatenate([pair[1] for pair in drawn if pair is not None])
    assert 0.4 < np.mean(lengths[lost] == 1) < 0.6


def test_a_shared_beginning_is_marked() -> None:
    """Up to the first token that differs, and no token after it."""
    won, lost = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 7]]), torch.tensor([[5, 8, 7], [9, 6, 7], [5, 6, 7]])
    expected = [[True, False, False], [False] * 3, [True] * 3]
    assert shared_beginning(won, lost).tolist() == expected
