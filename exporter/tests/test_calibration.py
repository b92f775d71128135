"""Curves against a slow isotonic regression; what happens with too little to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram_exporter.calibration import (
    FEWEST_PAIRS,
    SHARES,
    Outcomes,
    calibrate,
    code_gain,
    expected_error,
    fit_curve,
    identity_curve,
    linear_share,
    observe,
)
from gram_exporter.record import CalibrationText
from gram_exporter.trainedarm import TrainedArm
from gram_plugin.contract.bundle import Bundle, read_calibration, write_calibration
from gram_plugin.contract.codes import MAX_CODES, Role
from gram_plugin.decode.beam import Ranking
from gram_plugin.decode.generator import OnnxGenerator

FloatArray = npt.NDArray[np.float64]
ByHeart = Callable[[Sequence[str], int], TrainedArm]


def outcomes(log_probability: FloatArray, right: FloatArray) -> Outcomes:
    """Ten codes for each text."""
    return Outcomes(log_probability, right, np.arange(right.size) // 10)


def slow_isotonic(right: FloatArray) -> FloatArray:
    """Max-min formula (Robertson, Wright, Dykstra 1988): max over starts of the least mean to any end."""
    size = right.size
    means = [{high: right[low : high + 1].mean() for high in range(low, size)} for low in range(size)]
    return np.array(
        [max(min(means[low][high] for high in range(at, size)) for low in range(at + 1)) for at in range(size)]
    )


@settings(max_examples=6)
@given(st.lists(st.booleans(), min_size=FEWEST_PAIRS, max_size=FEWEST_PAIRS + 30).filter(lambda y: len(set(y)) == 2))
def test_a_curve_equals_the_slow_isotonic_regression_block_by_block(right: list[bool]) -> None:
    """At the middle of each block the curve has the block's share of right codes."""
    y = np.array(right, float)
    x = np.linspace(-3.0, -0.01, y.size)
    curve = fit_curve(outcomes(x, y))
    expected = np.round(slow_isotonic(y), 9)
    values = np.unique(expected)
    middles = [x[expected == value].mean() for value in values]
    np.testing.assert_allclose(curve.log_probability, middles, atol=1e-9)
    np.testing.assert_allclose(curve.probability, np.clip(values, 1e-6, 1.0), atol=1e-8)


@given(
    st.lists(st.tuples(st.floats(-30, 0), st.booleans()), max_size=300),
)
def test_any_outcomes_give_a_curve_that_a_bundle_takes(pairs: list[tuple[float, bool]]) -> None:
    """Ties, few, one-sided or many: increasing knots, probabilities inside (0, 1]."""
    found = fit_curve(outcomes(np.array([x for x, _ in pairs]), np.array([y for _, y in pairs], float)))
    knots, values = np.array(found.log_probability), np.array(found.probability)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) >= 0).all()
    assert 0 < values.min() <= values.max() <= 1


def test_too_few_outcomes_keep_the_models_own_probabilities() -> None:
    """99 pairs, or pairs that are all right or all wrong, teach nothing."""
    few = outcomes(np.linspace(-3, -1, 99), np.arange(99) % 2.0)
    assert fit_curve(few) == identity_curve()
    for constant in (0.0, 1.0):
        assert fit_curve(outcomes(np.linspace(-3, -1, 500), np.full(500, constant))) == identity_curve()


def test_the_identity_curve_is_the_exponential() -> None:
    """Within 0.2 percent down to e^-14, and above zero below."""
    x = np.linspace(-14, 0, 999)
    np.testing.assert_allclose(identity_curve().at(x), np.exp(x), rtol=2e-3)
    assert identity_curve().at(np.array([-99.0]))[0] > 0


def test_the_identity_curve_survives_its_file(tmp_path: Path) -> None:
    """Written and read back it is the same."""
    curves = {role: identity_curve() for role in Role}
    write_calibration(tmp_path / "calibration.json", curves)
    assert read_calibration(tmp_path / "calibration.json") == curves


def test_calibration_repairs_overconfidence() -> None:
    """A model that claims p and is right p^3 of the time is off by much before and by little after."""
    rng = np.random.default_rng(0)
    claimed = rng.uniform(0.05, 1.0, 4000)
    right = (rng.random(4000) < claimed**3).astype(float)
    curve = fit_curve(outcomes(np.log(claimed), right))
    unseen = rng.uniform(0.05, 1.0, 4000)
    unseen_right = (rng.random(4000) < unseen**3).astype(float)
    assert expected_error(unseen, unseen_right) > 0.2
    assert expected_error(curve.at(np.log(unseen)), unseen_right) < 0.03


def test_the_error_of_known_claims() -> None:
    """Ten bins of one pair each: the mean of |claim - outcome|; nothing claimed, nothing wrong."""
    claims = np.linspace(0.05, 0.95, 10)
    assert expected_error(claims, np.zeros(10)) == pytest.approx(0.5)
    assert expected_error(np.empty(0), np.empty(0)) == 0.0


def test_a_written_code_is_right_when_the_text_names_it(exact_bundle: Bundle) -> None:
    """Each of the text's best codes is counted once, right or wrong."""
    generator = OnnxGenerator.of(exact_bundle)
    best = generator.codebook[generator.rank(["shoe"], Role.QUERY)[0].code[0]].code
    found = observe(generator, [CalibrationText(Role.QUERY, "shoe", (best,))], Role.QUERY)
    assert found.right.tolist() == [1.0, *[0.0] * (MAX_CODES - 1)]
    assert found.text.tolist() == [0] * MAX_CODES


def test_a_role_without_texts_keeps_the_models_own_probabilities(exact_bundle: Bundle) -> None:
    """A shop on day one has no queries."""
    found = calibrate(OnnxGenerator.of(exact_bundle), [], Role.QUERY)
    assert (found.curve, found.error_before, found.error_after, found.pairs) == (identity_curve(), 0.0, 0.0, 0)


def ranking_of(*codes: int) -> Ranking:
    """Codes, best first; how likely they are is of no importance."""
    return Ranking(np.array(codes, np.int64), -np.arange(len(codes), dtype=float))


@pytest.mark.parametrize(
    ("codes", "gain"),
    [
        ((3, 1), 1.0 * 0.2 + 0.5 * 0.8 / math.log2(3)),
        ((1, 3), 0.5 * 0.8 + 1.0 * 0.2 / math.log2(3)),
        ((0, 2, 1), 0.5 * 0.8 / math.log2(4)),
        ((0, 2), 0.0),
        ((), 0.0),
    ],
)
def test_the_gain_of_codes_is_their_discounted_share_times_rarity(codes: tuple[int, ...], gain: float) -> None:
    """Σ P(code | query) · rarity / log2(place + 1); codes that nobody wants only take the place of others."""
    rarity = np.array([1.0, 0.8, 0.1, 0.2])
    assert code_gain(ranking_of(*codes), {1: 0.5, 3: 1.0}, rarity) == pytest.approx(gain)


QUERIES = [f"{name} {name}s" for name in ("sofa", "lamp", "kettle", "bicycle", "umbrella", "hammer")]


def test_the_arm_answers_alone_where_the_generator_knows_nothing(exact_bundle: Bundle, arm_by_heart: ByHeart) -> None:
    """The untrained generator only spoils what an arm knows by heart."""
    generator = OnnxGenerator.of(exact_bundle)
    arm = arm_by_heart(QUERIES, len(generator.codebook))
    texts = [
        CalibrationText(Role.QUERY, text, (entry.code,))
        for text, entry in zip(QUERIES, generator.codebook, strict=False)
    ]
    assert linear_share(generator, arm.for_serving(), texts) == 1.0


def test_an_arm_that_is_sure_and_wrong_gets_the_greatest_share_that_does_no_harm(
    exact_bundle: Bundle, arm_by_heart: ByHeart
) -> None:
    """The generator's best code of probability p stays first while (1 - s) · p > s: its gain asks no more than that."""
    generator = OnnxGenerator.of(exact_bundle)
    written = generator.rank(["sofa"], Role.QUERY, limit=len(generator.codebook))[0]
    best, p = int(written.code[0]), math.exp(written.log_probability[0])
    wrong, q = int(written.code[-1]), math.exp(written.log_probability[-1])
    arm = arm_by_heart([f"filler{at}" if at != wrong else "sofa" for at in range(wrong + 1)], len(generator.codebook))
    found = arm.probabilities("sofa")
    assert found is not None and int(found.argmax()) == wrong and found[wrong] > 0.999
    text = CalibrationText(Role.QUERY, "sofa", (generator.codebook[best].code,))
    assert linear_share(generator, arm.for_serving(), [text]) == max(
        share for share in SHARES if (1 - share) * (p - q) > share
    )


def test_products_and_queries_without_codes_say_nothing_about_the_share(
    exact_bundle: Bundle, arm_by_heart: ByHeart
) -> None:
    """Without a held-out query that wants a code the arm answers alone, as it does where none was held out."""
    generator = OnnxGenerator.of(exact_bundle)
    arm = arm_by_heart(QUERIES, len(generator.codebook))
    best = generator.codebook[generator.rank(["sofa"], Role.QUERY)[0].code[0]].code
    others = [CalibrationText(Role.PRODUCT, "sofa", (best,)), CalibrationText(Role.QUERY, "sofa", ())]
    assert [linear_share(generator, arm.for_serving(), texts) for texts in ([], others)] == [1.0, 1.0]
