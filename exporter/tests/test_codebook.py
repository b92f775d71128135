"""Which combinations become codes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.codebook import Codebook, CodebookSettings, build_codebook, code_report
from gram_plugin.contract.codes import Attribute, Code
from gram_plugin.errors import TrainingError

SHOE, HAT = Attribute.of("type", "shoe"), Attribute.of("type", "hat")
ACME, ZED = Attribute.of("brand", "acme"), Attribute.of("brand", "zed")
RED = Attribute.of("colour", "red")
WIDE = CodebookSettings(min_products=2, max_attributes=3, max_share=1.0)


def _texts(codebook: Codebook) -> dict[str, int]:
    return {code.text: int(n) for code, n in zip(codebook.codes, codebook.support, strict=True)}


def test_codes_are_shared_combinations_that_say_more_than_their_parts() -> None:
    """A pair is kept when enough products share it and it is narrower than each of its parts."""
    products = [[SHOE, ACME], [SHOE, ACME], [SHOE, ZED], [SHOE, ZED], [HAT, ACME], [HAT, ZED]]
    assert _texts(build_codebook(products, WIDE)) == {
        "type=shoe": 4,
        "type=hat": 2,
        "brand=acme": 3,
        "brand=zed": 3,
        "type=shoe|brand=acme": 2,
        "type=shoe|brand=zed": 2,
    }


def test_a_pair_that_repeats_its_part_is_left_out() -> None:
    """When every red product is a shoe, shoe + red recalls what red recalls."""
    assert "type=shoe|colour=red" not in _texts(build_codebook([[SHOE, RED], [SHOE, RED], [SHOE], [HAT]], WIDE))


def test_a_code_of_everything_is_no_code() -> None:
    """An attribute of more than the allowed share of products has no posting list of its own."""
    settings = CodebookSettings(min_products=2, max_share=0.5)
    found = _texts(build_codebook([[SHOE, RED], [SHOE, RED], [SHOE], [SHOE]], settings))
    assert found == {"colour=red": 2}


def test_attributes_that_nobody_shares_are_an_error_with_the_way_out() -> None:
    """The message names the setting to change."""
    with pytest.raises(TrainingError, match=r"no attribute is shared by 2 of the 2 products.*min_products"):
        build_codebook([[SHOE], [HAT]], WIDE)


def test_attributes_that_nearly_all_share_are_another_error() -> None:
    """Where every shared attribute is above the largest share, the message says so and names that setting."""
    with pytest.raises(TrainingError, match=r"on more than 50% of the 4 products.*codes\.max_share"):
        build_codebook([[SHOE], [SHOE], [SHOE], [SHOE, RED]], CodebookSettings(min_products=2, max_share=0.5))


def test_a_catalogue_without_any_attribute_is_another_error() -> None:
    """Where neither fields nor titles gave an attribute, the message speaks of those."""
    with pytest.raises(TrainingError, match=r"none of the 2 products has an attribute.*catalogue\.attributes"):
        build_codebook([[], []], CodebookSettings())


def test_codes_of_six_attributes_are_a_matter_of_seconds() -> None:
    """Combinations are grown from those that products share, not picked from all that could be made."""
    rng = np.random.default_rng(1)
    many = [[Attribute.of("other", f"v{at}-{value}") for value in range(40)] for at in range(23)]
    products = [[SHOE, *(values[int(rng.integers(40))] for values in many)] for _ in range(300)]
    started = time.process_time()
    build_codebook(products, CodebookSettings(min_products=3, max_attributes=6, max_share=1.0))
    assert time.process_time() - started < 5


@given(st.lists(st.lists(st.sampled_from([SHOE, HAT, ACME, ZED, RED]), max_size=4), min_size=2, max_size=12))
def test_carried_is_exactly_who_holds_all_attributes(products: list[list[Attribute]]) -> None:
    """For every code and product: carried if and only if all of the code's attributes are the product's."""
    try:
        codebook = build_codebook(products, WIDE)
    except TrainingError:
        return
    expected = [[float(set(code.attributes) <= set(own)) for code in codebook.codes] for own in products]
    np.testing.assert_array_equal(codebook.carried.toarray(), np.asarray(expected, dtype=np.float32))


def test_report_counts_products_without_code() -> None:
    """The report is the shape of the index to come."""
    report = code_report(build_codebook([[SHOE, ACME], [SHOE], [HAT]], WIDE))
    assert report == {
        "codes": 1.0,
        "products": 3.0,
        "products_without_code": 1.0,
        "products_per_code_median": 2.0,
        "products_per_code_max": 2.0,
        "codes_per_product_mean": pytest.approx(2 / 3),
    }


def test_entries_carry_support() -> None:
    """The bundle's codebook has the number of products of each code."""
    entries = build_codebook([[SHOE], [SHOE]], WIDE).entries()
    assert [(entry.code, entry.products) for entry in entries] == [(Code.of([SHOE]), 2)]
