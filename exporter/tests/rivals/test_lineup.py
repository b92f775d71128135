"""What rivals are made of: which judgments they are tuned and trained on, and the oracle's query."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from opensearchpy import OpenSearch

from gram_exporter.arms import ArmName
from gram_exporter.config import CatalogueConfig, Config, FeedbackConfig, SearchConfig
from gram_exporter.measures import Judgments
from gram_exporter.rivals.lineup import Lineup, RivalSettings, oracle_query
from gram_exporter.rivals.oracle import IndexCodes, OracleGenerator
from gram_plugin.contract.codes import Code
from gram_plugin.errors import ConfigError
from gram_plugin.search.query import ClauseSettings

TEST = {"Red  Sofa": {"a": 1.0}, "lamp": {"b": 1.0}}
SOFA = Code.parse("type=sofa")


def lineup(
    development: Judgments | None,
    *,
    feedback: FeedbackConfig | None = None,
    fuzzy: float = 0.0,
    encoder: Path | None = None,
) -> Lineup:
    """One that asks nobody."""
    config = Config(catalogue=CatalogueConfig(id="id", text=("title",)), feedback=feedback or FeedbackConfig())
    return Lineup(
        cast(OpenSearch, None),
        "shop",
        config,
        SearchConfig(fields=("title",), fuzzy=fuzzy),
        TEST,
        RivalSettings(development=development, encoder=encoder),
        lambda *_: None,
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ({"rug": {"c": 1.0}, "red sofa": {"a": 1.0}}, {"rug": {"c": 1.0}}),
        ({"RED SOFA": {"a": 1.0}}, None),
        ({"rug": {"c": 0.0}}, None),
    ],
)
def test_no_query_of_the_test_tunes_a_rival(given: Judgments | None, kept: Judgments | None) -> None:
    """However it is written; development judgments without anything relevant are none."""
    assert lineup(given).development == kept


def test_fine_tuning_reads_what_training_reads_less_the_development_queries(tmp_path: Path) -> None:
    """Wanted and unwanted products by rendered query; two that render alike are one."""
    path = tmp_path / "train.csv"
    path.write_text("query,docid,rating\nBlue Rug,c,2\nBlue Rug,d,0\nblue rug,e,1\nheld out,a,1\n", encoding="utf-8")
    found = lineup({"Held  Out": {"a": 1.0}}, feedback=FeedbackConfig(judgments=path)).feedback()
    assert (found.wanted, found.unwanted) == (
        {"blue rug": {"c": 1.0, "e": 0.5}},
        {"blue rug": frozenset({"d"})},
    )


def test_without_a_dense_arm_no_encoder_is_needed() -> None:
    """Nobody is asked for one."""
    assert lineup(None).rankings([ArmName.ORACLE, ArmName.RECALL]) == {}


def test_what_cannot_be_done_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    """A folder that is no encoder, and a fuzzy companion of a fuzzy query."""
    with pytest.raises(ConfigError, match=r"is no sentence encoder: model\.safetensors is missing"):
        lineup(None, encoder=tmp_path).check([ArmName.DENSE])
    with pytest.raises(ConfigError, match="the arm fuzzy is what the lexical query is already"):
        lineup(None, fuzzy=0.3).check([ArmName.FUZZY])
    lineup(None, encoder=tmp_path, fuzzy=0.3).check([ArmName.ORACLE, ArmName.RECALL])


def test_the_oracles_query_has_the_clause_of_recall() -> None:
    """A code of every relevant product counts in full; a query without codes is the lexical one."""
    oracle = OracleGenerator(IndexCodes("g1", {"a": (SOFA,), "b": ()}), TEST)

    def lexical(text: str) -> dict[str, Any]:
        return {"match": {"title": text}}

    query = oracle_query(lexical, oracle, ClauseSettings(3.0))
    feature = {"field": "gram.weights.g1/type=sofa", "linear": {}, "boost": 3.0, "_name": "gram:type=sofa"}
    assert query("lamp") == lexical("lamp")
    assert query("red sofa")["bool"]["should"] == [lexical("red sofa"), {"rank_feature": feature}]
