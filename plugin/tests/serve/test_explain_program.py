"""The tables of `gram explain`, and what it refuses before it asks anything."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gram_plugin.cli import build_app
from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.search.moves import Explanation, moves_of
from gram_plugin.search.query import ClauseSettings
from gram_plugin.serve.explain_program import show

CODES = (ScoredCode(Code.parse("type=sofa"), 0.5),)
SETTINGS = ClauseSettings(strength=2.0)
BEFORE = [
    {"_index": "shop", "_id": "1", "_score": 2.0, "_source": {"title": "A [red] lamp"}},
    {"_index": "shop", "_id": "2", "_score": 1.5, "_source": {"title": "A red couch"}},
    {"_index": "shop", "_id": "9", "_score": 1.0, "_source": {"title": "A red one"}},
]
AFTER = [
    {**BEFORE[1], "_score": 2.3, "matched_queries": {"gram": 1.5, "gram:type=sofa": 0.8}},
    {**BEFORE[0], "_score": 2.0, "matched_queries": {"gram": 2.0, "gram:exact": 0.25}},
    {
        "_index": "shop",
        "_id": "3",
        "_score": 0.5,
        "_source": {"title": "A settee"},
        "matched_queries": ["gram:type=sofa"],
    },
]


def said(codes: tuple[ScoredCode, ...] = CODES) -> list[str]:
    """Cells of all rows of the tables."""
    moves = moves_of(BEFORE, AFTER, codes, SETTINGS, shown=3, label_field="title")
    found = Explanation("shop", "red [couch]", "recall", "g1", SETTINGS, codes, 100, moves)
    stream = io.StringIO()
    show(found, Console(file=stream, width=160))
    return [" ".join(line.replace("│", " ").split()) for line in stream.getvalue().splitlines()]


def test_tables_say_what_moved_each_product() -> None:
    """Ranks before and after, points of words and codes, the codes by name; brackets of a title stay."""
    lines = said()
    assert (
        "'red [couch]' in shop, mode recall, generation g1: a certain code of a certain product is worth 2 points"
        in lines
    )
    for row in (
        "type=sofa 0.500 1.00 1.000",
        "1 2 1 A [red] lamp 2.000",
        "3 > 100 9 A red one 1.000",
        "1 2 2 A red couch 2.300 1.500 0.800 type=sofa +0.800 (weight 0.80)",
        "2 1 1 A [red] lamp 2.000 2.000 0.000 exact words +0.250",
        "3 new 3 A settee 0.500 – – type=sofa",
    ):
        assert row in lines


def test_many_codes_of_a_product_are_counted() -> None:
    """The table names the strongest and says how many more there are."""
    codes = tuple(ScoredCode(Code.parse(f"type=sofa_{number}"), 0.5 - number / 20) for number in range(6))
    named = {f"gram:{scored.code.text}": scored.probability for scored in codes}
    moves = moves_of([], [{**BEFORE[0], "matched_queries": named}], codes, SETTINGS, shown=1, label_field="title")
    stream = io.StringIO()
    show(Explanation("shop", "sofa", "recall", "g1", SETTINGS, codes, 100, moves), Console(file=stream, width=160))
    page = stream.getvalue().partition("With codes")[2]
    assert ["type=sofa_3 +0.350" in page, "type=sofa_4" in page, "and 2 more" in page] == [True, False, True]


def test_a_query_without_codes_says_so() -> None:
    """A table of no codes would look like a defect."""
    assert "The model gives this query no codes: the search stays as it is." in said(())


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 2, "no bundle is set"),
        (("--mode", "off", "--bundle", "x"), 2, "in mode off there are no codes to explain"),
        (("--bundle", "missing"), 1, "missing"),
        (("--type", "any"), 2, "--type is 'any'"),
        (("--query", "missing.json"), 2, "cannot be read as a query"),
    ],
)
def test_unusable_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, message: str
) -> None:
    """Each in one line, with an exit code."""
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(build_app(plugins=[]), ["explain", "products", "red", *options])
    assert (found.exit_code, message in found.output) == (code, True), found.output
