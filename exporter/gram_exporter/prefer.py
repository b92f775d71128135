"""Co-alignment of the generator: codes that recall products win over those that do not.

After joint training the generator writes codes for asked queries and for products that these want. A code that both
sides write is a winner, one that the query alone writes a loser, if it is the less efficient of the two; GRAM's
preference loss (`losses.preference_loss`) moves both sides at once. Left open by what is known of the paper, and
decided here: recall efficiency (`efficiency`); losers are drawn by length first, since fine codes are lost more often;
and what a loser has in common with its winner at its beginning learns nothing from it, for else every pair would push
down the type that both begin with (as RAD-DPO does). It is undone where held-out pages do not gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from gram_exporter.codebook import Codebook
from gram_exporter.config import TrainingConfig
from gram_exporter.data import Example
from gram_exporter.judge import Judge, surely_better
from gram_exporter.losses import Betas, of_both, preference_loss, token_log_probability
from gram_exporter.model import input_ids, padded
from gram_exporter.prepare import Prepared
from gram_exporter.trial import Hits
from gram_exporter.writing import Writer
from gram_plugin.contract.codes import BEAM_WIDTH, MAX_PRODUCT_CODES, Role
from gram_plugin.decode.beam import Ranking
from gram_plugin.progress import Progress

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_QUERIES = 1_000
"""Asked queries that codes are written for, and with each of them one product."""
PAIRS = 4
"""Pairs of codes of one query."""
BATCH_QUERIES = 32
RATE = 1e-4
BETAS = Betas(won=0.5, lost=0.25)
LOOKED_AT_EVERY = 20
"""Steps between two looks at the held-out queries."""
FREE_PRODUCTS = 50
"""Products that a code may retrieve before it costs: a page has room for them anyway."""


@dataclass(frozen=True)
class Taught:
    """A query, a product that it wants, and `PAIRS` pairs of codes: `won[i]` is the more efficient; int64, (pairs,)."""

    query: str
    product: str
    won: Ints
    lost: Ints


def prefer(
    writer: Writer, prepared: Prepared, config: TrainingConfig, judge: Judge, progress: Progress
) -> Mapping[str, float]:
    """Aligns the writer's model in place, as far as held-out pages gain; the figures are those of the choice.

    The same seed gives the same model. At most `prefer_steps` steps; 0 leaves the model as it is.
    """
    if not config.prefer_steps:
        return {}
    before = best_worths = judge.worths_written(writer)
    best, best_step = writer.weights(), 0
    course = _Course(writer, taught_by(writer, prepared, judge, config.seed, progress), config)
    for step in range(config.prefer_steps if course.taught else 0):
        if not course.train_step(step):
            break
        progress("align the generator", step + 1, config.prefer_steps)
        if (step + 1) % LOOKED_AT_EVERY == 0 or step + 1 == config.prefer_steps:
            worths = judge.worths_written(writer)
            if worths.mean() > best_worths.mean() and surely_better(worths, before):
                best, best_worths, best_step = writer.weights(), worths, step + 1
    writer.model.load_state_dict(best)
    return {
        "held_written": float(before.mean()),
        "prefer_steps": float(best_step),
        "held_preferred": float(best_worths.mean()),
    }


def efficiency(example: Example, words: Hits, carried: sparse.csr_array, support: Ints) -> Floats:
    """Recall efficiency of every code for a query: recall beyond what words find, per product retrieved; (codes,).

    `carried` and `support` are those of the codebook.
    E(c | q) = Σ_(wanted p with c) d(p) · u(p) / (|products with c| + FREE_PRODUCTS), where d is the part of the demand
    and u(p) = 1 - 1 / log2(1 + rank of p by words), 1 where words do not find it: what stands first needs no code.
    """
    rank_of = {row: rank for rank, row in enumerate(words.rows.tolist(), start=1)}
    ranks = np.array([rank_of.get(row, np.inf) for row in example.wanted.tolist()])  # (wanted,)
    unfound = 1 - 1 / np.log2(1 + ranks)  # (wanted,)
    gain = (example.demand / example.demand.sum() * unfound) @ carried[example.wanted]  # (codes,)
    found: Floats = np.asarray(gain, np.float64) / (support + FREE_PRODUCTS)
    return found


def pairs_of(
    asked: Ints, offered: Ints, worth: Floats, lengths: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints] | None:
    """Winners and losers, int64, shape (PAIRS,) each, with repetition; None where there is no pair.

    Args:
        asked: codes that the query's side writes, shape (n,).
        offered: codes that the product's side writes, shape (m,).
        worth: recall efficiency of every code, shape (codes,).
        lengths: attributes of every code, shape (codes,).
        rng: draws winners by efficiency, losers by length and then alike.
    """
    shared, alone = np.intersect1d(asked, offered), np.setdiff1d(asked, offered)
    if not alone.size:
        return None
    shared = shared[worth[shared] > worth[alone].min()]
    if not shared.size:
        return None
    won = rng.choice(shared, PAIRS, p=worth[shared] / worth[shared].sum())  # (pairs,)
    lost = [_loser(alone[worth[alone] < worth[winner]], lengths, rng) for winner in won]
    return won.astype(np.int64), np.array(lost, np.int64)


def _loser(among: Ints, lengths: Ints, rng: np.random.Generator) -> int:
    of_length = among[lengths[among] == rng.choice(np.unique(lengths[among]))]
    return int(rng.choice(of_length))


def taught_by(writer: Writer, prepared: Prepared, judge: Judge, seed: int, progress: Progress) -> list[Taught]:
    """Asked queries with pairs of codes, written by the model as it is."""
    rng = np.random.default_rng([seed, 4])
    asked = [example for example in prepared.queries if len(example.wanted)]
    asked = [asked[int(at)] for at in rng.permutation(len(asked))[:MOST_QUERIES]]
    products = [prepared.texts[int(rng.choice(own.wanted, p=own.demand / own.demand.sum()))] for own in asked]
    every = 2 * len(asked)

    def told(before: int, done: int) -> None:
        progress("write codes to compare", before + done, every)

    of_queries = writer.written([own.text for own in asked], Role.QUERY, BEAM_WIDTH, told=lambda done: told(0, done))
    written = list(of_queries)
    of_products = writer.written(products, Role.PRODUCT, MAX_PRODUCT_CODES, told=lambda done: told(len(asked), done))
    found = zip(asked, products, written, of_products, strict=True)
    return list(_taught(found, prepared.codebook, judge, rng))


def _taught(
    found: Iterator[tuple[Example, str, Ranking, Ranking]], codebook: Codebook, judge: Judge, rng: np.random.Generator
) -> Iterator[Taught]:
    carried, support = codebook.carried, codebook.support
    lengths = np.array([len(code.attributes) for code in codebook.codes])  # (codes,)
    for example, product, asked, offered in found:
        worth = efficiency(example, judge.trial.by_words(example.text), carried, support)
        pairs = pairs_of(asked.code, offered.code, worth, lengths, rng)
        if pairs is not None:
            yield Taught(example.text, product, *pairs)


def shared_beginning(won: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
    """Where a loser still is what its winner is; bool, of the shape of both, (..., steps)."""
    return torch.eq(won, lost).long().cumprod(dim=-1).bool()


def log_probabilities(writer: Writer, taught: Sequence[Taught]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log π(c | q, t) of winners and of losers, in nats, shape (queries, PAIRS) each.

    No gradient comes from a loser's beginning as far as it is that of its winner.
    """
    rows = [writer.rows[at] for own in taught for at in (*own.won, *own.lost)]
    device = next(writer.model.parameters()).device
    codes = padded(rows, writer.tokens.pad).view(len(taught), 2 * PAIRS, -1).to(device)
    shared = shared_beginning(codes[:, :PAIRS], codes[:, PAIRS:])  # (queries, PAIRS, steps)
    both = of_both(
        _of_side(writer, [own.query for own in taught], Role.QUERY, codes, shared),
        _of_side(writer, [own.product for own in taught], Role.PRODUCT, codes, shared),
    )  # (queries, 2 * PAIRS)
    return both[:, :PAIRS], both[:, PAIRS:]


def _of_side(
    writer: Writer, texts: Sequence[str], role: Role, codes: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    """Log π(c | text), shape (texts, 2 * PAIRS)."""
    inputs = padded(input_ids(writer.tokenizer, texts, role, writer.tokens), writer.tokens.pad).to(codes.device)
    found = token_log_probability(writer.model, inputs, codes, special=writer.tokens)  # (texts, 2 * PAIRS, steps)
    won, lost = found[:, :PAIRS], found[:, PAIRS:]
    lost = torch.where(shared, lost.detach(), lost)  # (texts, PAIRS, steps)
    return torch.cat([won, lost], dim=1).sum(dim=2)


class _Course:
    """One alignment under way; the model stays in evaluation mode, so that only what is taught changes it."""

    def __init__(self, writer: Writer, taught: Sequence[Taught], config: TrainingConfig) -> None:
        self.writer, self.taught, self.seed, self.steps = writer, taught, config.seed, config.prefer_steps
        self.optimiser = torch.optim.AdamW(writer.model.parameters(), lr=RATE, weight_decay=0.0)
        with torch.no_grad():
            groups = range(0, len(taught), BATCH_QUERIES)
            found = [log_probabilities(writer, taught[start : start + BATCH_QUERIES]) for start in groups]
        if found:
            self.won_before = torch.cat([won for won, _ in found])  # (queries, PAIRS)
            self.lost_before = torch.cat([lost for _, lost in found])  # (queries, PAIRS)

    def train_step(self, step: int) -> bool:
        """One step over a batch of queries; everything random follows from the seed and the step.

        False, and nothing done, where loss or gradient are no finite numbers: what was learned before is to be kept.
        """
        rng = np.random.default_rng([self.seed, step, 5])
        self.optimiser.param_groups[0]["lr"] = RATE * (1 - step / self.steps)
        picked = rng.permutation(len(self.taught))[:BATCH_QUERIES]
        won, lost = log_probabilities(self.writer, [self.taught[at] for at in picked])
        at = torch.from_numpy(picked).to(won.device)
        loss = preference_loss(
            won.flatten(), lost.flatten(), self.won_before[at].flatten(), self.lost_before[at].flatten(), betas=BETAS
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.writer.model.parameters(), 1.0)
        if not bool(torch.isfinite(loss.detach() + norm)):
            return False
        self.optimiser.step()
        return True
