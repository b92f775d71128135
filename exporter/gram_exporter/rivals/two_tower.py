"""The fine-tuned rival: a sentence encoder trained on the same clicks and judgments that codes are trained on.

Query and product go through one encoder; in a batch of pairs the products of the other queries are what a query must
be far from (multiple-negatives ranking loss), and so are products that people judged irrelevant for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gram_exporter.rivals.encoder import CONFIG, POOLING, TOKENIZER, WEIGHTS, SentenceEncoder, quick_numbers
from gram_plugin.errors import TrainingError
from gram_plugin.progress import Progress

SCALE = 20.0
"""Cosines are multiplied by this before the softmax, as the checkpoints of sentence-transformers were trained."""
WARMUP_SHARE = 0.1
FIGURES = "figures.json"


@dataclass(frozen=True)
class Pairs:
    """What two towers learn from: texts of products by id, and what queries want and do not want.

    Attributes:
        products: product id to text.
        wanted: query text to product id to weight > 0.
        unwanted: query text to ids judged irrelevant, or shown and left.
    """

    products: Mapping[str, str]
    wanted: Mapping[str, Mapping[str, float]]
    unwanted: Mapping[str, frozenset[str]]

    def known(self) -> Pairs:
        """The same with products that the catalogue has, and queries that want one of them."""
        wanted = {q: {key: w for key, w in own.items() if key in self.products} for q, own in self.wanted.items()}
        unwanted = {q: frozenset(key for key in own if key in self.products) for q, own in self.unwanted.items()}
        return Pairs(self.products, {q: own for q, own in wanted.items() if q and own}, unwanted)


@dataclass(frozen=True)
class TwoTowerSettings:
    """How the encoder is fine-tuned; it ends after `steps` or `minutes`, whichever comes first.

    Attributes:
        steps: most steps.
        minutes: most minutes; the learning rate falls to 0 by then, too.
        batch_pairs: queries in one batch.
        product_tokens: tokens of a product that training reads: twice as many double its time.
        hard_negatives: most products in one batch that people judged irrelevant for one of its queries.
        learning_rate: at its peak.
        seed: of every random choice.
    """

    steps: int = 400
    minutes: float = 30.0
    batch_pairs: int = 64
    product_tokens: int = 64
    hard_negatives: int = 16
    learning_rate: float = 5e-5
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Queries with one wanted product each, then products that some of them do not want.

    `wrong`, bool, shape (queries, products), is False where a product must not count against a query: its own,
    or another that it wants too.
    """

    queries: tuple[str, ...]
    products: tuple[str, ...]
    wrong: np.ndarray


def fine_tuned(start: Path, pairs: Pairs, settings: TwoTowerSettings, work: Path, progress: Progress) -> Path:
    """A checkpoint folder of the encoder trained on `pairs`; one that an earlier run finished is used again.

    Args:
        start: checkpoint to begin with; its weights stay as they are.
        pairs: what it learns from.
        settings: how long and how fast.
        work: the result is a folder in it, named after start, pairs and settings.
        progress: told of every step.

    Raises:
        TrainingError: no query wants a product that is in the catalogue.
    """
    known = pairs.known()
    if not known.wanted:
        raise TrainingError(
            "fine-tuning needs feedback: no query wants a product of the catalogue",
            next_step="name judgments or clicks in [feedback] of gram.toml, or leave the arm dense-tuned out",
        )
    encoder = SentenceEncoder.open(start)
    folder = work / f"two-tower-{_digest(encoder.fingerprint, known, settings)}"
    if not (folder / FIGURES).is_file():
        losses = tune_encoder(encoder, known, settings, progress)
        _save(encoder, start, folder, losses)
    return folder


def batches(pairs: Pairs, settings: TwoTowerSettings) -> Iterator[Batch]:
    """Batches without end: every query once in a random order, with a product drawn by its weight; then anew."""
    rng = np.random.default_rng(settings.seed)
    queries, size = list(pairs.wanted), min(settings.batch_pairs, len(pairs.wanted))
    while True:
        order = rng.permutation(len(queries))
        for start in range(0, len(order) - size + 1, size):
            yield _batch(pairs, [queries[int(at)] for at in order[start : start + size]], settings, rng)


def _batch(pairs: Pairs, queries: Sequence[str], settings: TwoTowerSettings, rng: np.random.Generator) -> Batch:
    own = [_drawn(pairs.wanted[query], rng) for query in queries]
    left = [key for query in queries for key in sorted(pairs.unwanted.get(query, ()))]
    hard = [left[int(at)] for at in rng.permutation(len(left))[: settings.hard_negatives]]
    products = (*own, *hard)
    wrong = np.array([[key not in pairs.wanted[query] for key in products] for query in queries])
    return Batch(tuple(queries), products, wrong)


def _drawn(own: Mapping[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(own.values()))
    return list(own)[int(rng.choice(len(own), p=weights / weights.sum()))]


def ranking_loss(queries: torch.Tensor, products: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """Softmax cross-entropy of each query's own product, the one on the diagonal, against the wrong ones; in nats.

    Args:
        queries: unit vectors, float32, shape (queries, width).
        products: unit vectors, float32, shape (products, width), at least as many; those of the queries come first.
        wrong: bool, shape (queries, products).
    """
    scores = SCALE * queries @ products.T  # (queries, products)
    own = torch.arange(len(queries), device=scores.device)
    kept = wrong.clone()
    kept[own, own] = True
    return torch.nn.functional.cross_entropy(scores.masked_fill(~kept, float("-inf")), own)


def tune_encoder(
    encoder: SentenceEncoder,
    pairs: Pairs,
    settings: TwoTowerSettings,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> list[float]:
    """Trains in place; the loss of every step."""
    torch.manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(encoder.model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    encoder.model.train()
    begun, losses = clock(), list[float]()
    for batch in batches(pairs, settings):
        share = max(len(losses) / settings.steps, (clock() - begun) / (60 * settings.minutes))
        if share >= 1.0:
            break
        _set_rate(optimiser, settings.learning_rate, share)
        losses.append(_step(encoder, pairs, batch, settings.product_tokens, optimiser))
        progress("fine-tune", len(losses), settings.steps)
    progress("fine-tune", settings.steps, settings.steps)
    encoder.model.eval()
    return losses


def _step(
    encoder: SentenceEncoder, pairs: Pairs, batch: Batch, product_tokens: int, optimiser: torch.optim.Optimizer
) -> float:
    with quick_numbers(encoder.device):
        queries = encoder.embed(batch.queries)  # (queries, width)
        texts = [pairs.products[key] for key in batch.products]
        products = encoder.embed(texts, max_tokens=product_tokens)  # (products, width)
    loss = ranking_loss(queries, products, torch.from_numpy(batch.wrong).to(encoder.device))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(encoder.model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _set_rate(optimiser: torch.optim.Optimizer, peak: float, share: float) -> None:
    """Up in a straight line over the first tenth, then down in one to zero."""
    factor = min((share + 1e-3) / WARMUP_SHARE, (1 - share) / (1 - WARMUP_SHARE))
    for group in optimiser.param_groups:
        group["lr"] = peak * factor


def _save(encoder: SentenceEncoder, start: Path, folder: Path, losses: Sequence[float]) -> None:
    """Writes the checkpoint beside its place and renames it: a folder that is there is whole."""
    staging = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(staging, ignore_errors=True)
    (staging / POOLING).parent.mkdir(parents=True)
    for name in (CONFIG, TOKENIZER, POOLING):
        if (start / name).is_file():
            shutil.copyfile(start / name, staging / name)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.model.state_dict().items()}
    save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
    figures = {"steps": len(losses), "loss_first": losses[0], "loss_last": float(np.mean(losses[-20:]))}
    (staging / FIGURES).write_text(json.dumps(figures), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def _digest(fingerprint: str, pairs: Pairs, settings: TwoTowerSettings) -> str:
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=6)
    digest.update(json.dumps(asdict(settings)).encode())
    for query, own in pairs.wanted.items():
        unwanted = sorted(pairs.unwanted.get(query, ()))
        digest.update(json.dumps([query, own, unwanted, [pairs.products[key] for key in own]]).encode())
    return digest.hexdigest()
