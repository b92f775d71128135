"""Tests of exact matches: what names one thing, and the parts that keep its bearers on top."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import Code, ScoredCode
from gram_plugin.search.exact import exact_clauses, is_identifier, most_points, named_things, spellings
from gram_plugin.search.query import ClauseSettings, Mode, code_clause, enrich

SETTINGS = ClauseSettings(strength=10.0, tie_breaker=0.5)
FIELDS = ["title^3", "brand"]


def phrase(text: str, **options: Any) -> dict[str, Any]:
    """A phrase in the fields of the tests."""
    return {"multi_match": {"query": text, "type": "phrase", "fields": FIELDS, "lenient": True, **options}}


def part(name: str, *queries: dict[str, Any], boost: float = 11.0) -> dict[str, Any]:
    """One part that is worth a tenth more than 10 points."""
    found = queries[0] if len(queries) == 1 else {"bool": {"should": list(queries)}}
    return {"constant_score": {"filter": found, "boost": boost, "_name": name}}


def names(lexical: Mapping[str, Any], text: str | None = None) -> list[str]:
    """Names of the parts for a query."""
    return [found["constant_score"]["_name"] for found in exact_clauses(lexical, text, 10.0)]


IDENTIFIERS = (
    "VL-9983X wh-1000xm5 lo6743x rtx4090 G502 CR2032 SM/G991B B08N5WRWNW AB12CD34 ш-1230к "
    "4006381333931 978-3-16-148410-0 802749 １２３４５６７８ ＷＨ－１０００ ١٢٣٤٥٦٧٨"
)
MEASURES = (
    "sofa 13 2026 ps5 a4 mp3 iphone13 h7 m8x20 w32/l34 eu42 x 10-in-1 64gb 1.5l 2400mhz 500ml-flasche 2-pack 100-pack "
    "1080p 90s 9983x 100x200cm 1920x1080 5w-30 100-240v 5000k-6500k 1.000.000 12:30 24/7"
)
SPECIFICATIONS = (
    "ddr4-3200 DDR5-6000 lpddr5x-7500 h265 H.264 x265 hdr400 iso9001 RAL-7016 en20345 "
    "2024-12-31 31-12-2024 12-31-2024 2024-12 12-2024 2024–2025 2024-25 ２０２４-12-31"
)


@pytest.mark.parametrize("piece", IDENTIFIERS.split())
def test_identifiers(piece: str) -> None:
    """Letters mixed with three digits in a row, long mixtures and six digits name one thing, in any script."""
    assert is_identifier(piece)


@pytest.mark.parametrize("piece", MEASURES.split())
def test_measures_sizes_and_kinds_are_no_identifiers(piece: str) -> None:
    """A number with a unit, dimensions, a short kind or an amount names many things."""
    assert not is_identifier(piece)


@pytest.mark.parametrize("piece", SPECIFICATIONS.split())
def test_dates_and_numbers_of_standards_are_no_identifiers(piece: str) -> None:
    """They are written as model numbers are, but many things bear them."""
    assert not is_identifier(piece)


@pytest.mark.parametrize("piece", ["4711-0815", "1945-12345", "2024-12-31-5", "ddr4-3200-k2", "h2650", "isolde123"])
def test_what_only_begins_like_a_date_or_a_standard_is_an_identifier(piece: str) -> None:
    """The whole piece decides."""
    assert is_identifier(piece)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("wh-1000xm5 case", ["wh-1000xm5"]),
        ("索尼wh-1000xm5耳机", ["wh-1000xm5"]),
        ("(VL-9983X), 64 gb", ["VL-9983X"]),
        ('"dark roast" coffee', ["dark roast"]),
        ("kaffee „dunkle Röstung“ 500g", ["dunkle Röstung"]),
        ("café «torréfaction foncée»", ["torréfaction foncée"]),
        ("找「无线耳机」黑色", ["无线耳机"]),
        ("『東京 ガイド』", ["東京 ガイド"]),
        ("“one” »two« rtx4090 rtx4090 g502", ["one", "two", "rtx4090"]),
        ('monitor 24" or 27" black', []),
        ('coffee -"dark roast"', []),
        ('""  " "', []),
        ("power bank 100000 mAh, 250000 W", []),
        ("lamp 1000-2000 lumens 1000000lm", []),
        ("充电宝100000毫安", []),
        ("100000 mah充电宝", []),
        ("802749 wide", ["802749"]),
        ("802749 m", ["802749"]),
        ("4006381333931 pcs", ["4006381333931"]),
        ("VL-998300 w", ["VL-998300"]),
        ("red shoes size 42, 1.5l, 64 gb, 2-pack", []),
        ("", []),
    ],
)
def test_named_things_of_a_text(text: str, things: list[str]) -> None:
    """Quoted phrases in the quotes of several languages, then identifiers; never inches, exclusions or measures."""
    assert named_things(text) == things


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("ub5379k", ["ub5379k", "ub 5379k", "ub 5379 k"]),
        ("UB-5379K", ["UB-5379K", "UB5379K", "UB 5379K", "UB 5379 K"]),
        ("pp 1547c", ["pp 1547c", "pp1547c", "pp 1547 c"]),
        ("978-3-16-148410-0", ["978-3-16-148410-0", "9783161484100"]),
        ("dark roast", ["dark roast"]),
        ("wh-1000xm5 case", ["wh-1000xm5 case"]),
    ],
)
def test_spellings_of_an_identifier(typed: str, written: list[str]) -> None:
    """With and without its hyphen or space; a phrase of words only as it stands."""
    assert spellings(typed) == written


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("VL-9983X", ["gram:exact:VL-9983X"]),
        ("wh-1000xm5 case", ["gram:exact:wh-1000xm5", "gram:exact"]),
        ('"dark roast"', ["gram:exact:dark roast"]),
        ("rtx 4090", ["gram:exact"]),
        ("Low-top Shoe Corvello", ["gram:exact"]),
        ("Night Table", []),
        ("Haldemar Night Table", ["gram:exact"]),
        ("Transport Box, Sand", ["gram:exact"]),
        ("蓝牙降噪耳机", ["gram:exact"]),
        ("无线耳机", []),
        ("running shoes", []),
        ("ssd 500gb", []),
        ("ral 7016", []),
        ("ddr4 ram", []),
        ("ddr4-3200", []),
        ("h265 camera", []),
        ("power bank 100000 mah", ["gram:exact"]),
        ("iphone 13", []),
        ("x" * 300, []),
        (" ".join(["word"] * 60), []),
    ],
)
def test_which_parts_a_text_gets(text: str, found: list[str]) -> None:
    """One part for each named thing; one for the whole where it is long enough not to be a part of something else."""
    assert names({"multi_match": {"query": text, "fields": FIELDS}}) == found


@pytest.mark.parametrize(
    "query",
    [
        {"multi_match": {"query": "g502", "fields": FIELDS}},
        {"combined_fields": {"query": "g502", "fields": FIELDS, "operator": "and"}},
        {"simple_query_string": {"query": "+g502", "fields": FIELDS}},
        {"query_string": {"query": "g502~1", "fields": FIELDS}},
        {"bool": {"must": [{"multi_match": {"query": "g502", "fields": FIELDS}}, {"match": {"shop": "g502"}}]}},
        {"function_score": {"query": {"dis_max": {"queries": [{"multi_match": {"query": "g502", "fields": FIELDS}}]}}}},
        {
            "bool": {
                "should": [
                    {"multi_match": {"query": "g502", "fields": FIELDS, "type": kind, "fuzziness": 1}}
                    for kind in ("best_fields", "most_fields")
                ]
            }
        },
    ],
)
def test_the_fields_are_those_of_the_lexical_query(query: dict[str, Any]) -> None:
    """Wherever the words are searched, the phrase is looked for there, once."""
    assert exact_clauses(query, "g502", 10.0) == [part("gram:exact:g502", phrase("g502"), phrase("g 502"))]


def test_one_field_a_default_and_an_analyzer_are_kept() -> None:
    """A `match` has one field; a query without fields keeps the index's default; its analyzer reads the phrase too."""
    leaf = {"query": "802749", "analyzer": "simple"}
    looked = {"query": "802749", "type": "phrase", "lenient": True}
    match = {"multi_match": {"query": "802749", "type": "phrase", "fields": ["sku"], "lenient": True}}
    assert exact_clauses({"match": {"sku": "802749"}}, None, 10.0) == [part("gram:exact:802749", match)]
    assert exact_clauses({"multi_match": leaf}, None, 10.0) == [
        part("gram:exact:802749", {"multi_match": {**looked, "analyzer": "simple"}})
    ]
    field = {"query_string": {"query": "802749", "default_field": "sku"}}
    assert exact_clauses(field, None, 10.0) == [part("gram:exact:802749", match)]
    own = {"multi_match": {**looked, "fields": ["sku"], "analyzer": "simple"}}
    assert exact_clauses({"match": {"sku": leaf}}, None, 10.0) == [part("gram:exact:802749", own)]


def test_a_field_called_analyzer_names_none() -> None:
    """What stands under a field's name is its text."""
    looked = {"multi_match": {"query": "802749", "type": "phrase", "fields": ["analyzer"], "lenient": True}}
    for inner in ("802749", {"query": "802749"}):
        assert exact_clauses({"match": {"analyzer": inner}}, None, 10.0) == [part("gram:exact:802749", looked)]


def test_the_parts_stay_few_where_fields_are_many() -> None:
    """The whole query has 1024 clauses: first spellings come first, and a default of all fields counts as many."""
    text, fields = "g502 lo6743x mouse", [f"f{number}" for number in range(40)]
    looked: dict[str, list[str]] = {}
    for name, searched in (("many", {"fields": fields}), ("all", {}), ("pattern", {"fields": ["attr.*"]})):
        clauses = exact_clauses({"multi_match": {"query": text, **searched}}, None, 10.0)
        looked[name] = [found for clause in clauses for found in phrases_of(clause)]
    typed = ["g502", "lo6743x"]
    assert looked == {"many": [*typed, text], "all": typed, "pattern": typed}


def phrases_of(clause: Mapping[str, Any]) -> list[str]:
    """What one part looks for."""
    found = clause["constant_score"]["filter"]
    queries = found["bool"]["should"] if "bool" in found else [found]
    return [query["multi_match"]["query"] for query in queries]


def test_words_in_nested_objects_are_looked_for_there() -> None:
    """A phrase of a nested field needs the path, and an index without it is no error."""
    inside = {"nested": {"path": "offers", "query": {"match": {"offers.sku": "802749"}}, "score_mode": "max"}}
    match = {"multi_match": {"query": "802749", "type": "phrase", "fields": ["offers.sku"], "lenient": True}}
    nested = {"nested": {"path": "offers", "query": match, "ignore_unmapped": True}}
    assert exact_clauses(inside, None, 10.0) == [part("gram:exact:802749", nested)]


def test_quotes_of_a_query_string_are_read_from_it() -> None:
    """The text found in a query string has lost its quotes; what the query excludes is not looked for."""
    query = {"query_string": {"query": '"dark roast" coffee -"light roast"', "fields": FIELDS}}
    assert exact_clauses(query, "dark roast coffee", 10.0) == [
        part("gram:exact:dark roast", phrase("dark roast")),
        part("gram:exact", phrase("dark roast coffee")),
    ]


@pytest.mark.parametrize("query", [{"term": {"sku": "g502"}}, {"match_all": {}}, {}, None, {"knn": {"v": {}}}])
def test_a_query_without_words_gets_nothing(query: Any) -> None:
    """Where no field is known to be searched, none is."""
    assert exact_clauses(query, "g502", 10.0) == []


CODE_TEXTS = ("type=x", "type=x|brand=a", "type=x|brand=b", "brand=a", "brand=b", "colour=red", "type=y|brand=a")
_scored = st.builds(
    lambda text, probability, rarity: ScoredCode(Code.parse(text), probability, rarity),
    st.sampled_from(CODE_TEXTS),
    st.floats(1e-6, 1),
    st.floats(1e-6, 1),
)
_settings = st.builds(
    ClauseSettings,
    strength=st.floats(1e-3, 1e6),
    tie_breaker=st.floats(0, 1),
    max_codes=st.integers(1, 8),
    weighted=st.booleans(),
)


def points_of(clause: Mapping[str, Any], carried: Mapping[str, float]) -> float:
    """The slow reference: the score of a product that carries codes with these weights, as OpenSearch adds it up."""
    ((kind, inner),) = clause.items()
    if kind == "bool":
        return sum(points_of(query, carried) for query in inner["should"])
    if kind == "dis_max":
        points = [points_of(query, carried) for query in inner["queries"]]
        return max(points) + inner["tie_breaker"] * (sum(points) - max(points))
    weight = carried.get(inner["_name"].removeprefix("gram:"), 0.0)
    return float(inner["boost"]) * (weight if kind == "rank_feature" else float(weight > 0))


@given(
    st.lists(_scored, min_size=1, max_size=9),
    _settings,
    st.dictionaries(st.sampled_from(CODE_TEXTS), st.floats(1e-6, 1)),
    st.sampled_from([Mode.RERANK, Mode.RECALL]),
)
def test_no_codes_are_worth_as_much_as_an_exact_match(
    codes: list[ScoredCode], settings: ClauseSettings, carried: dict[str, float], mode: Mode
) -> None:
    """Whatever codes a query has and a product carries, together they give less than the exact part does."""
    clause = code_clause(codes, "g1", settings)
    assert clause is not None
    body = enrich({"query": {"multi_match": {"query": "g502", "fields": FIELDS}}}, codes, "g1", settings, mode)
    exact = body["query"]["bool"]["should"][-1]["constant_score"]
    assert points_of(clause, carried) <= most_points(clause) * (1 + 1e-9) < exact["boost"]


@given(st.text(alphabet=string.printable + "äßПхш「」„“«»“”无线١٢３－", max_size=120))
def test_any_text_is_read(text: str) -> None:
    """Named things are parts of the text, few, and stable under being read again."""
    things = named_things(text)
    assert len(things) <= 3
    assert all(thing in text and thing.strip() == thing for thing in things)
    assert all(spellings(thing)[0] == thing for thing in things)


def test_the_parts_stand_where_they_can_neither_add_nor_remove_a_hit() -> None:
    """Optional beside what must match: the lexical query in `rerank`, words or codes in `recall`."""
    lexical = {"multi_match": {"query": "g502", "fields": FIELDS}}
    codes = [ScoredCode(Code.parse("type=mouse"), 1.0, 1.0)]
    clause = code_clause(codes, "g1", SETTINGS)
    kept = part("gram:exact:g502", phrase("g502"), phrase("g 502"))
    either = {"bool": {"should": [lexical, clause], "minimum_should_match": "1"}}
    assert enrich({"query": lexical}, codes, "g1", SETTINGS, Mode.RERANK) == {
        "query": {"bool": {"must": [lexical], "should": [clause, kept]}}
    }
    assert enrich({"query": lexical}, codes, "g1", SETTINGS, Mode.RECALL) == {
        "query": {"bool": {"must": [either], "should": [kept]}}
    }


@pytest.mark.parametrize("mode", [Mode.RERANK, Mode.RECALL])
def test_the_guard_can_be_switched_off(mode: Mode) -> None:
    """Without `keep_exact` an identifier is a word like any other."""
    settings = ClauseSettings(strength=10.0, keep_exact=False)
    codes = [ScoredCode(Code.parse("type=mouse"), 1.0, 1.0)]
    body = enrich({"query": {"match": {"title": "g502"}}}, codes, "g1", settings, mode)
    assert "gram:exact" not in str(body)


def test_a_title_that_is_the_query_is_looked_for_in_its_keyword_fields() -> None:
    """Whatever the query searches, with its white space as one; a text without words, or a long one, is no title."""
    lexical = {"match": {"description": "night"}}
    (found,) = exact_clauses(lexical, " night \t lamp ", 10.0, ["title.keyword"])
    term = {"term": {"title.keyword": {"value": "night lamp", "case_insensitive": True}}}
    assert found == part("gram:equal", term)
    (several,) = exact_clauses({"match_all": {}}, "Überzug", 10.0, ["a", "b"])
    spelt = ["Überzug", "überzug", "ÜBERZUG"]
    terms = [{"term": {name: {"value": one, "case_insensitive": True}}} for name in ("a", "b") for one in spelt]
    assert several == part("gram:equal", *terms)
    assert exact_clauses(lexical, "- !", 10.0, ["t"]) == exact_clauses(lexical, None, 10.0, []) == []
    assert [found["constant_score"]["_name"] for found in exact_clauses(lexical, "long " * 60, 10.0, ["t"])] == []


def test_a_title_that_is_the_query_comes_with_the_parts_of_the_query() -> None:
    """It has more points than a product that only holds them."""
    found = exact_clauses({"match": {"title": "x"}}, "wh-1000xm5 case", 10.0, ["title.keyword"])
    assert [clause["constant_score"]["_name"] for clause in found] == [
        "gram:equal",
        "gram:exact:wh-1000xm5",
        "gram:exact",
    ]
