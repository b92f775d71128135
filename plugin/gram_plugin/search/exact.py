"""Exact matches: which words of a query name one thing, and the part of the clause that keeps its bearers on top.

A model number, a quoted phrase, the whole query word by word and a title that is nothing but the query are what a
shopper has in front of him. Codes may order the products that hold them, and those that do not, but lift none of the
second above one of the first.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from gram_plugin.contract.text import MAX_QUERY_CHARS
from gram_plugin.contract.words import is_part, words
from gram_plugin.search.words import FIELD_QUERIES, Body, WordQuery, word_queries

NAME = "gram:exact"
"""Name of the part that holds the whole query; that of a part of it goes on with `:` and what it looks for."""

EQUAL = "gram:equal"
"""Name of the part that a product matches whose title is the whole query and no more."""

MARGIN = 1.1
"""A tenth more than codes can give, so that rounding of scores in 32 bits decides nothing."""

MAX_EXACT = 3
"""Most identifiers and phrases of one query that are looked for, besides the whole query."""
MAX_PARTS = 8
"""Most full-text parts of one query whose fields are looked in."""
MAX_CLAUSES = 128
"""Most clauses of all parts together, a phrase in a field being one: OpenSearch allows 1024 in the whole query."""
UNKNOWN_FIELDS = 64
"""Fields that a pattern such as `*` is taken for."""
MAX_CHARS = 256
"""Longest identifier, phrase or query that is looked for."""
FEWEST_WORDS = 3
"""A query of fewer words is too often a part of something else: `running shoes` of `socks for running shoes`.

Two characters count as one word in scripts that put no spaces between words.
"""
FEWEST_DIGITS = 3
"""Digits in a row that make a mixture of letters and digits a number of one thing; `ps5` and `a4` are kinds."""
FEWEST_DIGITS_ALONE = 6
LONG_MIXTURE = 8
"""Letters and digits of a mixture that is a number of one thing without a run of digits: `B08N5WRWNW`."""

_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"\w+")
_HINT = re.compile(r'\d|["＂“„«»「『]')
_QUOTED = re.compile(
    # An inch sign stands behind a digit, and what `-` excludes is not wanted.
    r'(?<![\d\\!-])["＂]([^"＂]++)["＂]|“([^“”]++)”|„([^„“”]++)[“”]|«([^«»]++)»|»([^«»]++)«|「([^「」]++)」|『([^『』]++)』'
)
_JOINERS = "-\u2010\u2011\u2012\u2013\uff0d_/.:+#"
_APART = dict.fromkeys(map(ord, _JOINERS), " ")
_SPACED = re.compile(r"[^\W\d_]{1,3}\s+\d{4,}[^\W\d_]?")
_DIMENSIONS = re.compile(r"\d+(?:[^\W\d_]\d+)+[^\W\d_]{0,3}")
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = re.compile(rf"{_YEAR} \d\d?(?: {_DAY})?|(?:{_DAY} )?{_MONTH} {_YEAR}|{_MONTH} {_DAY} {_YEAR}|{_YEAR} {_YEAR}")
_STANDARD = re.compile(r"[hx]\W?26\d|(?:lp|g)?ddr\d?[a-z]?\W?\d+|(?:hdr|iso|din|en|ral)\W?\d+", re.IGNORECASE)
"""Video codecs, memory, norms and colours: their numbers are built as those of models are, but many things have one."""
_UNITS = (
    "m?ah|k?wh|[mk]?w|watts?|k?v|volts?|btu|lm|lumens?|lux|rpm|u/min|[kmg]?hz|[kmgt]b|[mg]bps|dpi|px|pixels?|"
    "[mck]m|kg|mg|ml|oz|lbs?|psi|[km]?pa|iu|ie|pcs|pieces?|stück|hours?|hrs?|eur|euros?|usd|dollars?|gbp"
)
"""Not `m`, `l` and `g`: behind a number of six digits they are rather a size."""
_SPELT = r"[^\W\u2e80-\uffff]"
"""A digit or a letter of a script with spaces; a number may stand directly beside any other."""
_AMOUNT = re.compile(
    # A whole number of up to seven digits, or a range of two; an EAN is longer.
    rf"(?<!{_SPELT})(?<![{re.escape(_JOINERS)}])\d{{1,7}}+(?:[-\u2013]\d{{1,7}}+)?+\s*+"
    rf"(?:(?:{_UNITS})(?!{_SPELT})|[€$£%]|毫安|流明|ルーメン|[瓦伏万円元])",
    re.IGNORECASE,
)


def exact_clauses(lexical: Any, text: str | None, points: float, titles: Sequence[str] = ()) -> list[Body]:
    """Optional queries, each worth more than `points`, that only products with the exact words match.

    One for each identifier and quoted phrase, in any of its spellings, and one for the whole text; each as a phrase in
    the fields that the lexical query searches. One for titles that are the whole text, whatever its length. Empty where
    neither names one thing, or no field is known.

    Args:
        lexical: the customer's query.
        text: what the shopper typed, if the client said it; the texts of the query if None.
        points: the most that codes can give to one product, > 0.
        titles: fields that hold a product's title as one keyword (`titles.title_keywords`); an index without them is no
            error.
    """
    parts = word_queries(lexical)[:MAX_PARTS]
    whole = text or (parts[0].text if parts else "")
    boost = float(f"{points * MARGIN:.6g}")
    found = [_constant(boost, EQUAL, query) for query in _equal(whole, titles)]
    if parts:
        wanted = _wanted(whole, parts[0].wanted)
        room = max(1, MAX_CLAUSES // sum(map(_width, parts)))
        found += [_worth(boost, name, parts, phrases) for name, phrases in _within(wanted, room).items()]
    return found


def most_points(clause: Mapping[str, Any]) -> float:
    """The most points that a clause of codes gives to one product: all its codes, each surely the product's."""
    ((kind, inner),) = clause.items()
    if kind == "bool":
        return sum(map(most_points, inner["should"]))
    if kind == "dis_max":
        best, *others = sorted(map(most_points, inner["queries"]), reverse=True)
        return best + float(inner["tie_breaker"]) * sum(others)
    return float(inner["boost"])


def named_things(text: str) -> list[str]:
    """The quoted phrases and identifiers of a text, phrases first, each once, at most `MAX_EXACT`."""
    text = text[:MAX_QUERY_CHARS]
    if _HINT.search(text) is None:
        return []
    phrases = [next(filter(None, found.groups())).strip() for found in _QUOTED.finditer(text)]
    rest = _AMOUNT.sub(" ", _QUOTED.sub(" ", text))
    pieces = [piece for token in rest.split() if _DIGIT.search(token) for piece in _pieces(token)]
    found = [*phrases, *filter(is_identifier, pieces)]
    usable = [thing for thing in found if _WORD.search(thing) and len(thing) <= MAX_CHARS]
    return list(dict.fromkeys(usable))[:MAX_EXACT]


def is_identifier(piece: str) -> bool:
    """Whether a piece of a text, without white space, is a number of one thing rather than a measure or a word.

    True for mixtures of letters and digits with three digits in a row (`VL-9983X`, `rtx4090`) or of at least eight
    (`B08N5WRWNW`), and for six digits and more (an EAN, with or without hyphens). False for measures and sizes: a
    number with letters behind it (`64gb`, `1.5l`, `2-pack`), numbers with one letter between (`100x200cm`), ranges; for
    dates and years (`2024-12-31`, `2024-25`) and for numbers of a standard (`ddr4-3200`, `h265`, `iso9001`).
    """
    runs = _runs(piece)
    digits = [run for run in runs if run[0].isdecimal()]
    if len(digits) == len(runs):
        return sum(map(len, digits)) >= FEWEST_DIGITS_ALONE and not set(piece) & set(".:/+#_") and not _is_date(piece)
    if not digits or _is_measure(piece) or _STANDARD.fullmatch(piece):
        return False
    long = sum(map(len, runs)) >= LONG_MIXTURE and len(runs) > 2 and sum(map(len, digits)) >= FEWEST_DIGITS
    return long or max(map(len, digits)) >= FEWEST_DIGITS


def spellings(phrase: str) -> list[str]:
    """How one identifier may be written in a product, the given one first; another phrase is only written as it is.

    `ub5379k` is printed `UB-5379K`, `UB 5379K` or `UB5379K`; hyphens and spaces are one to most analyzers.
    """
    if not (_is_spaced(phrase) or (_pieces(phrase) == [phrase] and is_identifier(phrase))):
        return [phrase]
    flat = [run for piece in phrase.split() for run in _runs(piece)]
    written = [phrase, "".join(flat)]
    if not all(map(str.isdecimal, flat)):
        written += [f"{flat[0]} {''.join(flat[1:])}", " ".join(flat)]
    return list(dict.fromkeys(written))


def _wanted(whole: str, written: str) -> dict[str, list[str]]:
    """Name of each part to the spellings that it looks for; `written` is the text as the query holds it."""
    # Where the text was read from a query string, only the query still has its quotes.
    things = named_things(whole) + (named_things(written) if written != whole else [])
    wanted = {f"{NAME}:{thing}": spellings(thing) for thing in list(dict.fromkeys(things))[:MAX_EXACT]}
    if _is_one_thing(whole, wanted) and all(_WORD.findall(thing) != _WORD.findall(whole) for thing in things):
        wanted[NAME] = spellings(whole)
    return wanted


def _equal(whole: str, titles: Sequence[str]) -> list[Body]:
    """The query that titles match which are `whole`, however its letters are cased; none where nothing can."""
    value = " ".join(whole.split())
    if not titles or len(value) > MAX_CHARS or _WORD.search(value) is None:
        return []
    queries = [
        {"term": {field: {"value": spelt, "case_insensitive": True}}} for field in titles for spelt in _cased(value)
    ]
    return [queries[0] if len(queries) == 1 else {"bool": {"should": queries}}]


def _cased(value: str) -> list[str]:
    """The text in the cases that titles are written in, the given one first; OpenSearch folds ASCII by itself."""
    cases = [value] if value.isascii() else [value, value.lower(), value.upper(), value.capitalize(), value.title()]
    return list(dict.fromkeys(cases))


def _within(wanted: Mapping[str, list[str]], room: int) -> dict[str, list[str]]:
    """At most `room` phrases, each part's first spelling before anybody's second."""
    places = [(at, name) for name, phrases in wanted.items() for at in range(len(phrases))]
    kept = Counter(name for _, name in sorted(places, key=itemgetter(0))[:room])
    return {name: phrases[: kept[name]] for name, phrases in wanted.items() if kept[name]}


def _width(part: WordQuery) -> int:
    """How many clauses a phrase in its fields is about; nobody told which fields a pattern or the default means."""
    fields = _fields(part) or ["*"]
    return sum(UNKNOWN_FIELDS if "*" in str(field) else 1 for field in fields)


def _worth(boost: float, name: str, parts: Sequence[WordQuery], phrases: Sequence[str]) -> Body:
    queries = [_as_phrase(part, phrase) for part in parts for phrase in phrases]
    distinct = [query for at, query in enumerate(queries) if query not in queries[:at]]
    return _constant(boost, name, distinct[0] if len(distinct) == 1 else {"bool": {"should": distinct}})


def _constant(boost: float, name: str, query: Body) -> Body:
    return {"constant_score": {"filter": query, "boost": boost, "_name": name}}


def _as_phrase(part: WordQuery, phrase: str) -> Body:
    """The phrase in the fields of a full-text part; `lenient`, for a field of numbers holds no phrase."""
    fields = _fields(part)
    analyzer = _analyzer(part)
    options = {} if analyzer is None else {"analyzer": analyzer}
    searched = {"fields": fields} if fields else {}
    query: Body = {"multi_match": {"query": phrase, "type": "phrase", **searched, "lenient": True, **options}}
    for path in reversed(part.nested):
        query = {"nested": {"path": path, "query": query, "ignore_unmapped": True}}
    return query


def _fields(part: WordQuery) -> list[Any]:
    """The fields that a part searches; empty stands for those that the index searches by default."""
    if part.kind in FIELD_QUERIES:
        return list(part.inner)
    fields = part.inner.get("fields") or part.inner.get("default_field") or []
    return list(fields) if isinstance(fields, list) else [fields]


def _analyzer(part: WordQuery) -> str | None:
    """The analyzer that a part names; where its keys are fields, below its field."""
    options = next(iter(part.inner.values())) if part.kind in FIELD_QUERIES else part.inner
    named = options.get("analyzer") if isinstance(options, Mapping) else None
    return named if isinstance(named, str) else None


def _is_one_thing(text: str, things: Collection[str]) -> bool:
    """Whether a whole text is looked for word by word: a long one, or one with a named thing and something else."""
    if len(text) > MAX_CHARS:
        return False
    return (bool(things) and len(text.split()) > 1) or _is_long(text) or _is_spaced(text)


def _is_long(text: str) -> bool:
    apart = text.translate(_APART)
    if text.isascii():
        return len(_WORD.findall(apart)) >= FEWEST_WORDS
    found = words(apart)
    return len(found) - sum(map(is_part, found)) / 2 >= FEWEST_WORDS


def _is_spaced(text: str) -> bool:
    """Whether a whole text is one identifier with a space for its hyphen: `rtx 4090`, `vl 9983x`, not `ssd 500gb`."""
    return _SPACED.fullmatch(text.strip()) is not None and _STANDARD.fullmatch(text.strip()) is None


def _is_date(piece: str) -> bool:
    return _DATE.fullmatch(unicodedata.normalize("NFKC", piece).translate(_APART)) is not None


def _is_measure(piece: str) -> bool:
    """Whether every part of a piece is a number, or begins with one; or a number is followed by words alone."""
    parts = re.split(f"[{re.escape(_JOINERS)}]+", piece)
    first = [run[0].isdecimal() for run in _runs(piece)]
    if first[0] and not any(first[1:]):
        return True
    return all((len(_runs(part)) <= 2 and part[:1].isdecimal()) or _DIMENSIONS.fullmatch(part) for part in parts)


def _pieces(text: str) -> list[str]:
    """Runs of digits and of letters that have cases, with what joins them; scripts without cases write no numbers."""
    found = ("".join(run).strip(_JOINERS) for inside, run in groupby(text, _belongs) if inside)
    return [piece for piece in found if piece]


def _belongs(character: str) -> bool:
    return character in _JOINERS or character.isdecimal() or _is_letter(character)


def _is_letter(character: str) -> bool:
    return character.lower() != character.upper() or unicodedata.category(character).startswith("M")


def _runs(piece: str) -> list[str]:
    """The runs of letters and of digits of a piece, without joiners."""
    kinds = groupby(piece, lambda character: (character in _JOINERS, character.isdecimal()))
    return ["".join(run) for (joining, _), run in kinds if not joining]
