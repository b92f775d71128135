"""Joint training of the query and the product generator: one model, two prompts, checkpoints, resume."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from gram_exporter.align import align
from gram_exporter.checkpoint import Position, load_checkpoint, save_checkpoint
from gram_exporter.codebook import code_report
from gram_exporter.config import Config, TrainingConfig
from gram_exporter.cotrain import TrainAgain, cotrain
from gram_exporter.data import Example, drawn, query_batch
from gram_exporter.judge import Judge
from gram_exporter.linear import train_linear
from gram_exporter.losses import code_nll, joint_loss
from gram_exporter.model import TokenLimits, input_ids, new_model, padded, tokens_of, train_tokenizer
from gram_exporter.noise import mistype
from gram_exporter.prefer import prefer
from gram_exporter.prepare import Prepared, prepare
from gram_exporter.pretrained import Pretrained, is_pretrained, vocabulary_weights
from gram_exporter.record import (
    CALIBRATION_TEXTS,
    CODEBOOK,
    HELD,
    MODEL,
    RECORD,
    TOKENIZER,
    TrainingRecord,
    write_calibration_texts,
    write_held,
    write_record,
)
from gram_exporter.trainedarm import TrainedArm
from gram_exporter.warm import Sighting, warm_start
from gram_exporter.writing import Writer
from gram_plugin.contract.bundle import LINEAR, TAGGER, Tokens
from gram_plugin.contract.codebook import attributes_of, write_codebook
from gram_plugin.contract.codes import Attribute, Role
from gram_plugin.errors import TrainingError
from gram_plugin.progress import Progress

CHECKPOINT = "checkpoint"
CODES_PER_TEXT = 4
WARMUP_SHARE = 0.06
FLOOR_RATE = 0.05
MOST_SIGHTINGS = 100_000
"""Texts of each role that the warm start counts: more tell it nothing new, and all are in memory at once."""
TIMED_STEPS = 12
CHECKPOINT_EVERY_S = 30.0
_LATER_SETTINGS = ("cotrain_steps", "linear_steps", "linear_width", "align_steps", "prefer_steps", "nearest_share")
"""What is done after joint training: with other values for these its checkpoint is as good."""
MAX_QUERY_TOKENS = 32
MAX_PRODUCT_TOKENS = 96


def train(
    products: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, Mapping[str, float]],
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainingRecord:
    """Trains GRAM and leaves the folder that export reads (see `record`).

    Interrupted, it can go on from its last checkpoint with `resume`; the same data, settings and number
    of steps give the same model on the same machine.

    Args:
        products: product id to document, in catalogue order.
        wanted: query text to product id to weight > 0; may be empty (a shop on day one).
        config: the parsed gram.toml.
        output: folder for the result; an earlier result there stays until this one is finished.
        resume: go on from a checkpoint in `output`, if there is one.
        progress: told of every step.

    Raises:
        TrainingError: the catalogue gives no codes, or the checkpoint belongs to something else.
    """
    report = progress or (lambda _stage, _done, _total: None)
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    report("prepare", 0, 1)
    prepared = prepare(products, wanted, config)
    begun = Pretrained.open(config.training.checkpoint) if config.training.checkpoint else None
    tokenizer = begun.tokenizer if begun else train_tokenizer(_texts(prepared), config.training.vocabulary)
    limits = _limits(tokenizer, prepared)
    tokens = begun.tokens(limits) if begun else tokens_of(tokenizer, limits)
    report("prepare", 1, 1)
    course = Course(config.training, prepared, tokenizer, tokens, begun)
    course.run(output / CHECKPOINT, resume=resume, progress=report)
    joint_steps = course.steps
    judge = Judge.of(prepared, report) if _is_judged(config.training) else None
    settings, writer = config.training, course.writer()
    shared = cotrain(writer, prepared, settings, judge, course.again(report), report) if judge else {}
    preferred = prefer(writer, prepared, settings, judge, report) if judge else {}
    arm = train_linear(prepared, config.training, report)
    aligned = align(arm, prepared, config.training, report, judge) if arm else None
    figures = {
        **{f"codebook_{name}": value for name, value in code_report(prepared.codebook).items()},
        "queries_feedback": len(prepared.queries),
        "queries_made": len(prepared.made),
        "steps": joint_steps,
        "loss_first": course.loss_first,
        "loss_last": course.loss_last,
        "parameters": sum(p.numel() for p in course.model.parameters()),
        **shared,
        **preferred,
        **(aligned.figures if aligned else {}),
        "seconds": round(time.monotonic() - started, 1),
    }
    record = TrainingRecord(
        generation=config.training.generation,
        architecture=begun.architecture if begun else "t5",
        rendering=prepared.rendering,
        id_field=config.catalogue.id,
        tokens=tokens,
        data_source=config.catalogue.source,
        data_licence=config.catalogue.licence,
        products=len(products),
        figures=figures,
    )
    _write(output, course, prepared, record, aligned.arm if aligned else None)
    return record


class Course:
    """One training under way: model, optimiser, and where it stands."""

    def __init__(
        self,
        config: TrainingConfig,
        prepared: Prepared,
        tokenizer: Tokenizer,
        tokens: Tokens,
        begun: Pretrained | None = None,
    ) -> None:
        self.config, self.prepared, self.tokenizer, self.tokens = config, prepared, tokenizer, tokens
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        attributes = attributes_of(prepared.codebook.entries())
        self.attributes = len(attributes)
        id_of = {attribute: tokens.first_attribute + at for at, attribute in enumerate(attributes)}
        self.rows = [[*(id_of[a] for a in code.attributes), tokens.eos] for code in prepared.codebook.codes]
        self.model = begun.model(attributes, tokens, config) if begun else self._new_model(id_of)
        torch.nn.Module.to(self.model, self.device)
        self.optimiser = _optimiser(self.model, config)
        self.bfloat16 = self.device.type == "cuda" or _cpu_multiplies_bfloat16()
        self.step, self.steps = 0, config.steps
        self.loss_first: float | None = None
        self.loss_last: float | None = None

    def run(self, checkpoint: Path, *, resume: bool, progress: Progress) -> None:
        """Trains to the end, saving a checkpoint twice a minute, when stopped and at the end.

        Raises:
            TrainingError: the loss is no longer a finite number, or the checkpoint is unusable.
        """
        found = load_checkpoint(checkpoint, self.model, self.optimiser, self.fingerprint) if resume else None
        if found:
            self.step, self.steps = found.step, found.steps
            self.loss_first, self.loss_last = found.loss_first, found.loss_last
        try:
            self._advance(checkpoint, progress)
        except TrainingError:  # the weights are spoilt; those of the last checkpoint are not
            raise
        except BaseException:  # an interrupt above all: nothing that was learned is lost
            save_checkpoint(checkpoint, self.model, self.optimiser, self._position())
            raise
        save_checkpoint(checkpoint, self.model, self.optimiser, self._position())  # more is to do before it is written

    def _advance(self, checkpoint: Path, progress: Progress) -> None:
        begun = saved = time.monotonic()
        fitting = not self.steps
        while self.step < self.steps or not self.steps:
            self.loss_last = self._train_step()
            self.loss_first = self.loss_last if self.loss_first is None else self.loss_first
            now = time.monotonic()
            if fitting and self.step % TIMED_STEPS == 0:
                self.steps = _steps_that_fit(self.config.minutes, self.step, now - begun)
            if now - saved > CHECKPOINT_EVERY_S:
                save_checkpoint(checkpoint, self.model, self.optimiser, self._position())
                saved = now
            progress("train", self.step, self.steps or TIMED_STEPS)

    def writer(self) -> Writer:
        """The model as it is now, ready to write codes; what the optimiser remembers is given up."""
        self.optimiser.zero_grad(set_to_none=True)
        self.optimiser.state.clear()
        return Writer(self.model, self.tokenizer, self.tokens, self.rows, self.attributes)

    def again(self, progress: Progress) -> TrainAgain:
        """What trains the model further, `cotrain_steps` steps, on other examples; no checkpoint has any of it.

        It raises TrainingError, the model spoilt, where the loss is no longer a finite number.
        """

        def train_again(queries: tuple[Example, ...], products: tuple[Example, ...]) -> None:
            examples, self.prepared = self.prepared, replace(self.prepared, queries=queries, products=products)
            self.optimiser = _optimiser(self.model, self.config)
            self.step, self.steps = 0, self.config.cotrain_steps
            try:
                while self.step < self.steps:
                    self._train_step()
                    progress("co-train", self.step, self.steps)
            finally:
                self.optimiser.zero_grad(set_to_none=True)
                self.optimiser.state.clear()
                self.prepared = examples

        return train_again

    @cached_property
    def fingerprint(self) -> str:
        """Names the examples and the settings, so that a checkpoint is never resumed with others."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in _LATER_SETTINGS}
        digest = hashlib.blake2b(repr(sorted(settings.items())).encode(), digest_size=16)
        digest.update(f"\n{self.tokens}\n{self.tokenizer.to_str()}".encode("utf-8", "surrogatepass"))
        for code in self.prepared.codebook.codes:
            digest.update(f"\n{code.text}".encode())
        for part in (self.prepared.queries, self.prepared.made, self.prepared.products):
            digest.update(f"\n{len(part)}".encode())
            for example in part:
                digest.update(f"\n{example.text}\n{len(example.codes)}\n".encode())
                digest.update(example.codes.tobytes() + example.weights.tobytes())
        return digest.hexdigest()

    def _new_model(self, id_of: Mapping[Attribute, int]) -> Any:
        """A model of nothing but what can be counted."""
        model = new_model(len(id_of), self.tokens, self.config)
        first = self.tokens.first_attribute
        warm_start(model, list(self._sightings(id_of)), first_attribute=first, seed=self.config.seed)
        return model

    def _sightings(self, id_of: Mapping[Attribute, int]) -> Iterator[Sighting]:
        """Texts with the attributes of their codes, for the warm start; a sample where there are very many."""
        first, codes = self.tokens.first_attribute, self.prepared.codebook.codes
        for role, known in (
            (Role.QUERY, (*self.prepared.queries, *self.prepared.made)),
            (Role.PRODUCT, self.prepared.products),
        ):
            examples = sampled(known, MOST_SIGHTINGS, self.config.seed)
            ids = input_ids(self.tokenizer, [example.text for example in examples], role, self.tokens)
            for row, example in zip(ids, examples, strict=True):
                weights: dict[int, float] = {}
                for at, weight in zip(example.codes, example.weights, strict=True):
                    for attribute in codes[at].attributes:
                        number = id_of[attribute] - first
                        weights[number] = weights.get(number, 0.0) + float(weight)
                yield Sighting(row, list(weights), list(weights.values()))

    def _position(self) -> Position:
        return Position(self.step, self.steps, self.fingerprint, self.loss_first, self.loss_last)

    def _train_step(self) -> float:
        """One step over a batch of queries and a batch of products; everything random follows from the step."""
        rng = np.random.default_rng([self.config.seed, self.step])
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        self._set_rate()
        self.model.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            asked, made = self.prepared.queries, self.prepared.made
            queries = self._nll(Role.QUERY, query_batch(asked, made, self.config.batch_texts, rng), rng)
            products = self._nll(Role.PRODUCT, self._product_batch(rng), rng)
            loss = joint_loss(queries, products, self.config.product_weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not bool(torch.isfinite(loss.detach() + norm)):
            raise TrainingError(
                f"the loss became {float(loss.detach())}, its gradient {float(norm)}, at step {self.step}",
                next_step="lower training.learning_rate in gram.toml",
            )
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def _product_batch(self, rng: np.random.Generator) -> list[Example]:
        return drawn(self.prepared.products, max(1, self.config.batch_texts // 2), rng)

    def _nll(self, role: Role, batch: Sequence[Example], rng: np.random.Generator) -> torch.Tensor:
        texts = [mistype(example.text, rng) if role is Role.QUERY else example.text for example in batch]
        inputs = padded(input_ids(self.tokenizer, texts, role, self.tokens), self.tokens.pad)
        codes = padded([self.rows[at] for example in batch for at in _draw(example, rng)], self.tokens.pad)
        codes = codes.view(len(batch), CODES_PER_TEXT, -1)  # (texts, per_text, steps)
        return code_nll(self.model, inputs.to(self.device), codes.to(self.device), special=self.tokens)

    def _set_rate(self) -> None:
        share = self.step / self.steps if self.steps else 0.0
        cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        factor = min(1.0, (share + 1e-3) / WARMUP_SHARE) * (cosine * (1 - FLOOR_RATE) + FLOOR_RATE)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * group["scale"] * factor


def _is_judged(config: TrainingConfig) -> bool:
    """Whether anything comes after joint training that held-out feedback has to judge."""
    return bool(config.cotrain_steps or config.prefer_steps or config.linear_steps)


def _optimiser(model: Any, config: TrainingConfig) -> torch.optim.AdamW:
    """Words and attributes learn faster than the rest, and what was pretrained slower."""
    parts: dict[float, list[torch.nn.Parameter]] = {}
    words = {id(parameter) for parameter in vocabulary_weights(model)}
    for name, parameter in model.named_parameters():
        scale = config.embedding_rate if id(parameter) in words else 1.0
        scale *= config.checkpoint_rate if config.checkpoint and is_pretrained(model, name) else 1.0
        parts.setdefault(scale, []).append(parameter)
    groups = [{"params": part, "scale": scale} for scale, part in parts.items()]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))


def _cpu_multiplies_bfloat16() -> bool:
    """Whether bfloat16 is quick here: 1.5 times float32 with AVX512-BF16, slower than it without."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def sampled(examples: Sequence[Example], most: int, seed: int) -> Sequence[Example]:
    """All of the examples, or `most` of them drawn by a seed, in their order."""
    if len(examples) <= most:
        return examples
    drawn = np.random.default_rng(seed).choice(len(examples), most, replace=False)
    return [examples[int(at)] for at in np.sort(drawn)]


def _draw(example: Example, rng: np.random.Generator) -> np.ndarray:
    weights = example.weights.astype(np.float64)
    return rng.choice(example.codes, CODES_PER_TEXT, p=weights / weights.sum())


def _steps_that_fit(minutes: float, done: int, spent_s: float) -> int:
    """Steps in the time given, at the speed so far: looked at again and again, for a busy machine changes its speed."""
    return max(done, round(60 * minutes * done / spent_s))


def _texts(prepared: Prepared) -> list[str]:
    return [example.text for example in (*prepared.products, *prepared.queries, *prepared.made)]


def _limits(tokenizer: Tokenizer, prepared: Prepared) -> TokenLimits:
    """Room for nine texts in ten, within what serving can afford."""
    queries = _ninth_decile(tokenizer, [example.text for example in (*prepared.queries, *prepared.made)][:5000])
    products = _ninth_decile(tokenizer, [example.text for example in prepared.products][:5000])
    return TokenLimits(max(16, min(MAX_QUERY_TOKENS, queries + 8)), max(24, min(MAX_PRODUCT_TOKENS, products)))


def _ninth_decile(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    lengths = [len(encoding.ids) + 2 for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    return int(np.quantile(lengths, 0.9)) if lengths else 0


def _write(output: Path, course: Course, prepared: Prepared, record: TrainingRecord, arm: TrainedArm | None) -> None:
    (output / RECORD).unlink(missing_ok=True)
    torch.nn.Module.to(torch.nn.Module.eval(course.model), "cpu")
    course.model.save_pretrained(output / MODEL)
    course.tokenizer.save(str(output / TOKENIZER))
    write_codebook(output / CODEBOOK, prepared.codebook.entries())
    (output / LINEAR).unlink(missing_ok=True)
    prepared.tagger.save(output / TAGGER)
    write_held(output / HELD, prepared.held)
    if arm is not None:
        arm.save(output / LINEAR)
    write_calibration_texts(output / CALIBRATION_TEXTS, prepared.calibration)
    shutil.rmtree(output / CHECKPOINT, ignore_errors=True)
    write_record(output, record)
