"""Attributes from fields and from text."""

from __future__ import annotations

import pytest

from gram_exporter.attributes import learn_lexicon, learn_terms
from gram_plugin.contract.codes import Attribute
from gram_plugin.contract.tagging import (
    Lexicon,
    ProductText,
    field_attributes,
    product_attributes,
    product_text,
)
from gram_plugin.contract.text import render_query

BLACK, BLUE = Attribute.of("colour", "black"), Attribute.of("colour", "blue")
NO_TERMS = Lexicon({})


def _product(text: str, *fields: Attribute) -> ProductText:
    return ProductText(text, text, fields)


def test_field_attributes_take_lists_and_numbers_and_leave_out_booleans_and_prose() -> None:
    """Every value of a list is an attribute; booleans, empty and over-long values are none."""
    source = {"c": ["Black", "Blue"], "n": 17.0, "b": True, "long": "x" * 60, "empty": "  "}
    types = {"c": "colour", "n": "size", "b": "flag", "long": "other", "empty": "other"}
    assert field_attributes(source, types) == (BLACK, BLUE, Attribute.of("size", "17"))


def test_lexicon_learns_a_phrase_that_the_catalogue_confirms() -> None:
    """A field value said in titles stands for its attribute in texts that have no field."""
    products = [_product("shoe black", BLACK), _product("boot black", BLACK), _product("hat blue", BLUE)]
    assert learn_lexicon(products, min_products=2).match("a black scarf") == [BLACK]


def test_lexicon_drops_a_phrase_that_the_catalogue_contradicts() -> None:
    """A word that mostly stands beside another value of its type is no name for that type."""
    products = [_product("black friday hat", BLUE)] * 3 + [_product("scarf black", BLACK)] * 2
    assert learn_lexicon(products, min_products=2).match("black") == []


def test_longest_phrase_wins() -> None:
    """'running shoe' is one attribute, not also 'shoe'."""
    shoe, running = Attribute.of("type", "shoe"), Attribute.of("type", "running shoe")
    lexicon = Lexicon({("shoe",): (shoe,), ("running", "shoe"): (running,)})
    assert lexicon.match("red running shoe and shoe") == [running, shoe]


def test_text_adds_a_missing_type_and_never_contradicts_a_field() -> None:
    """A product whose colour field says blue is not also black because its text says so."""
    brand = Attribute.of("brand", "acme")
    lexicon = Lexicon({("black",): (BLACK,), ("acme",): (brand,)})
    found = product_attributes(ProductText("t", "acme black", (BLUE,)), lexicon, NO_TERMS)
    assert found == (BLUE, brand)


def test_bare_titles_get_terms_that_are_neither_rare_nor_everywhere() -> None:
    """Without any field, words that several titles share become attributes; words of all titles do not."""
    titles = ["shop oak table", "shop oak chair", "shop pine table", "shop lamp", *["shop"] * 20]
    terms = learn_terms(titles, min_products=2, max_terms=10)
    oak, table = Attribute.of("other", "oak"), Attribute.of("other", "table")
    assert product_attributes(ProductText("shop oak table", "", ()), Lexicon({}), terms) == (oak, table)


@pytest.mark.parametrize(
    ("titles", "name"),
    [
        (("红色书架 一号", "白色书架", "书架 橡木", "茶杯"), "书架"),
        (("赤いソファー", "ソファー 二人用", "青いソファー", "机"), "ソファー"),
        (("หนังสือใหม่", "ซื้อหนังสือ", "หนังสือ 2 เล่ม", "แก้ว"), "หนังสือ"),
        (("नई किताब", "हिन्दी किताब", "किताब 2", "मेज"), "किताब"),
        (("regal eiche", "weisses regal", "regal 2 böden", "stuhl"), "regal"),
    ],
    ids=["chinese", "japanese", "thai", "hindi", "german"],
)
def test_terms_are_words_as_they_are_written(titles: tuple[str, ...], name: str) -> None:
    """A word that three titles share is a term, whole and without spaces of ours, in any script."""
    terms = learn_terms([*titles, *(f"filler{at}" for at in range(20))], min_products=3, max_terms=10)
    assert list(terms.phrases.values()) == [(Attribute.of("other", name),)]
    assert [terms.match(title) for title in titles] == [[Attribute.of("other", name)]] * 3 + [[]]


@pytest.mark.parametrize(
    "name", ["运动休闲户外登山鞋男士专用", "รองเท้าวิ่งผู้ชายสีดำ", "रनिंग जूते", "wasserdichte leichte wanderschuhe für herren"]
)
def test_long_names_are_learned_in_any_script(name: str) -> None:
    """A field value of a dozen characters without spaces, or of five words, is found in texts."""
    shoe = Attribute.of("type", name)
    said = render_query(name)
    products = [_product(f"acme {said} 42", shoe), _product(f"{said} zed", shoe)]
    assert learn_lexicon(products, min_products=2).match(f"nike {said}") == [shoe]


def test_product_text_reads_title_and_fields() -> None:
    """The first text field is the title; all texts are normalised."""
    source = {"title": "BLACK  Shoe", "body": "Soft", "c": "Black"}
    assert product_text(source, ["title", "body"], {"c": "colour"}) == ProductText(
        "black shoe", "black shoe ; soft", (BLACK,)
    )
