"""Tables and the page."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from gram_exporter.evaluate import Evaluation, Row
from gram_exporter.measures import EMPTY, JUDGED, MEASURES, Interval
from gram_exporter.report import ShownProduct, SideBySide, families_table, page_of, side_by_side_table, table_of

POINT, GAIN = Interval(0.5, 0.4, 0.6), Interval(0.1, 0.05, 0.15)
NAMES = (*MEASURES, EMPTY, JUDGED)


def _row(name: str) -> Row:
    return Row(name, dict.fromkeys(NAMES, POINT), dict.fromkeys(NAMES, GAIN), POINT, POINT, {"direct": 1})


EVALUATION = Evaluation(70, (_row("BM25"), _row("BM25 + codes")), {"synonym": {"BM25 + codes": GAIN}}, {"synonym": 20})
PAIR = SideBySide(
    "<script>",
    "most gained",
    ("type=sofa 0.90",),
    (),
    (ShownProduct("A & B", 1.0, ("type=sofa",)), ShownProduct("C", 0.0)),
)


def _printed(*tables: object) -> str:
    console = Console(width=250, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def test_table_has_values_intervals_and_marks() -> None:
    """Each arm has its figures; a difference whose interval excludes zero is starred."""
    text = _printed(table_of(EVALUATION, "shop"), families_table(EVALUATION), side_by_side_table(PAIR))
    assert "0.500 [0.400, 0.600]" in text
    assert "+0.100 [+0.050, +0.150] *" in text
    assert "shop: 70 queries" in text
    assert "judged@10" in text
    assert "★ A & B" in text


@pytest.mark.parametrize(("queries", "stars"), [(19, 0), (20, 1)])
def test_few_queries_get_no_star(queries: int, stars: int) -> None:
    """A family of fewer than 20 queries is shown with their number and without a mark, on the page as in the table."""
    evaluation = dataclasses.replace(EVALUATION, queries=1, family_queries={"synonym": queries})
    text = _printed(table_of(evaluation, "shop"), families_table(evaluation))
    page = page_of(evaluation, [], title="t", facts={}, notice="n")
    assert (text.count("] *"), page.count("] *")) == (stars, stars)
    assert f" {queries} " in text and f"<td>{queries}</td>" in page


def test_page_escapes_what_shoppers_typed() -> None:
    """A query is text on the page, never markup; every arm, family, product and code is there."""
    page = page_of(EVALUATION, [PAIR], title="t", facts={"Catalogue": "<x>"}, notice="synthetic sample shop")
    assert "<script" not in page
    for expected in ("&lt;script&gt;", "A &amp; B", "<code>type=sofa</code>", "&lt;x&gt;", "synonym", "No hits."):
        assert expected in page
