"""Training of the linear arm: query n-grams → codes, in about a minute on a processor.

A low-rank linear classifier over hashed n-grams (as in fastText, Joulin et al. 2017), softmax over codes. A code's
vector is its own plus those of its attributes, so that a rare combination begins from what its parts are known for.
Large codebooks are trained on sampled softmax with the correction for sampling (Bengio and Senécal 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from gram_exporter.config import TrainingConfig
from gram_exporter.data import Example, query_batch
from gram_exporter.noise import mistype
from gram_exporter.prepare import Prepared
from gram_exporter.trainedarm import TrainedArm
from gram_plugin.contract.codebook import attributes_of
from gram_plugin.contract.features import BUCKETS, Features, features_of
from gram_plugin.decode.shortlist import QUERY_LENGTH
from gram_plugin.progress import Progress

BATCH_QUERIES = 256
SAMPLED_CODES = 4096
"""Codes drawn for a step beside those that its queries want; smaller codebooks are looked at whole."""
RATE = 0.01
WARMUP_STEPS = 20
FLOOR_RATE = 0.02
_FIRST_SPREAD = 0.05
_CODE_SPREAD = 0.03

Ints = npt.NDArray[np.int64]


def train_linear(
    prepared: Prepared, config: TrainingConfig, progress: Progress, *, sampled_codes: int = SAMPLED_CODES
) -> TrainedArm | None:
    """Trains the arm on feedback and on queries made from the catalogue; the same seed gives the same arm.

    None where `linear_steps` is 0, or there is no query to learn from.
    """
    if not config.linear_steps or not (prepared.queries or prepared.made):
        return None
    course = _Course(prepared, config, sampled_codes)
    for step in range(config.linear_steps):
        course.train_step(step)
        progress("train the linear arm", step + 1, config.linear_steps)
    return course.arm()


@dataclass(frozen=True)
class Candidates:
    """Codes that one step tells apart: `codes` (n,), where each wanted one stands in them, and the correction (n,)."""

    codes: torch.Tensor
    place: torch.Tensor
    correction: torch.Tensor


def candidates_of(wanted: npt.NDArray[np.int32], every: int, most: int, rng: np.random.Generator) -> Candidates:
    """The wanted codes of a batch, shape (places,), with repetition, and others of the `every` codes: all, or a draw.

    At most `most` of the others are drawn; each then counts for as many as it stands for.
    """
    distinct, place = np.unique(wanted, return_inverse=True)
    if every <= most + len(distinct):
        others: Ints = np.setdiff1d(np.arange(every), distinct)
    else:
        others = np.setdiff1d(rng.integers(every, size=most), distinct)
    stands_for = np.full(len(others), (every - len(distinct)) / max(1, len(others)))
    correction = np.concatenate([np.zeros(len(distinct)), np.log(stands_for)])
    return Candidates(
        torch.from_numpy(np.concatenate([distinct, others]).astype(np.int64)),
        torch.from_numpy(place.reshape(-1).astype(np.int64)),
        torch.from_numpy(correction.astype(np.float32)),
    )


def query_vectors(table: nn.EmbeddingBag, found: Sequence[Features]) -> torch.Tensor:
    """What `TrainedArm` makes of features, of length `QUERY_LENGTH`; float32, shape (queries, width)."""
    ends = np.cumsum([0, *(len(features.buckets) for features in found)])
    sums = table(
        torch.tensor([bucket for features in found for bucket in features.buckets], dtype=torch.int64),
        torch.from_numpy(ends[:-1]),
        per_sample_weights=torch.tensor([weight for features in found for weight in features.weights]),
    )  # (queries, width)
    return functional.normalize(sums, dim=1) * QUERY_LENGTH  # (queries, width)


def descend(loss: torch.Tensor, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """One step of every optimiser down the gradient of a loss."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for optimiser in optimisers:
        optimiser.step()


class _Codes(nn.Module):
    """Vectors and biases of codes; `parts` int64, shape (codes, most attributes), padded with `attributes`."""

    def __init__(self, parts: torch.Tensor, attributes: int, width: int) -> None:
        super().__init__()
        self.parts = parts
        self.own = nn.Embedding(len(parts), width, sparse=True)
        self.of_attribute = nn.Embedding(attributes + 1, width, padding_idx=attributes)
        self.bias = nn.Embedding(len(parts), 1, sparse=True)
        nn.init.normal_(self.own.weight, 0.0, _CODE_SPREAD)
        nn.init.normal_(self.of_attribute.weight, 0.0, _CODE_SPREAD)
        nn.init.zeros_(self.bias.weight)
        with torch.no_grad():
            self.of_attribute.weight[attributes] = 0.0

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """Float32, shape (n, width)."""
        parts: torch.Tensor = self.of_attribute(self.parts[codes]).sum(dim=1)  # (n, parts, width) -> (n, width)
        own: torch.Tensor = self.own(codes)  # (n, width)
        return parts + own  # (n, width)

    def biases(self, codes: torch.Tensor) -> torch.Tensor:
        """Float32, shape (n,)."""
        column: torch.Tensor = self.bias(codes)  # (n, 1)
        return column.squeeze(1)  # (n,)


class _Course:
    """One training of the arm under way."""

    def __init__(self, prepared: Prepared, config: TrainingConfig, sampled_codes: int) -> None:
        self.prepared, self.seed, self.sampled_codes = prepared, config.seed, sampled_codes
        torch.manual_seed(config.seed)
        codebook = prepared.codebook
        attributes = attributes_of(codebook.entries())
        number = {attribute: at for at, attribute in enumerate(attributes)}
        rows = [[number[attribute] for attribute in code.attributes] for code in codebook.codes]
        longest = max(map(len, rows))
        parts = torch.tensor([row + [len(attributes)] * (longest - len(row)) for row in rows])  # (codes, longest)
        self.features = nn.EmbeddingBag(BUCKETS, config.linear_width, mode="sum", sparse=True)
        nn.init.normal_(self.features.weight, 0.0, _FIRST_SPREAD)
        self.codes = _Codes(parts, len(attributes), config.linear_width)
        self.sparse = torch.optim.SparseAdam(
            [self.features.weight, self.codes.own.weight, self.codes.bias.weight], lr=RATE
        )
        self.dense = torch.optim.Adam([self.codes.of_attribute.weight], lr=RATE)
        self.steps = config.linear_steps
        self.seen = np.zeros(BUCKETS, dtype=bool)

    def train_step(self, step: int) -> None:
        """One step over a batch of queries; everything random follows from the seed and the step."""
        rng = np.random.default_rng([self.seed, step, 1])
        self._set_rate(step)
        batch = query_batch(self.prepared.queries, self.prepared.made, BATCH_QUERIES, rng)
        wanted = np.concatenate([example.codes for example in batch])
        candidates = candidates_of(wanted, len(self.codes.parts), self.sampled_codes, rng)
        logits = self._vectors(batch, rng) @ self.codes.vectors(candidates.codes).T  # (queries, candidates)
        logits = logits + self.codes.biases(candidates.codes) + candidates.correction  # (queries, candidates)
        row = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(example.codes) for example in batch]))
        weight = torch.from_numpy(np.concatenate([example.weights for example in batch]))
        loss = -(torch.log_softmax(logits, dim=1)[row, candidates.place] * weight).sum() / len(batch)
        descend(loss, (self.sparse, self.dense))

    def arm(self) -> TrainedArm:
        """What was learned, for serving; a feature that training never saw says nothing instead of noise."""
        with torch.no_grad():
            every = torch.arange(len(self.codes.parts))
            return TrainedArm(
                np.where(self.seen[:, np.newaxis], self.features.weight.numpy(), np.float32(0.0)),
                self.codes.vectors(every).numpy(),
                self.codes.biases(every).numpy(),
            )

    def _vectors(self, batch: Sequence[Example], rng: np.random.Generator) -> torch.Tensor:
        found = [features_of(mistype(example.text, rng)) for example in batch]
        for features in found:
            self.seen[list(features.buckets)] = True
        return query_vectors(self.features, found)  # (queries, width)

    def _set_rate(self, step: int) -> None:
        factor = max(FLOOR_RATE, min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / self.steps))
        for optimiser in (self.sparse, self.dense):
            for group in optimiser.param_groups:
                group["lr"] = RATE * factor
