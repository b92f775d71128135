"""Single queries without and with codes, for people to look at: the gained, the typical and the lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gram_exporter.arms import Arm, ask
from gram_exporter.evaluate import QUALITY_BUDGET_MS, Outcome
from gram_exporter.lexical import Lexical
from gram_exporter.measures import Judgments
from gram_exporter.report import ShownProduct, SideBySide
from gram_plugin.contract.codes import Generator, Role
from gram_plugin.contract.text import render_query
from gram_plugin.search.query import NAME_PREFIX

SHOWN = 5


@dataclass(frozen=True)
class Showing:
    """What is needed to put one query's pages side by side; `title_field` is what people read."""

    without: Arm
    with_codes: Arm
    index: str
    lexical: Lexical
    judgments: Judgments
    title_field: str
    generator: Generator

    def side_by_side(self, query: str, caption: str) -> SideBySide:
        """The first hits of both arms, and the codes of the clause that each product carries."""
        codes = self.generator.generate([render_query(query)], Role.QUERY)[0][:SHOWN]
        return SideBySide(
            query,
            caption,
            tuple(f"{scored.code.text} {scored.probability:.2f}" for scored in codes),
            self._page(self.without, query),
            self._page(self.with_codes, query),
        )

    def _page(self, arm: Arm, query: str) -> tuple[ShownProduct, ...]:
        body: dict[str, Any] = {"query": self.lexical(query), "size": SHOWN, "_source": [self.title_field]}
        if arm.mode is not None:
            body["ext"] = {"gram": {"query": query, "mode": arm.mode.value, "budget_ms": QUALITY_BUDGET_MS}}
        answer, _ = ask(arm, self.index, body)
        return tuple(self._product(hit, query) for hit in answer["hits"]["hits"])

    def _product(self, hit: Mapping[str, Any], query: str) -> ShownProduct:
        # An index's owner may name queries of his own.
        named = [name for name in hit.get("matched_queries", ()) if name.startswith(NAME_PREFIX)]
        title = str(hit.get("_source", {}).get(self.title_field, hit["_id"]))
        grade = self.judgments.get(query, {}).get(hit["_id"], 0.0)
        return ShownProduct(title, grade, tuple(name.removeprefix(NAME_PREFIX) for name in named))


def telling_queries(without: Outcome, with_codes: Outcome) -> list[tuple[str, str]]:
    """Up to three queries with a caption: the greatest gain in nDCG@10, the median one, and the greatest loss."""
    gains = with_codes.measures["nDCG@10"] - without.measures["nDCG@10"]
    order, queries = np.argsort(gains, kind="stable"), list(without.run)
    picked = {"most gained": order[-1], "typical": order[len(order) // 2], "most lost": order[0]}
    why_of: dict[int, str] = {}
    for why, at in picked.items():
        why_of.setdefault(int(at), why)
    return [(queries[at], f"{why}: nDCG@10 {gains[at]:+.2f}") for at, why in why_of.items()]
