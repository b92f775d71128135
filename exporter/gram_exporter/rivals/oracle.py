"""The oracle: codes that a query would have if the judgments were known. It bounds what any model can do with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from opensearchpy import OpenSearch
from opensearchpy.helpers import scan

from gram_exporter.measures import Judgments
from gram_plugin.contract.codes import MAX_CODES, Code, Role, ScoredCode, parse_stored
from gram_plugin.contract.text import render_query
from gram_plugin.decode.generator import rarity_of
from gram_plugin.errors import CalibrationError
from gram_plugin.search.client import asking

FIELD = "gram.codes"


@dataclass(frozen=True)
class IndexCodes:
    """The codes in an index: `of` product id to its codes, all of one model generation."""

    generation: str
    of: Mapping[str, tuple[Code, ...]]

    @cached_property
    def rarity(self) -> Mapping[Code, float]:
        """`ScoredCode.rarity` of every code, counted in the index."""
        carriers = Counter(code for codes in self.of.values() for code in codes)
        rarity = rarity_of(list(carriers.values()), len(self.of))
        return dict(zip(carriers, rarity.tolist(), strict=True))


def read_codes(client: OpenSearch, index: str, generation: str) -> IndexCodes:
    """The codes of one generation that the products of an index carry; products without are in it with none.

    Raises:
        CalibrationError: no product has a code of this generation.
        SearchError: the index cannot be read.
    """
    query = {"query": {"match_all": {}}, "_source": [FIELD]}
    found: dict[str, tuple[Code, ...]] = {}
    with asking(client, f"reading the codes of {index}"):
        for hit in scan(client, index=index, query=query, size=1000):
            stored = map(parse_stored, (hit.get("_source") or {}).get("gram", {}).get("codes", ()))
            found[str(hit["_id"])] = tuple(code for own, code in stored if own == generation)
    if not any(found.values()):
        raise CalibrationError(
            f"no product of {index} has codes of generation {generation}",
            next_step="index the products first, with `gram ingest` or through `gram sidecar`",
        )
    return IndexCodes(generation, found)


@dataclass(frozen=True)
class OracleGenerator:
    """Generates for a judged query the codes of its relevant products, in place of a model."""

    codes: IndexCodes
    judgments: Judgments

    @property
    def generation(self) -> str:
        """The generation of the codes in the index."""
        return self.codes.generation

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of rendered queries, the heaviest first; none for a text that nobody judged, nor for a product."""
        return [self._known.get(text, [])[:limit] if role is Role.QUERY else [] for text in texts]

    @cached_property
    def _known(self) -> Mapping[str, list[ScoredCode]]:
        """Rendered query to its codes; texts that render alike are one query."""
        relevant: dict[str, set[str]] = {}
        for query, grades in self.judgments.items():
            wanted = {key for key, grade in grades.items() if grade > 0 and key in self.codes.of}
            relevant.setdefault(render_query(query), set()).update(wanted)
        return {text: self._codes_of(wanted) for text, wanted in relevant.items()}

    def _codes_of(self, relevant: set[str]) -> list[ScoredCode]:
        """Each code with the share of the relevant products that carry it, by share times rarity."""
        carriers = Counter(code for key in relevant for code in self.codes.of[key])
        rarity = self.codes.rarity
        scored = [ScoredCode(code, count / len(relevant), rarity[code]) for code, count in carriers.items()]
        return sorted(scored, key=lambda one: (-one.probability * one.rarity, one.code.text))
