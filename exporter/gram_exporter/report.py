"""What an evaluation looks like to people: a table for the terminal and a page for the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rich.table import Table

from gram_exporter.evaluate import FAMILY_MEASURES, Evaluation, Row
from gram_exporter.measures import (
    EMPTY,
    FEWEST_TELLING,
    JUDGED,
    JUDGED_ONLY,
    MEASURES,
    MISSED_AT,
    RELEVANT,
    Interval,
)

QUALITY = (*MEASURES, RELEVANT, JUDGED, EMPTY)
COMPARED = ("nDCG@10", "R@100")
"""Measures that the terminal shows with the difference to the first arm and its interval; the rest is plain."""
PLAIN = (JUDGED, EMPTY)
BENCHMARK_ONLY = "benchmark only"
ARM_WIDTH = 16
"""Least width of the column of names: on a narrow terminal the figures break first."""
_STARS = f"* the interval excludes zero; never marked for fewer than {FEWEST_TELLING} queries."


@dataclass(frozen=True)
class ShownProduct:
    """One product on a page of results; `codes` are those of the clause that it carries."""

    title: str
    grade: float
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideBySide:
    """One query without and with codes."""

    query: str
    caption: str
    codes: tuple[str, ...]
    without: tuple[ShownProduct, ...]
    with_codes: tuple[ShownProduct, ...]


def table_of(evaluation: Evaluation, title: str) -> Table:
    """The figures that people decide by; differences to the first arm have 95 % intervals. The rest is in the JSON."""
    table = Table(title=f"{title}: {evaluation.queries} queries, 95 % bootstrap intervals", title_justify="left")
    table.add_column("arm", min_width=ARM_WIDTH)
    for name in (*COMPARED, *PLAIN, "found of missed", "ms"):
        table.add_column(name, justify="right")
    for at, row in enumerate(evaluation.rows):
        compared = [f"{row.measures[name].value:.3f}" for name in COMPARED]
        table.add_row(_name(row), *compared, *_plain_cells(row, is_base=not at))
        if at:
            table.add_row("", *[_difference(row.differences[name], evaluation.queries) for name in COMPARED])
    return table


def families_table(evaluation: Evaluation, measure: str) -> Table:
    """Differences in one of `FAMILY_MEASURES` to the first arm, by family of queries."""
    table = Table(title=f"{measure} against the first arm, by kind of query", title_justify="left")
    table.add_column("kind")
    table.add_column("queries", justify="right")
    for row in evaluation.rows[1:]:
        table.add_column(row.name, justify="right")
    for family in evaluation.families:
        table.add_row(family, *_family_cells(evaluation, family, measure))
    return table


def family_tables(evaluation: Evaluation) -> list[Table]:
    """A table for each of `FAMILY_MEASURES`; none where no families are known or there is one arm only."""
    measures = FAMILY_MEASURES if evaluation.families and len(evaluation.rows) > 1 else ()
    return [families_table(evaluation, measure) for measure in measures]


def side_by_side_table(pair: SideBySide) -> Table:
    """The first hits without and with codes; a star marks what the judgments call relevant."""
    table = Table(
        title=f"“{pair.query}” ({pair.caption})\ncodes: {', '.join(pair.codes) or 'none'}", title_justify="left"
    )
    table.add_column("BM25", max_width=50)
    table.add_column("BM25 + codes", max_width=50)
    table.add_column("moved by", max_width=40)
    for at in range(max(len(pair.without), len(pair.with_codes))):
        left = _title(pair.without[at]) if at < len(pair.without) else ""
        right = _title(pair.with_codes[at]) if at < len(pair.with_codes) else ""
        codes = ", ".join(pair.with_codes[at].codes) if at < len(pair.with_codes) else ""
        table.add_row(left, right, codes)
    return table


def page_of(
    evaluation: Evaluation, pairs: Sequence[SideBySide], *, title: str, facts: Mapping[str, str], notice: str
) -> str:
    """The whole report as one HTML page that needs nothing from elsewhere."""
    parts = [
        f"<h1>{escape(title)}</h1><p class=notice>{escape(notice)}</p>",
        _measures_html(evaluation),
        *[_families_html(evaluation, measure) for measure in FAMILY_MEASURES],
        "<h2>Three queries, without and with codes</h2>",
        *[_pair_html(pair) for pair in pairs],
        "<h2>How it was made</h2><dl>",
        *[f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()],
        "</dl>",
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _name(row: Row) -> str:
    return f"{row.name} ({BENCHMARK_ONLY})" if row.benchmark_only else row.name


def _plain_cells(row: Row, *, is_base: bool) -> list[str]:
    shares = [_percent(row.measures[name]) if name == EMPTY else f"{row.measures[name].value:.3f}" for name in PLAIN]
    found = None if is_base else row.found_of_missed[MISSED_AT[0]]
    return [*shares, _percent(found) if found else "", f"{row.median_ms.value:.1f}" if row.median_ms else ""]


def _percent(found: Interval) -> str:
    return f"{100 * found.value:.1f} %"


def _share(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _difference(found: Interval, queries: int) -> str:
    mark = " *" if found.excludes_zero and queries >= FEWEST_TELLING else ""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{mark}"


def _milliseconds(found: Interval | None) -> str:
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]" if found else "not timed"


def _title(product: ShownProduct) -> str:
    return f"{'★ ' if product.grade > 0 else '  '}{product.title}"


def _measures_html(evaluation: Evaluation) -> str:
    note = (
        f"{_STARS} Milliseconds are of one page of 10, arms taking turns, after a first pass over the same queries. "
        "Found of missed: the share of the relevant products that the first arm misses at that depth."
    )
    return (
        f"<h2>{evaluation.queries} test queries</h2>{_table_html(evaluation, QUALITY, others=True)}"
        f"<p>Values with 95 % bootstrap intervals over queries. {note}</p>"
        "<h2>Judged hits only</h2><p>The same with hits that nobody judged taken out of every ranking first.</p>"
        f"{_table_html(evaluation, tuple(JUDGED_ONLY.values()), others=False)}"
    )


def _table_html(evaluation: Evaluation, names: Sequence[str], *, others: bool) -> str:
    """Measures by arm; `others` adds what was found of the missed, and milliseconds."""
    further = (*[f"found of missed@{depth}" for depth in MISSED_AT], "median ms", "p99 ms") if others else ()
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in ('arm', *names, *further))}</tr>"]
    for at, row in enumerate(evaluation.rows):
        cells = [_share(row.measures[name]) for name in names]
        more = [*_found_cells(row, is_base=not at), _milliseconds(row.median_ms), _milliseconds(row.p99_ms)]
        lines.append(f"<tr><th>{escape(_name(row))}</th>{_cells([*cells, *(more if others else ())])}</tr>")
        if at:
            gains = [_difference(row.differences[name], evaluation.queries) for name in names]
            lines.append(f"<tr class=gain><th>difference</th>{_cells([*gains, *[''] * len(further)])}</tr>")
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _found_cells(row: Row, *, is_base: bool) -> list[str]:
    shares = [None if is_base else row.found_of_missed[depth] for depth in MISSED_AT]
    return [_share(found) if found else "" for found in shares]


def _families_html(evaluation: Evaluation, measure: str) -> str:
    if not evaluation.families:
        return ""
    arms = [row.name for row in evaluation.rows[1:]]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("kind of query", "queries", *arms))
    lines = [
        f"<tr><th>{escape(family)}</th>{_cells(_family_cells(evaluation, family, measure))}</tr>"
        for family in evaluation.families
    ]
    return (
        f"<h2>Difference in {measure} by kind of query</h2>"
        f"<div class=wide><table><tr>{head}</tr>{''.join(lines)}</table></div>"
    )


def _family_cells(evaluation: Evaluation, family: str, measure: str) -> list[str]:
    queries, found = evaluation.family_queries[family], evaluation.families[family]
    return [str(queries), *(_difference(found[row.name][measure], queries) for row in evaluation.rows[1:])]


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _pair_html(pair: SideBySide) -> str:
    codes = " ".join(f"<code>{escape(code)}</code>" for code in pair.codes) or "none"
    return (
        f"<section><h3>“{escape(pair.query)}” <small>{escape(pair.caption)}</small></h3><p>Codes: {codes}</p>"
        f"<div class=pair><div><h4>BM25</h4>{_list_html(pair.without)}</div>"
        f"<div><h4>BM25 + codes</h4>{_list_html(pair.with_codes)}</div></div></section>"
    )


def _list_html(products: Sequence[ShownProduct]) -> str:
    if not products:
        return "<p>No hits.</p>"
    items = (
        f"<li class={'good' if product.grade > 0 else 'other'}>{escape(product.title)}"
        f"{''.join(f' <code>{escape(code)}</code>' for code in product.codes)}</li>"
        for product in products
    )
    return f"<ol>{''.join(items)}</ol>"


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1.05rem}h4{margin:.3rem 0}
small{font-weight:normal;color:#57606a}.notice{color:#57606a}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.8rem}
th,td{padding:.35rem .5rem;border-bottom:1px solid #d0d7de;text-align:right;white-space:nowrap}
th:first-child{text-align:left}.gain{color:#57606a}
code{background:#eef1f4;border-radius:4px;padding:.05rem .35rem;font-size:.8rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}li{margin:.2rem 0}
li.good{border-left:4px solid #1a7f37;padding-left:.5rem}li.other{border-left:4px solid #d0d7de;padding-left:.5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{font-weight:600}dd{margin:0}
@media(max-width:50rem){.pair{grid-template-columns:1fr}}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}code{background:#21262d}
th,td{border-color:#30363d}.gain,.notice,small{color:#8d96a0}li.other{border-color:#30363d}}
"""
