"""What a person asks `gram backfill` for, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gram_plugin.cli import build_app
from gram_plugin.errors import ConfigError
from gram_plugin.search.backfill import Slice, State
from gram_plugin.search.client import Address
from gram_plugin.search.productstore import Census
from gram_plugin.serve.backfill import Report
from gram_plugin.serve.backfill_checkpoint import Tally
from gram_plugin.serve.backfill_program import (
    Done,
    Wish,
    page_of,
    report_document,
    report_lines,
    settings_of,
    slice_of,
    survey_document,
    survey_lines,
)
from gram_plugin.serve.backfill_survey import Example, Survey
from gram_plugin.serve.settings import SidecarSettings

TALLY = Tally(read=10, fresh=2, coded=5, pending=1, failed=1, gone=1, again=3, by_codes={0: 1, 3: 4})
SURVEY = Survey(
    states={State.FRESH: 2, State.MISSING: 400},
    without_text=3,
    unreadable=1,
    sampled=200,
    sampled_pending=1,
    sample_s=4.0,
    examples=(Example("p1", ("g1/type=sofa", "g1/type=sofa|colour=red")), Example("p2", ())),
)


def wish(**more: Any) -> Wish:
    """A wish with what must be given."""
    given = {"url": "http://h", "bundle": Path("b"), "checkpoint": Path("c"), "dead_letters": Path("letters"), **more}
    return Wish(index="shop", **given)


@pytest.mark.parametrize(("environment", "entries"), [({}, 1000), ({"GRAM_CACHE_ENTRIES": "7"}, 7)])
def test_the_settings_are_those_of_a_sidecar_but_for_threads_and_a_small_cache(
    environment: dict[str, str], entries: int
) -> None:
    """`--threads` decides, whatever the environment says; little is remembered unless asked, as each is read once."""
    asked = wish(threads=3, environment={**environment, "GRAM_MAX_CODES": "5", "GRAM_THREADS": "9"})
    expected = SidecarSettings(upstream_url="http://h", threads=3, max_codes=5, cache_entries=entries)
    assert settings_of(asked, Address("http://h")) == expected


@pytest.mark.parametrize(("text", "expected"), [("0/1", Slice()), ("7/8", Slice(7, 8)), ("0/1024", Slice(0, 1024))])
def test_a_part_is_read(text: str, expected: Slice) -> None:
    """From 0, as the index of a Kubernetes Job."""
    assert slice_of(text) == expected


@pytest.mark.parametrize("text", ["", "1", "1/1", "8/8", "-1/2", "0/0", "a/b", "0/1025", "1/2/3", "0,5/2"])
def test_no_part_is_refused(text: str) -> None:
    """With an example of two."""
    with pytest.raises(ConfigError, match="expected part/parts") as caught:
        slice_of(text)
    assert "--slice 0/2" in caught.value.next_step


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 500), (0.5, 1), (20.0, 20), (9000.0, 500)])
def test_a_page_holds_no_more_than_a_second_may(rate: float, expected: int) -> None:
    """So that the rate is even; never none."""
    assert page_of(wish(rate=rate)) == expected


def test_a_report_says_what_became_of_every_product() -> None:
    """For a person in lines, for a program as one document."""
    done = Done(Report(TALLY, resumed=True), Census(20, 12, 3), "g1")
    assert report_lines(done, wish()) == [
        "10 products read: 2 had their codes, 5 coded, 1 pending, 1 failed, 1 gone",
        "with those of the interrupted run",
        "3 times a product was written meanwhile and read again",
        "2.40 codes per coded product: 1 with 0, 4 with 3",
        "the model could not read the pending products: the log has the reasons",
        "what failed and why is in letters",
        "shop has 20 products: 12 with g1, 3 pending, 5 others",
    ]
    assert report_document(done) == {
        "generation": "g1",
        "into": None,
        "read": 10,
        "fresh": 2,
        "coded": 5,
        "pending": 1,
        "failed": 1,
        "gone": 1,
        "again": 3,
        "by_codes": {"0": 1, "3": 4},
        "codes_per_product": 2.4,
        "resumed": True,
        "stopped": False,
        "index": {"products": 20, "coded": 12, "pending": 3},
    }


def test_a_report_of_a_copy_names_the_new_index() -> None:
    """And where the alias leads, unless it was stopped before."""
    lines = report_lines(Done(Report(Tally()), Census(2, 2, 0), "g1", "new"), wish(into="auto", alias="live"))
    assert lines[-2:] == ["the alias live leads to new", "new has 2 products: 2 with g1, 0 pending, 0 others"]
    stopped = report_lines(Done(Report(Tally(), stopped=True), Census(2, 2, 0), "g1", "new"), wish(alias="live"))
    assert not any("alias" in line for line in stopped)


def test_a_survey_says_what_would_be_done() -> None:
    """Counts, the time by the sample's speed, and codes of some products."""
    assert survey_lines(SURVEY, wish()) == [
        "402 products: 400 to be coded (2 fresh, 400 missing)",
        "3 of them have no text to read",
        "1 cannot be read and would be marked as pending",
        "about 8 s of coding: 200 of them took 4.0 s here, 50 a second; the model could not read 1",
        "p1: g1/type=sofa g1/type=sofa|colour=red",
        "p2: no codes",
        "nothing was written to shop",
    ]
    assert survey_document(SURVEY) == {
        "products": 402,
        "stale": 400,
        "states": {"fresh": 2, "missing": 400, "pending": 0, "generation": 0, "text": 0, "fields": 0},
        "without_text": 3,
        "unreadable": 1,
        "sampled": 200,
        "sampled_pending": 1,
        "sample_s": 4.0,
        "estimated_s": 8.0,
        "examples": {"p1": ["g1/type=sofa", "g1/type=sofa|colour=red"], "p2": []},
    }


def test_a_survey_of_an_empty_index_is_no_error() -> None:
    """There is nothing to estimate."""
    assert survey_lines(Survey(), wish()) == ["0 products: 0 to be coded (none)", "nothing was written to shop"]
    assert Survey().estimated_s == 0.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--into", "x"], "belong together"),
        (["--alias", "x"], "belong together"),
        (["--into", "x", "--alias", "y", "--follow"], "works alone"),
        (["--into", "x", "--alias", "y", "--slice", "0/2"], "works alone"),
        (["--slice", "2/2"], "expected part/parts"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], said: str) -> None:
    """Before anything is opened or asked."""
    done = CliRunner().invoke(build_app(plugins=[]), ["backfill", "shop", "--bundle", "missing", *arguments])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_clean_up_takes_no_wildcard() -> None:
    """It must never name what it did not mean."""
    done = CliRunner().invoke(build_app(plugins=[]), ["clean-up", "shop*", "--yes"])
    assert (done.exit_code, "without wildcards" in done.output) == (2, True), done.output
