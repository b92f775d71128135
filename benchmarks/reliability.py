"""Whether probabilities of codes mean what they say: `python benchmarks/reliability.py BUNDLE CATALOGUE JUDGMENTS`.

For each judged query the bundle says P(code | query); what came true is the part of the query's wanted products, by
rating, that carry the code for sure. Ten bins of as many codes each: the mean of what was said, the mean of what came
true, and a plot of both. Judgments must be of queries that neither training nor tuning has read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from figures import Table, show, show_place
from gram_exporter.calibration import BINS, expected_error
from gram_exporter.feedback import Judgments, read_judgments
from gram_plugin.contract.catalogue import read_catalogue
from gram_plugin.contract.codes import Code, Role
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import OnnxGenerator

WIDTH = 20
"""Characters from 0 to 1 in the plot."""
SAID, TRUE, BOTH = "o", "x", "#"

Floats = npt.NDArray[np.float64]


def main() -> None:
    """Reads the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="a trained bundle")
    parser.add_argument("catalogue", type=Path, help="products: JSONL, CSV or TSV")
    parser.add_argument("judgments", type=Path, help="query,docid,rating as CSV or TSV, or TREC qrels")
    chosen = parser.parse_args()
    generator = OnnxGenerator.open(chosen.bundle)
    products = read_catalogue(chosen.catalogue, id_field=generator.manifest.id_field)
    documents = {product.id: product.source for product in products}
    outcomes = list(observed(generator, documents, read_judgments(chosen.judgments)))
    show_place()
    show(table_of(np.array(outcomes, np.float64).reshape(-1, 2)))


def observed(
    generator: OnnxGenerator, documents: Mapping[str, Mapping[str, Any]], judgments: Judgments
) -> Iterator[tuple[float, float]]:
    """For each code of each query what was said of it and what came true, both 0 to 1."""
    carried: dict[str, frozenset[Code]] = {}
    for query, rated in judgments.items():
        wanted = {key: grade for key, grade in rated.items() if grade > 0 and key in documents}
        for key in wanted.keys() - carried.keys():
            carried[key] = frozenset(generator.tags.codes_of(documents[key]))
        (codes,) = generator.generate([render_query(query)], Role.QUERY)
        for scored in codes if wanted else ():
            mass = sum(grade for key, grade in wanted.items() if scored.code in carried[key])
            yield scored.probability, mass / sum(wanted.values())


def table_of(outcomes: Floats) -> Table:
    """Bins of as many outcomes each, the least sure first; `outcomes` (codes, 2): said, true."""
    said, true = outcomes.T
    error = expected_error(said, true)
    head = f"{len(outcomes):,} codes of queries, expected calibration error {error:.3f}"
    table = Table(head, ("said", "true", "codes", f"0 to 1: {SAID} said, {TRUE} true, {BOTH} both"))
    for part in np.array_split(np.argsort(said, kind="stable"), BINS):
        if part.size:
            means = float(said[part].mean()), float(true[part].mean())
            table.add(f"{means[0]:.3f}", f"{means[1]:.3f}", f"{part.size:,}", f"`{plotted(*means)}`")
    return table


def plotted(said: float, true: float) -> str:
    """A line from 0 to 1 with a mark for each."""
    line = ["."] * (WIDTH + 1)
    places = [round(WIDTH * min(max(share, 0.0), 1.0)) for share in (said, true)]
    for place, mark in zip(places, (SAID, TRUE), strict=True):
        line[place] = BOTH if line[place] != "." else mark
    return "".join(line)


if __name__ == "__main__":
    main()
