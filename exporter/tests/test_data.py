"""Training examples from feedback and from the catalogue."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from gram_exporter.codebook import CodebookSettings, build_codebook
from gram_exporter.data import CatalogueView, Example, catalogue_examples, feedback_examples, product_examples
from gram_plugin.contract.codes import Attribute
from gram_plugin.contract.words import is_part

SOFA, LAMP = Attribute.of("type", "sofa"), Attribute.of("type", "lamp")
BLUE, RED = Attribute.of("colour", "blue"), Attribute.of("colour", "red")
OWN = ((SOFA, BLUE), (SOFA, BLUE), (SOFA, RED), (SOFA, RED), (LAMP, BLUE), (LAMP, RED), (LAMP, BLUE), (LAMP, RED))
TITLES = tuple(f"{own[0].value} {own[1].value} mk{row}" for row, own in enumerate(OWN))
VIEW = CatalogueView(tuple(f"p{row}" for row in range(8)), TITLES, TITLES, OWN)
CODEBOOK = build_codebook(OWN, CodebookSettings(min_products=2, max_attributes=2, max_share=1.0))


def _codes(example: Example) -> list[str]:
    return [CODEBOOK.codes[at].text for at in example.codes]


def test_a_query_gets_what_its_products_share_beyond_the_catalogue() -> None:
    """'couch' was clicked on sofas of both colours: it means sofa, and no colour."""
    (example,) = feedback_examples({"Couch": {"p0": 1, "p1": 1, "p2": 1, "p3": 1}}, VIEW, CODEBOOK, per_query=3)
    assert (example.text, _codes(example)[0]) == ("couch", "type=sofa")
    assert not {"colour=blue", "colour=red"} & set(_codes(example))


def test_shares_are_the_smoothed_part_of_wanted_products() -> None:
    """With four wanted sofas of eight products the share is (4 + 0.5 * 0.5) / 4.5."""
    (example,) = feedback_examples({"couch": {"p0": 1, "p1": 1, "p2": 1, "p3": 1}}, VIEW, CODEBOOK, per_query=1)
    assert example.share == pytest.approx([(4 + 0.25) / 4.5])
    assert example.weights == pytest.approx([1.0])


def test_equal_queries_are_merged_and_unknown_products_passed_over() -> None:
    """Case and spacing make no new query; a query whose products are all gone makes no example."""
    examples = feedback_examples(
        {"Couch": {"p0": 1}, " couch ": {"p1": 1}, "gone": {"x": 1}, "": {"p1": 1}}, VIEW, CODEBOOK, per_query=3
    )
    assert [example.text for example in examples] == ["couch"]


def test_queries_made_from_the_catalogue_are_known_to_it() -> None:
    """Every made query is text of the catalogue, and its codes' weights sum to one."""
    examples = catalogue_examples(VIEW, CODEBOOK, count=12, per_query=4, seed=1)
    said = {word for title in TITLES for word in title.split()}
    assert examples
    assert all(set(example.text.split()) <= said for example in examples)
    assert [float(example.weights.sum()) for example in examples] == pytest.approx([1.0] * len(examples))


def test_a_title_may_go_on_where_its_rendered_text_was_cut() -> None:
    """Of words that no rendered text holds no query is made; the others make them as ever."""
    titles = tuple(f"{title} beyond the cut" for title in TITLES)
    view = CatalogueView(VIEW.ids, titles, TITLES, OWN)
    said = {word for title in TITLES for word in title.split()}
    examples = catalogue_examples(view, CODEBOOK, count=40, per_query=4, seed=1)
    assert examples
    assert {word for example in examples for word in example.text.split()} <= said


@pytest.mark.parametrize(
    ("kinds", "colours"),
    [
        (("书架", "沙发"), ("红色", "蓝色")),
        (("本棚", "ソファー"), ("赤い", "青い")),
        (("หนังสือ", "เก้าอี้"), ("สีแดง", "สีฟ้า")),
        (("किताब", "कुर्सी"), ("लाल", "नीली")),
        (("bücherregal", "stühle"), ("rot", "weiss")),
    ],
    ids=["chinese", "japanese", "thai", "hindi", "german"],
)
def test_made_queries_are_text_as_people_type_it(kinds: tuple[str, str], colours: tuple[str, str]) -> None:
    """In any script a query is a piece of a title, with spaces only where that has them, or values of attributes."""
    own = (
        tuple((Attribute.of("type", kind), Attribute.of("colour", colour)) for kind in kinds for colour in colours) * 2
    )
    space = "" if is_part(kinds[0]) else " "
    titles = tuple(f"{row}mk {two.value}{space}{one.value}" for row, (one, two) in enumerate(own))
    view = CatalogueView(tuple(f"p{row}" for row in range(8)), titles, titles, own)
    codebook = build_codebook(own, CodebookSettings(min_products=2, max_attributes=2, max_share=1.0))
    made = [example.text for example in catalogue_examples(view, codebook, count=60, per_query=4, seed=1)]
    values = {kinds[0], kinds[1], *colours}
    from_titles = [text for text in made if not set(text.split()) <= values]
    assert set(made) & values and from_titles
    assert [text for text in from_titles if not any(text in title for title in titles)] == []
    assert {unicodedata.category(text[0])[0] for text in made} <= {"L", "N"}


def test_characters_in_another_order_are_another_query() -> None:
    """A query of characters is for the products that say them in that order, not for those that hold them somewhere."""
    own = ((SOFA, BLUE), (SOFA, BLUE), (LAMP, RED), (LAMP, RED))
    titles = ("甲乙", "甲乙", "乙甲", "乙甲")
    codebook = build_codebook(own, CodebookSettings(min_products=2, max_attributes=1, max_share=1.0))
    view = CatalogueView(("p0", "p1", "p2", "p3"), titles, titles, ((),) * 4)
    found = {
        example.text: set(example.wanted.tolist())
        for example in catalogue_examples(view, codebook, count=9, per_query=4, seed=1)
    }
    assert found == {"甲乙": {0, 1}, "乙甲": {2, 3}}


def test_made_queries_follow_from_the_seed() -> None:
    """The same seed makes the same queries, another seed others."""
    made = [[e.text for e in catalogue_examples(VIEW, CODEBOOK, count=12, per_query=4, seed=s)] for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_products_put_first_what_queries_ask_for() -> None:
    """A code that queries ask for weighs more than one that nobody asks for."""
    asked = feedback_examples({"couch": {"p0": 1, "p1": 1, "p2": 1, "p3": 1}}, VIEW, CODEBOOK, per_query=1)
    examples = product_examples(VIEW, CODEBOOK, asked, per_product=2)
    assert len(examples) == len(VIEW.ids)
    assert _codes(examples[0])[0] == "type=sofa"
    np.testing.assert_array_equal(np.diff(examples[0].weights) <= 0, [True])
