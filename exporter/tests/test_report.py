"""Tables and the page."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from gram_exporter.evaluate import Evaluation, Row
from gram_exporter.measures import ALL, Interval
from gram_exporter.report import ShownProduct, SideBySide, family_tables, page_of, side_by_side_table, table_of

POINT, GAIN = Interval(0.5, 0.4, 0.6), Interval(0.1, 0.05, 0.15)
FOUND = Interval(0.25, 0.2, 0.3)


def _row(name: str, *, timed: bool = True) -> Row:
    measures, gains = dict.fromkeys(ALL, POINT), dict.fromkeys(ALL, GAIN)
    times = POINT if timed else None
    return Row(name, measures, gains, {100: FOUND, 300: None}, times, times, {"direct": 1}, {}, not timed)


CODES = {"nDCG@10": GAIN, "R@100": GAIN}
EVALUATION = Evaluation(
    70,
    (_row("BM25"), _row("BM25 + codes"), _row("oracle", timed=False)),
    {"synonym": {"BM25 + codes": CODES, "oracle": CODES}},
    {"synonym": 20},
)
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
    text = _printed(table_of(EVALUATION, "shop"), *family_tables(EVALUATION), side_by_side_table(PAIR))
    for expected in ("0.500", "+0.100 [+0.050, +0.150] *", "shop: 70 queries", "judged@10", "50.0 %", "★ A & B"):
        assert expected in text
    assert [text.count(title) for title in ("nDCG@10 against the first arm", "R@100 against the first arm")] == [1, 1]
    lines = {name: next(line for line in text.splitlines() if f" {name} " in line) for name in ("BM25", "BM25 + codes")}
    assert {name: "25.0 %" in line for name, line in lines.items()} == {"BM25": False, "BM25 + codes": True}


def test_an_arm_that_is_no_product_says_so() -> None:
    """It is marked in the table and on the page, and has no milliseconds."""
    page = page_of(EVALUATION, [], title="t", facts={}, notice="n")
    assert "oracle (benchmark only)" in _printed(table_of(EVALUATION, "shop"))
    assert ("oracle (benchmark only)" in page, page.count("not timed")) == (True, 2)


def test_the_page_has_every_measure() -> None:
    """Also those of judged hits only, each with its interval, and what was found of the missed at both depths."""
    page = page_of(EVALUATION, [], title="t", facts={}, notice="n")
    assert all(f"<th>{name}</th>" in page for name in (*ALL, "found of missed@100", "found of missed@300"))
    assert (page.count("0.500 [0.400, 0.600]"), page.count("0.250 [0.200, 0.300]")) == (3 * len(ALL), 2)


@pytest.mark.parametrize(("queries", "stars"), [(19, 0), (20, 4)])
def test_few_queries_get_no_star(queries: int, stars: int) -> None:
    """A family of fewer than 20 queries is shown with their number and without a mark, on the page as in the table."""
    evaluation = dataclasses.replace(EVALUATION, queries=1, family_queries={"synonym": queries})
    text = _printed(table_of(evaluation, "shop"), *family_tables(evaluation))
    page = page_of(evaluation, [], title="t", facts={}, notice="n")
    assert (text.count("] *"), page.count("] *")) == (stars, stars)
    assert f" {queries} " in text and f"<td>{queries}</td>" in page


def test_page_escapes_what_shoppers_typed() -> None:
    """A query is text on the page, never markup; every arm, family, product and code is there."""
    page = page_of(EVALUATION, [PAIR], title="t", facts={"Catalogue": "<x>"}, notice="synthetic sample shop")
    assert "<script" not in page
    for expected in ("&lt;script&gt;", "A &amp; B", "<code>type=sofa</code>", "&lt;x&gt;", "synonym", "No hits."):
        assert expected in page


def test_a_narrow_terminal_cuts_no_figure() -> None:
    """On 80 columns figures break into lines, and nothing of them is left out."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table_of(EVALUATION, "shop"))
    text = console.export_text()
    assert "…" not in text
    assert all(part in text for part in ("[+0.050,", "+0.150]", "25.0 %"))
