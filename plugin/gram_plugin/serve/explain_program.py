"""What `gram explain` does: one query searched by its words and with its codes, straight in OpenSearch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from gram_plugin.contract.codes import Generator, Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import ConfigError, DecodeError
from gram_plugin.search.client import asking, connect
from gram_plugin.search.explaining import POINTS_PARAMETER, shown_codes, with_named_words
from gram_plugin.search.lexical import Lexical
from gram_plugin.search.mappings import check_index, read_calibration
from gram_plugin.search.moves import Explanation, Placed, moves_of
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.search.titles import read_title_keywords
from gram_plugin.serve.model import title_field
from gram_plugin.serve.settings import ShimSettings, variable

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

DEPTH = 100
"""Hits of each search that are looked at for ranks."""
TIMEOUT_S = 60.0
MAX_WHY = 4
"""Codes of one product that the table names."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person asked `gram explain` for; the shim's GRAM_ variables in `environment` count here too."""

    index: str
    text: str
    lexical: Lexical
    url: str
    bundle: Path | None = None
    ca_file: str | None = None
    mode: Mode | None = None
    shown: int = 10
    label_field: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def explain(wish: Wish) -> Explanation:
    """Decodes the text with the bundle and searches twice; as the shim would with the same settings.

    Raises:
        ConfigError: there is no bundle, or the mode is `off`.
        BundleError: the bundle cannot be used.
        CalibrationError: the index is not calibrated for the bundle's generation.
        MappingError: the index lacks the fields.
        SearchError: OpenSearch could not be reached or refused a search.
    """
    given = {"bundle": wish.bundle, "mode": wish.mode, "upstream_url": wish.url}
    flags = {variable(name): str(value) for name, value in given.items() if value is not None}
    settings = ShimSettings.from_mapping({**wish.environment, **flags})
    if settings.bundle is None:
        raise ConfigError("no bundle is set", next_step="pass --bundle or set GRAM_BUNDLE")
    if settings.mode is Mode.OFF:
        raise ConfigError("in mode off there are no codes to explain", next_step="pass --mode rerank or --mode recall")
    generator = OnnxGenerator.open(settings.bundle, threads=settings.threads)
    with connect(wish.url, ca_file=wish.ca_file, timeout_s=TIMEOUT_S) as client:
        return explain_with(client, generator, wish, settings)


def explain_with(client: OpenSearch, generator: Generator, wish: Wish, settings: ShimSettings) -> Explanation:
    """The same with a client and a model that are there.

    Raises:
        DecodeError: the text has no words.
        GramError: as `explain`.
    """
    rendered = render_query(wish.text)
    if not rendered:
        raise DecodeError("the query has no words", next_step="give the text that a shopper typed")
    fields = check_index(client, wish.index)
    calibration = read_calibration(client, wish.index, generation=generator.generation)
    clause = ClauseSettings(
        strength=calibration.points,
        tie_breaker=settings.tie_breaker,
        max_codes=settings.max_codes,
        weighted=fields.weighted,
        keep_exact=settings.keep_exact,
        titles=read_title_keywords(client, wish.index, title_field(generator)),
    )
    codes = tuple(generator.generate([rendered], Role.QUERY)[0])
    depth = max(DEPTH, wish.shown)
    body = {"query": wish.lexical(wish.text), "size": depth, "_source": {"excludes": [clause.field]}}
    enriched = enrich(body, codes, generator.generation, clause, settings.mode, text=wish.text)
    named = with_named_words(enriched, body["query"])
    found = moves_of(
        _hits(client, wish.index, body),
        _hits(client, wish.index, named, points=True),
        codes,
        clause,
        shown=wish.shown,
        label_field=wish.label_field,
    )
    mode, generation = str(settings.mode), generator.generation
    return Explanation(wish.index, wish.text, mode, generation, clause, codes, depth, found)


def show(found: Explanation, console: Console) -> None:
    """Three tables: the codes of the query, the products by their words, and the products with codes."""
    strength = found.settings.strength
    console.print(
        f"{found.query!r} in {found.index}, mode {found.mode}, generation {found.generation}: "
        f"a certain code of a certain product is worth {strength:g} points",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if not found.codes:
        console.print("The model gives this query no codes: the search stays as it is.", markup=False)
    else:
        console.print(_codes_table(found))
    console.print(_before_table(found))
    console.print(_after_table(found))


def _codes_table(found: Explanation) -> Table:
    table = Table("code", "P(code|query)", "rarity", "points at most", title="Codes of the query", title_justify="left")
    for code in shown_codes(found.codes, found.settings):
        numbers = (f"{code['probability']:.3f}", f"{code['rarity']:.2f}", f"{code['boost']:.3f}")
        table.add_row(_plain(code["code"]), *numbers)
    return table


def _before_table(found: Explanation) -> Table:
    table = Table("rank", "with codes", "product", "points", title="By the words alone", title_justify="left")
    for placed in found.moves.before:
        table.add_row(str(placed.before), _rank(placed.after, found.depth), _name(placed), _points(placed.lexical))
    return table


def _after_table(found: Explanation) -> Table:
    columns = ("rank", "before", "product", "points", "words", "codes", "why")
    table = Table(*columns, title="With codes", title_justify="left")
    for placed in found.moves.after:
        points = placed.points
        score, gained = (points.score, points.gained) if points else (None, None)
        before = "new" if points and points.lexical is None and placed.before is None else ""
        table.add_row(
            str(placed.after),
            before or _rank(placed.before, found.depth),
            _name(placed),
            _points(score),
            _points(placed.lexical),
            _points(gained),
            _why(placed),
        )
    return table


def _why(placed: Placed) -> str:
    """The strongest codes of a product and what each gave; JSON has all of them."""
    points = placed.points
    if points is None:
        return ""
    given = [
        f"{_plain(gain.code)} +{gain.points:.3f}" + (f" (weight {gain.weight:.2f})" if gain.weight is not None else "")
        for gain in points.codes
    ] or [_plain(code) for code in points.matched]
    more = [f"and {len(given) - MAX_WHY} more"] if len(given) > MAX_WHY else []
    exact = [f"exact words +{points.exact:.3f}"] if points.exact else []
    return "\n".join([*exact, *given[:MAX_WHY], *more]) or "words alone"


def _rank(rank: int | None, depth: int) -> str:
    return str(rank) if rank is not None else f"> {depth}"


def _points(points: float | None) -> str:
    return "–" if points is None else f"{points:.3f}"


def _name(placed: Placed) -> str:
    return _plain(f"{placed.id}  {placed.label[:60]}")


def _plain(text: str) -> str:
    """Brackets in catalogue text are not markup."""
    return text.replace("[", r"\[")


def _hits(client: OpenSearch, index: str, body: Mapping[str, Any], *, points: bool = False) -> list[dict[str, Any]]:
    from opensearchpy import exceptions as client_errors

    parameters = {POINTS_PARAMETER: "true"} if points else {}
    with asking(client, f"searching {index}"):
        try:
            answer = client.search(index=index, body=body, params=parameters)
        except client_errors.RequestError as error:
            if not points or POINTS_PARAMETER not in str(error):
                raise
            answer = client.search(index=index, body=body)  # before 2.12: names of codes, no points
    hits: list[dict[str, Any]] = answer["hits"]["hits"]
    return hits
