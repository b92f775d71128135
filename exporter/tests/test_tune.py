"""Tuning, on a client that scores by rules one can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as LostError

from gram_exporter.config import CatalogueConfig, Config, SearchConfig, load_config, render_config
from gram_exporter.lexical import FORMS_TRIED
from gram_exporter.record import CALIBRATION_TEXTS, HELD, CalibrationText, write_calibration_texts, write_held
from gram_exporter.tune import MAX_QUERIES, STRENGTHS, Tuned, development_queries, tune_lexical, tune_strength
from gram_exporter.tuning import FEWEST_HELD, Tuning
from gram_plugin.contract.codes import MAX_CODES, Code, Role, ScoredCode
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import CalibrationError, JudgmentsError, SearchError
from gram_plugin.search.calibrate import DEFAULT_STRENGTH
from gram_plugin.search.query import ClauseSettings

DEV = {"sofa": {"a": 1.0}, "lamp": {"c": 2.0}, "nothing fits": {"a": 0.0}}
SOFA = ScoredCode(Code.parse("type=sofa"), 1.0)

Item = dict[str, Any]


def found(*ids: str) -> Item:
    """One answer of a multi-search."""
    return {"hits": {"hits": [{"_id": one, "_score": 1.0 / at} for at, one in enumerate(ids, start=1)]}}


@dataclass
class FakeClient:
    """Answers each body of a multi-search by a rule; counts and keeps mappings as OpenSearch does."""

    rule: Callable[[Mapping[str, Any]], Item]
    coded: int = 1
    mapping: dict[str, Any] = field(default_factory=dict)
    bodies: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def transport(self) -> Any:
        """The address."""
        return SimpleNamespace(hosts=[{"host": "fake", "port": 9}])

    @property
    def indices(self) -> Any:
        """Reads and writes the mapping of the one index."""
        return SimpleNamespace(
            get_mapping=lambda index: {index: {"mappings": self.mapping}},
            put_mapping=lambda index, body: self.mapping.update(body),
        )

    def msearch(self, *, body: Sequence[Mapping[str, Any]], index: str) -> dict[str, Any]:
        """Every second line is a body."""
        self.bodies += body[1::2]
        return {"responses": [self.rule(one) for one in body[1::2]]}

    def count(self, *, index: str, body: object) -> dict[str, int]:
        """How many products have codes."""
        return {"count": self.coded}


@dataclass
class FakeGenerator:
    """Every query is about sofas."""

    generation: str = "g1"

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """As the protocol says."""
        return [[SOFA] for _ in texts]


def client_of(client: FakeClient) -> OpenSearch:
    """The fake as what it stands for."""
    return cast(OpenSearch, client)


def points_of(body: object) -> float:
    """The largest boost or constant in a body: how strong its codes are; 0 without."""
    if isinstance(body, Mapping):
        own = [float(value) for key, value in body.items() if key == "boost"]
        return max([*own, *map(points_of, body.values())], default=0.0)
    return max(map(points_of, body), default=0.0) if isinstance(body, list) else 0.0


def lexical(text: str) -> dict[str, Any]:
    """A query without boosts."""
    return {"match": {"title": text}}


def strength(client: FakeClient, dev: Mapping[str, Mapping[str, float]] = DEV) -> Any:
    """Tunes with a score scale of 10 points."""
    return tune_strength(
        client_of(client), "shop", FakeGenerator(), lexical, dev, score_scale=10.0, settings=ClauseSettings(1.0)
    )


def best_from(points: float) -> Callable[[Mapping[str, Any]], Item]:
    """Finds what is wanted first from so many points on, and last below."""
    return lambda body: found("a", "c", "x") if points_of(body) >= points else found("x", "y", "a", "c")


def test_the_best_strength_is_kept_and_the_weakest_of_equals() -> None:
    """Strengths are tried with the lexical query alone as reference; of equally good ones the first is taken."""
    client = FakeClient(best_from(5.0))
    tuned = strength(client)
    assert list(tuned.scores) == [0.0, *STRENGTHS]
    assert tuned.strength == min(tuned.scores, key=lambda tried: (-tuned.scores[tried], tried))
    assert tuned.scores[tuned.strength] > tuned.scores[0.0]
    assert len(client.bodies) == 2 * (1 + len(STRENGTHS))


def test_the_reference_has_no_clause() -> None:
    """At strength 0 the lexical query goes out as it is."""
    client = FakeClient(lambda _: found("a", "c"))
    strength(client)
    assert client.bodies[0] == {"query": lexical("sofa"), "size": 100, "_source": False, "track_total_hits": False}
    assert "gram" in str(client.bodies[2])


def test_lexical_forms_are_compared_and_the_best_is_refined() -> None:
    """The form that finds most is the result, and its variations are tried after it."""
    told: list[tuple[str, int, int]] = []

    def rule(body: Mapping[str, Any]) -> Item:
        form = body["query"].get("multi_match", {})
        good = form.get("type") == "best_fields" and "title^3" in form["fields"]
        above = (0 if form["operator"] == "and" else 3) if good else 9
        return found(*("x" * at for at in range(1, above + 1)), "a", "c")

    best = tune_lexical(
        client_of(FakeClient(rule)),
        "shop",
        ("title", "text"),
        ("brand",),
        DEV,
        progress=lambda *all_: told.append(all_),
    )
    assert best == SearchConfig(type="best_fields", fields=("title^3", "text", "brand"), operator="and")
    assert told == [("tune BM25", at, FORMS_TRIED) for at in range(1, FORMS_TRIED + 1)]


REFUSED = {"error": {"root_cause": [{"reason": "no such field"}]}, "status": 400}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (REFUSED, "400 no such field"),
        ({"error": "plain words", "status": 500}, "500 plain words"),
        ({**found("a"), "_shards": {"failed": 2}}, "answered in part only, 2 shards failed"),
        ({**found("a"), "timed_out": True}, "answered in part only"),
    ],
)
def test_a_refused_or_partial_search_is_an_error(item: Item, words: str) -> None:
    """One bad item of a multi-search must not count as a query that found nothing."""
    client = FakeClient(lambda body: item if "lamp" in str(body) else found("a"))
    with pytest.raises(SearchError, match="a search of shop while tuning failed") as raised:
        strength(client)
    assert words in str(raised.value)


def test_a_server_that_goes_in_the_middle_is_named() -> None:
    """After some answers the connection is lost: the error says what was done and where."""

    def rule(body: Mapping[str, Any]) -> Item:
        if points_of(body) > 5:
            raise LostError("N/A", "connection refused", None)
        return found("a")

    with pytest.raises(SearchError, match="http://fake:9: tuning searches of shop failed: connection refused"):
        strength(FakeClient(rule))


def test_judgments_that_tune_nothing_are_refused() -> None:
    """No relevant product, or none of them ever found."""
    nothing = FakeClient(lambda _: found("elsewhere"))
    with pytest.raises(JudgmentsError, match="no query has a product with a grade above 0"):
        strength(nothing, {"sofa": {"a": 0.0}})
    with pytest.raises(JudgmentsError, match="docid in the judgments is the _id"):
        strength(nothing)
    with pytest.raises(JudgmentsError, match="docid in the judgments is the _id"):
        tune_lexical(client_of(nothing), "shop", ("title",), (), DEV)


def test_the_first_queries_are_enough() -> None:
    """At most 300 queries are used, in the order of the file, those without a relevant product left out."""
    many = {f"q{at}": {"a": float(at % 2)} for at in range(3 * MAX_QUERIES)}
    assert development_queries(many) == [f"q{at}" for at in range(1, 2 * MAX_QUERIES, 2)]


def tuning(client: FakeClient, strength: float | None = None, fields: tuple[str, ...] = ()) -> Tuning:
    """An index being tuned, without a bundle on disk."""
    catalogue = CatalogueConfig(path=Path("x.jsonl"), id="id", text=("title",), attributes={"brand": "brand"})
    generator, search = cast(OnnxGenerator, FakeGenerator()), SearchConfig(strength=strength, fields=fields)
    return Tuning(
        client_of(client), Config(catalogue=catalogue, search=search), "shop", search, generator, True, lambda *_: None
    )


def spread(_: object) -> Item:
    """A page whose scores lie half a point apart."""
    return found("a", "c")


def test_tuning_keeps_scale_and_strength_in_the_index(tmp_path: Path) -> None:
    """The calibration that is returned is the one in the mapping, for the model's generation."""
    client = FakeClient(spread)
    kept = tuning(client).calibrate(DEV, tmp_path)
    assert (kept.generation, kept.score_scale, kept.strength, kept.queries) == ("g1", 0.5, STRENGTHS[0], 2)
    assert client.mapping["_meta"]["gram"]["calibration"]["strength"] == kept.strength


def test_compared_strengths_are_told_with_their_scores(tmp_path: Path) -> None:
    """Once where judgments choose, and not at all where the strength is given."""
    told: list[Tuned] = []
    kept = tuning(FakeClient(spread)).calibrate(DEV, tmp_path, tell=told.append)
    assert [(tuned.strength, list(tuned.scores)) for tuned in told] == [(kept.strength, [0.0, *STRENGTHS])]
    tuning(FakeClient(spread), 0.77).calibrate(DEV, tmp_path, tell=told.append)
    assert len(told) == 1


def test_a_strength_of_gram_toml_is_kept(tmp_path: Path) -> None:
    """Whoever sets a strength gets it, with and without a search for the lexical query."""
    client = FakeClient(spread)
    given = tuning(client, 0.77)
    assert given.calibrate(DEV, tmp_path).strength == 0.77
    assert given.with_lexical(DEV).calibrate(DEV, tmp_path).strength == 0.77


def test_without_judgments_held_out_queries_are_measured(tmp_path: Path) -> None:
    """The scale comes from the queries that training kept apart, the strength is the default."""
    texts = [CalibrationText(Role.QUERY, "red sofa", ()), CalibrationText(Role.PRODUCT, "a product", ())]
    write_calibration_texts(tmp_path / CALIBRATION_TEXTS, texts)
    client = FakeClient(spread)
    kept = tuning(client).calibrate(None, tmp_path)
    assert (kept.queries, kept.strength, len(client.bodies)) == (1, DEFAULT_STRENGTH, 1)


@pytest.mark.parametrize(("queries", "tuned"), [(FEWEST_HELD, True), (FEWEST_HELD - 1, False)])
def test_without_judgments_held_out_feedback_chooses(tmp_path: Path, queries: int, tuned: bool) -> None:
    """Feedback that training kept apart is judgments enough, if there is enough of it."""
    write_calibration_texts(tmp_path / CALIBRATION_TEXTS, [CalibrationText(Role.QUERY, "red sofa", ())])
    write_held(tmp_path / HELD, {f"sofa {number}": {"a": 1.0} for number in range(queries)})
    told: list[Tuned] = []
    kept = tuning(FakeClient(spread)).calibrate(None, tmp_path, tell=told.append)
    assert (kept.queries, bool(told)) == ((queries, True) if tuned else (1, False))


@pytest.mark.parametrize("held", [None, "", '{"role": "query"', '{"role": "nobody", "text": "x", "codes": []}'])
def test_without_any_queries_nothing_is_measured(tmp_path: Path, held: str | None) -> None:
    """No file, an empty one, one that is cut, or a foreign one: an error that names it."""
    if held is not None:
        (tmp_path / CALIBRATION_TEXTS).write_text(held, encoding="utf-8")
    with pytest.raises(CalibrationError, match=CALIBRATION_TEXTS):
        tuning(FakeClient(spread)).calibrate(None, tmp_path)


def test_empty_judgments_are_not_none(tmp_path: Path) -> None:
    """Judgments that were given and hold nothing are an error, and not a reason to measure something else."""
    with pytest.raises(JudgmentsError):
        tuning(FakeClient(spread)).calibrate({}, tmp_path)


def test_an_index_without_codes_is_not_tuned(tmp_path: Path) -> None:
    """Every strength would be as good as any; the index stays as it was."""
    client = FakeClient(spread, coded=0)
    with pytest.raises(CalibrationError, match="no product of shop has codes of generation g1"):
        tuning(client).calibrate(DEV, tmp_path)
    assert client.mapping == {}


def test_the_tuned_search_can_be_written_down(tmp_path: Path) -> None:
    """What tuning chose is a valid [search]."""
    chosen = tuning(FakeClient(spread)).with_lexical(DEV)
    config = Config(catalogue=chosen.config.catalogue, search=chosen.search)
    (tmp_path / "gram.toml").write_text(render_config(config), encoding="utf-8")
    assert load_config(tmp_path / "gram.toml").search == chosen.search


@pytest.mark.parametrize(
    ("fields", "searched"),
    [
        ((), {"title", "brand"}),
        (("title^3", "everything"), {"title", "everything"}),
        (("name^2", "everything"), {"name", "everything"}),
    ],
)
def test_the_tuned_search_keeps_to_the_fields_of_the_given_one(fields: tuple[str, ...], searched: set[str]) -> None:
    """A trained attribute that is no searchable text is not asked; without fields, all of the catalogue's are."""
    chosen = tuning(FakeClient(spread), fields=fields).with_lexical(DEV).search.fields
    assert {field.partition("^")[0] for field in chosen} == searched
