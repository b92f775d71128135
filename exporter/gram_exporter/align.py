"""Co-alignment: the linear arm learns which codes recall products that the words of a query do not rank.

GRAM aligns its model with how well codes retrieve. Here the quantity is the page itself: a product's score is that of
the words, which stays as it is, plus the points of the query's codes that it carries, and the wanted products should
come out above the others that words or codes bring up (listwise softmax cross-entropy, ListNet, Cao et al. 2007). A
code that recalls what words have found already, or that brings up what nobody wants, loses; one that recalls
wanted products alone wins. It is stopped where held-out queries say so, and undone where they do not
gain more than chance might give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import nn

from gram_exporter.config import TrainingConfig
from gram_exporter.data import Example
from gram_exporter.judge import Judge, surely_better
from gram_exporter.linear import descend, query_vectors
from gram_exporter.prepare import Prepared
from gram_exporter.trainedarm import TrainedArm
from gram_exporter.trial import Hits, Trial, scale_of
from gram_plugin.contract.features import features_of
from gram_plugin.decode.nearest import NearestQueries
from gram_plugin.progress import Progress

MOST_QUERIES = 20_000
BATCH_QUERIES = 64
RATE = 0.001
SCORING_RATE = 0.02
LOOKED_AT_EVERY = 25
"""Steps between two looks at the held-out queries."""
FROM_WORDS, FROM_CODES, FROM_WANTED = 40, 40, 32
"""Products of one query that are compared."""
REACH = 40
"""Codes of a query that are taught; the clause has 24 of them."""
NEAREST_SHARES = (0.2, 0.4, 0.6)
MOST_NEAREST = 50_000
"""Asked queries that are remembered, the most wanted first: they are all compared with each query that is served."""
_FIRST_WORDS, _FIRST_CODES = 5.0, 0.5
_LEAST_PROBABILITY = 1e-9
_NEVER = -1e9


@dataclass(frozen=True)
class Aligned:
    """An arm after alignment: how many steps helped, and the worth of held-out pages before and after, 0 to 1."""

    arm: TrainedArm
    figures: Mapping[str, float]


def align(
    arm: TrainedArm, prepared: Prepared, config: TrainingConfig, progress: Progress, judge: Judge | None = None
) -> Aligned:
    """Aligns an arm and lets it remember asked queries, each as far as held-out feedback gains.

    Without enough feedback to hold some out nothing is chosen: the arm is not aligned, and has neighbours only where
    the owner has set their share. The same seed gives the same arm. The figures are those that the choice was made
    by, so they flatter what was chosen. `judge` is `Judge.of` the same, where somebody made it before.
    """
    judge = judge or Judge.of(prepared, progress)
    if judge is None:
        share = config.nearest_share
        return Aligned(arm if share is None else with_nearest(arm, prepared, _no_judge, share), {})

    def worths(one: TrainedArm) -> npt.NDArray[np.float64]:
        return judge.worths(one.probabilities)

    def worth(one: TrainedArm) -> float:
        return float(worths(one).mean())

    figures = {"held_words": judge.worth_of_words, "held_arm": worth(arm)}
    if config.align_steps:
        arm, steps = _aligned(arm, prepared, judge, config, progress)
        figures |= {"align_steps": float(steps), "held_aligned": worth(arm)}
    arm = with_nearest(arm, prepared, worths, config.nearest_share)
    share = arm.nearest.share if arm.nearest else 0.0
    return Aligned(arm, {**figures, "nearest_share": share, "held_nearest": worth(arm)})


Worths = Callable[[TrainedArm], npt.NDArray[np.float64]]
"""What the pages of held-out queries are worth with an arm, shape (queries,), 0 to 1."""


def _no_judge(_arm: TrainedArm) -> npt.NDArray[np.float64]:
    return np.zeros(1)


def with_nearest(arm: TrainedArm, prepared: Prepared, worths: Worths, share: float | None) -> TrainedArm:
    """The arm with the asked queries beside it at `share`, 0 to 1, or at what is best, if that is surely better."""
    memory = _memory(arm, prepared.queries)
    if memory is None or share == 0:
        return arm
    shares = NEAREST_SHARES if share is None else (share,)
    arms = [replace(arm, nearest=replace(memory, share=part)) for part in shares]
    if share is not None:
        return arms[0]
    found = [worths(one) for one in arms]
    best = max(range(len(arms)), key=lambda at: float(found[at].mean()))
    return arms[best] if surely_better(found[best], worths(arm)) else arm


def _memory(arm: TrainedArm, queries: Sequence[Example]) -> NearestQueries | None:
    """The most wanted of the queries as the arm sees them; None where it knows none. The share is still to be set."""
    wanted = sorted(queries, key=lambda example: -float(example.demand.sum()))[:MOST_NEAREST]
    seen = [(example, found) for example in wanted if (found := arm.direction(example.text)) is not None]
    if not seen:
        return None
    examples = [example for example, _ in seen]
    return NearestQueries(
        np.stack([direction for _, direction in seen]).astype(np.float32),
        np.cumsum([0, *(len(example.codes) for example in examples)]).astype(np.int64),
        np.concatenate([example.codes for example in examples]).astype(np.int32),
        np.concatenate([example.weights for example in examples]).astype(np.float32),
        1.0,
    )


def _aligned(
    arm: TrainedArm, prepared: Prepared, judge: Judge, config: TrainingConfig, progress: Progress
) -> tuple[TrainedArm, int]:
    """The best of the arms on the way and after how many steps it was, if it is surely better than the first."""
    course = _Course(arm, prepared, judge.trial, config, progress)
    before = judge.worths(arm.probabilities)
    best, best_worths, best_step = arm, before, 0
    for step in range(config.align_steps):
        course.train_step(step)
        progress("align the linear arm", step + 1, config.align_steps)
        if (step + 1) % LOOKED_AT_EVERY == 0 or step + 1 == config.align_steps:
            found = course.arm()
            worths = judge.worths(found.probabilities)
            if worths.mean() > best_worths.mean():
                best, best_worths, best_step = found, worths, step + 1
    return (best, best_step) if surely_better(best_worths, before) else (arm, 0)


class _Course:
    """One alignment under way."""

    def __init__(
        self, arm: TrainedArm, prepared: Prepared, trial: Trial, config: TrainingConfig, progress: Progress
    ) -> None:
        rng = np.random.default_rng([config.seed, 2])
        asked = [example for example in prepared.queries if len(example.wanted)]
        read = min(MOST_QUERIES, config.align_steps * BATCH_QUERIES)
        self.asked = [asked[int(at)] for at in rng.permutation(len(asked))[:read]]
        self.found = list[Hits]()
        for example in self.asked:
            self.found.append(trial.by_words(example.text))
            progress("search for asked queries", len(self.found), len(self.asked))
        self.trial, self.carried, self.seed, self.steps = (
            trial,
            prepared.codebook.carried,
            config.seed,
            config.align_steps,
        )
        self.scale = scale_of(self.found)
        self.rarity = torch.from_numpy(trial.rarity)
        self.features = nn.EmbeddingBag.from_pretrained(
            torch.from_numpy(arm.features.copy()), freeze=False, mode="sum", sparse=True
        )
        self.codes = nn.Parameter(torch.from_numpy(arm.codes.copy()))
        self.bias = nn.Parameter(torch.from_numpy(arm.bias.copy()))
        self.words_count = nn.Parameter(torch.tensor(_FIRST_WORDS))
        self.codes_count = nn.Parameter(torch.tensor(_FIRST_CODES))
        self.sparse = torch.optim.SparseAdam([self.features.weight], lr=RATE)
        groups: list[dict[str, Any]] = [
            {"params": [self.codes, self.bias], "lr": RATE},
            {"params": [self.words_count, self.codes_count], "lr": SCORING_RATE},
        ]
        self.dense = torch.optim.Adam(groups)

    def train_step(self, step: int) -> None:
        """One step over a batch of asked queries; everything random follows from the seed and the step."""
        rng = np.random.default_rng([self.seed, step, 3])
        for group in (self.sparse.param_groups[0], self.dense.param_groups[0]):
            group["lr"] = RATE * (1 - step / self.steps)
        picked = rng.permutation(len(self.asked))[:BATCH_QUERIES]
        loss = self._loss([self.asked[at] for at in picked], [self.found[at] for at in picked])
        descend(loss, (self.sparse, self.dense))

    def arm(self) -> TrainedArm:
        """What was learned so far, for serving."""
        with torch.no_grad():
            return TrainedArm(self.features.weight.numpy().copy(), self.codes.numpy().copy(), self.bias.numpy().copy())

    def _loss(self, examples: Sequence[Example], found: Sequence[Hits]) -> torch.Tensor:
        probability = torch.softmax(self._logits(examples), dim=1)  # (queries, codes)
        weight = probability.clamp(min=_LEAST_PROBABILITY).sqrt()  # (queries, codes)
        told = probability.detach().numpy()  # (queries, codes)
        compared = [
            compared_products(example, hits, self.trial.by_codes(own))
            for example, hits, own in zip(examples, found, told, strict=True)
        ]
        most = max(len(rows) for rows in compared)
        shape = (len(examples), most)
        at = np.concatenate([row * most + np.arange(len(rows)) for row, rows in enumerate(compared)])
        place = torch.from_numpy(at)  # (compared,)
        codes = torch.zeros(shape).flatten().index_copy(0, place, self._points(weight, compared))
        words = _placed(
            shape, at, [_scores(hits, rows) / self.scale for hits, rows in zip(found, compared, strict=True)]
        )
        demand = _placed(shape, at, [_demand(example, rows) for example, rows in zip(examples, compared, strict=True)])
        there = _placed(shape, at, [np.ones(len(rows), np.float32) for rows in compared])
        score = self.words_count * (words + self.codes_count * codes.view(shape))  # (queries, most)
        score = score.masked_fill(there == 0, _NEVER)  # (queries, most)
        return -(demand * torch.log_softmax(score, dim=1)).sum() / len(examples)

    def _logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Float32, shape (queries, codes)."""
        vectors = query_vectors(self.features, [features_of(example.text) for example in examples])  # (queries, width)
        return vectors @ self.codes.T + self.bias  # (queries, codes)

    def _points(self, weight: torch.Tensor, compared: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
        """Σ weight · rarity over the `REACH` likeliest codes that each product carries; shape (compared,)."""
        reach = min(REACH, weight.shape[1])
        least = weight.detach().topk(reach, dim=1).values[:, -1:]  # (queries, 1)
        points = torch.where(weight >= least, weight, torch.zeros(())) * self.rarity  # (queries, codes)
        carried = sparse.csr_array(self.carried[np.concatenate(compared)])  # (compared, codes)
        owner = np.repeat(np.arange(len(compared)), [len(rows) for rows in compared])  # (compared,)
        product = np.repeat(np.arange(len(owner)), np.diff(carried.indptr))  # (carried,)
        told = points[
            torch.from_numpy(owner[product]), torch.from_numpy(carried.indices.astype(np.int64))
        ]  # (carried,)
        return torch.zeros(len(owner)).index_add(0, torch.from_numpy(product), told)  # (compared,)


def compared_products(example: Example, words: Hits, codes: Hits) -> npt.NDArray[np.int64]:
    """Rows of the products that a query is taught on: what words and codes bring up, and what is wanted; ascending."""
    wanted = example.wanted[np.argsort(-example.demand, kind="stable")][:FROM_WANTED]
    return np.unique(np.concatenate([words.rows[:FROM_WORDS], codes.rows[:FROM_CODES], wanted])).astype(np.int64)


def _scores(hits: Hits, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """What the words give to each of the rows, 0 to those that they did not find; shape (rows,)."""
    score_of = dict(zip(hits.rows.tolist(), hits.scores.tolist(), strict=True))
    return np.array([score_of.get(row, 0.0) for row in rows.tolist()], np.float32)


def _demand(example: Example, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """How much each of the rows is wanted, sum 1; shape (rows,)."""
    demand_of = dict(zip(example.wanted.tolist(), example.demand.tolist(), strict=True))
    demand = np.array([demand_of.get(row, 0.0) for row in rows.tolist()], np.float32)
    return np.asarray(demand / demand.sum())


def _placed(
    shape: tuple[int, int], at: npt.NDArray[np.int64], parts: Sequence[npt.NDArray[np.float32]]
) -> torch.Tensor:
    """Values of all queries in one matrix, 0 where a query has fewer; float32, of the given shape."""
    matrix = np.zeros(shape[0] * shape[1], np.float32)
    matrix[at] = np.concatenate(parts)
    return torch.from_numpy(matrix.reshape(shape))
