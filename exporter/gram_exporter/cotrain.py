"""Co-training: codes that either side writes and a relevance model lets pass are taught to both sides again.

After joint training the product generator writes codes for products that asked queries want, and the query generator
writes codes for those queries (GRAM's co-training, against a drift to codes that are too fine). What a query had not
been given is judged by a relevance model that has not seen the query, and at most ten codes pass. A product is given
what it wrote itself and its queries have, though it does not carry it: what the queries of its customers say of it.
Left open by what is known of the paper, and decided here: the relevance model (`Relevance`; else `CrossFitted`), when a
code passes (`share_codes`), and that all of it is undone where held-out pages surely lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gram_exporter.config import TrainingConfig
from gram_exporter.data import Example
from gram_exporter.judge import Judge, surely_better
from gram_exporter.linear import train_linear
from gram_exporter.prepare import Prepared
from gram_exporter.trainedarm import TrainedArm
from gram_exporter.writing import Writer
from gram_plugin.contract.codes import BEAM_WIDTH, MAX_PRODUCT_CODES, Role
from gram_plugin.decode.beam import Ranking
from gram_plugin.errors import TrainingError
from gram_plugin.progress import Progress

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_QUERIES = 2_000
"""Asked queries that get further codes, the most wanted first."""
LINKED = 4
"""Products of one query whose codes are written, the most wanted first."""
NEW_CODES = 10
"""Most new codes of a text, as in the paper."""
NEW_SHARE = 0.5
"""Part of what a text is taught that its new codes get together."""
PASSING = 0.5
"""A new code passes that is as likely as this quantile of the codes which asked queries are known to want."""
RELEVANCE_STEPS = 400
"""Steps of each arm that judges the queries which it has not seen."""
LOOKED_AT = 300
"""Products whose codes tell how fine codes are."""

TrainAgain = Callable[[tuple[Example, ...], tuple[Example, ...]], None]
"""Trains both sides on queries and products with their codes."""


class Relevance(Protocol):
    """What says how likely codes are wanted by a query, better than the generator that wrote them."""

    def of(self, query: str) -> Floats:
        """P(code | query) or anything that grows with it, by rendered text; float64, shape (codes,)."""


@dataclass(frozen=True)
class CrossFitted:
    """The relevance model that is trained here: linear arms, each for the queries that it has not seen.

    Attributes:
        arms: each trained on all asked queries but a part, and on queries made from the catalogue.
        part_of: asked query to the arm that has not seen it.
        codes: how many there are.
    """

    arms: tuple[TrainedArm | None, ...]
    part_of: Mapping[str, int]
    codes: int

    @classmethod
    def of_halves(cls, prepared: Prepared, config: TrainingConfig, progress: Progress) -> CrossFitted:
        """Two arms, each trained on half of the asked queries; the same seed gives the same arms."""
        part_of = {example.text: at % 2 for at, example in enumerate(prepared.queries)}
        settings = replace(config, linear_steps=RELEVANCE_STEPS)
        arms = []
        for part in (0, 1):
            seen = tuple(example for example in prepared.queries if part_of[example.text] != part)
            arms.append(train_linear(replace(prepared, queries=seen), settings, _renamed(progress)))
        return cls(tuple(arms), part_of, len(prepared.codebook.codes))

    def of(self, query: str) -> Floats:
        """P(code | query) by the arm that has not seen the query; zeros where it knows no part of it."""
        arm = self.arms[self.part_of[query]]
        found = arm.probabilities(query) if arm else None
        return np.zeros(self.codes) if found is None else found


@dataclass(frozen=True)
class Shared:
    """What both sides are to be taught, and what became of the new codes."""

    queries: tuple[Example, ...]
    products: tuple[Example, ...]
    figures: Mapping[str, float]


def cotrain(
    writer: Writer,
    prepared: Prepared,
    config: TrainingConfig,
    judge: Judge,
    train_again: TrainAgain,
    progress: Progress,
    relevance: Relevance | None = None,
) -> Mapping[str, float]:
    """Trains the writer's model again on shared codes, in place, unless held-out pages surely lose by it.

    Args:
        writer: the model after joint training.
        prepared: what it was trained on.
        config: `cotrain_steps` 0 leaves the model as it is.
        judge: held-out feedback. It looks at the codes of queries; what products gain it cannot see.
        train_again: trains the writer's model further.
        progress: told of every step.
        relevance: filters new codes; `CrossFitted.of_halves` if None.

    Returns:
        Figures for the training record: new codes and how many of them passed, attributes in a written code and the
        worth of held-out pages before and after; `cotrain_steps` is 0 where it was undone.
    """
    if not config.cotrain_steps:
        return {}
    before, weights, fine = judge.worths_written(writer), writer.weights(), _granularity(writer, prepared, judge)
    relevance = relevance or CrossFitted.of_halves(prepared, config, progress)
    shared = share_codes(writer, prepared, relevance, progress)
    figures = {
        **shared.figures,
        **{f"attributes_{side}_joint": size for side, size in fine.items()},
        "held_joint": float(before.mean()),
        "cotrain_steps": 0.0,
    }
    try:
        train_again(shared.queries, shared.products)
    except TrainingError:  # the weights are spoilt, those of before are not
        writer.model.load_state_dict(weights)
        return figures
    after = judge.worths_written(writer)
    figures |= {f"attributes_{side}_cotrained": n for side, n in _granularity(writer, prepared, judge).items()}
    figures["held_cotrained"] = float(after.mean())
    if surely_better(before, after):
        writer.model.load_state_dict(weights)
        return figures
    return {**figures, "cotrain_steps": float(config.cotrain_steps)}


def share_codes(writer: Writer, prepared: Prepared, relevance: Relevance, progress: Progress) -> Shared:
    """Gives asked queries and the products that they want further codes, as the writer and the relevance model say."""
    asked = sorted(prepared.queries, key=lambda example: -float(example.demand.sum()))[:MOST_QUERIES]
    linked = {example.text: _most_wanted(example) for example in asked}
    rows = sorted({row for own in linked.values() for row in own})
    every = len(asked) + len(rows)
    of_queries = writer.written(
        [example.text for example in asked],
        Role.QUERY,
        BEAM_WIDTH,
        told=lambda done: progress("write codes to share", done, every),
    )
    written = {example.text: ranking.code for example, ranking in zip(asked, of_queries, strict=True)}
    of_products = writer.written(
        [prepared.texts[row] for row in rows],
        Role.PRODUCT,
        MAX_PRODUCT_CODES,
        told=lambda done: progress("write codes to share", len(asked) + done, every),
    )
    offered = dict(zip(rows, of_products, strict=True))
    offers = [
        _offer(example, written[example.text], [offered[row] for row in linked[example.text]], relevance)
        for example in asked
    ]
    taught = list(_passed(asked, offers))
    by_text = {example.text: example for example in taught}
    return Shared(
        tuple(by_text.get(example.text, example) for example in prepared.queries),
        tuple(_with_demand(prepared, offered, taught)),
        {
            "new_codes": sum(len(offer.codes) for offer in offers) / len(asked),
            "passed_codes": sum(len(new.codes) - len(old.codes) for new, old in zip(taught, asked, strict=True))
            / len(asked),
        },
    )


@dataclass(frozen=True)
class _Offer:
    """New codes of a query, `codes` (n,), how relevant they are (n,), and how relevant the known ones are (m,)."""

    codes: Ints
    relevance: Floats
    known: Floats


def _offer(example: Example, written: Ints, offered: Sequence[Ranking], relevance: Relevance) -> _Offer:
    found = np.unique(np.concatenate([written, *(ranking.code for ranking in offered)]))
    new = np.setdiff1d(found, example.codes).astype(np.int64)
    judged = relevance.of(example.text)
    return _Offer(new, judged[new], judged[example.codes])


def _passed(asked: Sequence[Example], offers: Sequence[_Offer]) -> Iterator[Example]:
    """Each query with those of its new codes that are as relevant as half of the known ones."""
    known = np.concatenate([offer.known for offer in offers])  # (known,)
    least = max(float(np.quantile(known, PASSING)), np.finfo(np.float64).tiny)
    for example, offer in zip(asked, offers, strict=True):
        best = np.argsort(-offer.relevance, kind="stable")[:NEW_CODES]
        best = best[offer.relevance[best] >= least]
        yield with_codes(example, offer.codes[best], offer.relevance[best])


def with_codes(example: Example, codes: npt.NDArray[np.integer], weights: Floats) -> Example:
    """The example with further codes, which share `NEW_SHARE` of its weight as theirs, > 0, say; as it is without."""
    if not len(codes):
        return example
    parts = [(1 - NEW_SHARE) * example.weights, NEW_SHARE * weights / weights.sum()]
    return replace(
        example,
        codes=np.concatenate([example.codes, codes]).astype(np.int32),
        weights=np.concatenate(parts).astype(np.float32),
        share=np.concatenate([example.share, np.minimum(weights, 1.0)]).astype(np.float32),
    )


def _with_demand(prepared: Prepared, offered: Mapping[int, Ranking], queries: Iterable[Example]) -> Iterator[Example]:
    """Every product with what it wrote, what its queries have, and what it does not carry."""
    wanting: dict[int, list[tuple[Example, float]]] = {}
    for example in queries:
        for row, demand in zip(example.wanted.tolist(), example.demand.tolist(), strict=True):
            wanting.setdefault(row, []).append((example, demand))
    row_of = {text: row for row, text in enumerate(prepared.texts)}
    carried = prepared.codebook.carried
    for product in prepared.products:
        row = row_of[product.text]
        if row in offered:
            own = carried.indices[carried.indptr[row] : carried.indptr[row + 1]]
            yield _asked_for(product, offered[row].code, wanting.get(row, ()), own, carried.shape[1])
        else:
            yield product


def _asked_for(
    product: Example,
    written: Ints,
    queries: Sequence[tuple[Example, float]],
    carried: npt.NDArray[np.int32],
    codes: int,
) -> Example:
    mass = np.zeros(codes)  # (codes,)
    for example, demand in queries:
        mass[example.codes] += demand * example.weights
    new = np.setdiff1d(written[mass[written] > 0], carried)
    best = new[np.argsort(-mass[new], kind="stable")][:NEW_CODES]
    return with_codes(product, best, mass[best])


def _most_wanted(example: Example) -> list[int]:
    best: list[int] = example.wanted[np.argsort(-example.demand, kind="stable")][:LINKED].tolist()
    return best


def _granularity(writer: Writer, prepared: Prepared, judge: Judge) -> dict[str, float]:
    """Attributes in a written code, the mean over held-out queries and over some products."""
    lengths = np.array([len(code.attributes) for code in prepared.codebook.codes])  # (codes,)
    products = [example.text for example in prepared.products[:LOOKED_AT]]
    of_queries = [ranking.code for ranking in writer.written(list(judge.wanted), Role.QUERY, BEAM_WIDTH)]
    of_products = [ranking.code for ranking in writer.written(products, Role.PRODUCT, MAX_PRODUCT_CODES)]
    return {
        "query": float(lengths[np.concatenate(of_queries)].mean()),
        "product": float(lengths[np.concatenate(of_products)].mean()),
    }


def _renamed(progress: Progress) -> Progress:
    return lambda _stage, done, total: progress("train the relevance model", done, total)
