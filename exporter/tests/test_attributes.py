"""What a catalogue teaches about phrases of text; finding attributes with it is tested with `contract.tagging`."""

from __future__ import annotations

import pytest

from gram_exporter.attributes import learn_lexicon, learn_terms
from gram_plugin.contract.codes import Attribute
from gram_plugin.contract.tagging import Lexicon, ProductText, product_attributes
from gram_plugin.contract.text import render_query

BLACK, BLUE = Attribute.of("colour", "black"), Attribute.of("colour", "blue")


def _product(text: str, *fields: Attribute) -> ProductText:
    return ProductText(text, text, fields)


def test_lexicon_learns_a_phrase_that_the_catalogue_confirms() -> None:
    """A field value said in titles stands for its attribute in texts that have no field."""
    products = [_product("shoe black", BLACK), _product("boot black", BLACK), _product("hat blue", BLUE)]
    assert learn_lexicon(products, min_products=2).match("a black scarf") == [BLACK]


def test_lexicon_drops_a_phrase_that_the_catalogue_contradicts() -> None:
    """A word that mostly stands beside another value of its type is no name for that type."""
    products = [_product("black friday hat", BLUE)] * 3 + [_product("scarf black", BLACK)] * 2
    assert learn_lexicon(products, min_products=2).match("black") == []


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
