"""Codes that a query would have if its relevant products were known."""

from __future__ import annotations

import math

import pytest

from gram_exporter.rivals.oracle import IndexCodes, OracleGenerator
from gram_plugin.contract.codes import Code, Role

SOFA, RED, OAK = (Code.parse(text) for text in ("type=sofa", "colour=red", "material=oak"))
CODES = IndexCodes("g2", {"a": (SOFA, RED), "b": (SOFA,), "c": (OAK,), "d": ()})
JUDGED = {"Couch": {"a": 2.0, "b": 1.0, "c": 0.0}, "couch ": {"gone": 1.0}, "oak": {"c": 1.0}, "bare": {"d": 1.0}}


def test_a_code_weighs_as_the_share_of_relevant_products_that_carry_it() -> None:
    """Products that the index lacks do not count; the order is share times rarity; equal renderings are one query."""
    found = OracleGenerator(CODES, JUDGED).generate(["couch", "oak", "bare", "unknown"], Role.QUERY)
    rarity = {SOFA: math.log(2) / math.log(4), RED: 1.0, OAK: 1.0}
    assert CODES.rarity == {code: pytest.approx(value) for code, value in rarity.items()}
    assert [[(one.code, one.probability) for one in codes] for codes in found] == [
        [(RED, 0.5), (SOFA, 1.0)],
        [(OAK, 1.0)],
        [],
        [],
    ]


def test_it_is_a_generator_of_queries_only() -> None:
    """Of the index's generation, with the limit that it is given, and nothing to say of products."""
    oracle = OracleGenerator(CODES, JUDGED)
    assert oracle.generation == "g2"
    assert [len(codes) for codes in oracle.generate(["couch"], Role.QUERY, limit=1)] == [1]
    assert oracle.generate(["couch"], Role.PRODUCT) == [[]]
