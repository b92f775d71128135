"""The generator that serves a bundle: text in, ranked codes with calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from gram_plugin.contract.bundle import (
    LINEAR,
    TAGGER,
    TOKENIZER,
    Bundle,
    Manifest,
    open_bundle,
)
from gram_plugin.contract.codebook import Codebook
from gram_plugin.contract.codes import BEAM_WIDTH, MAX_BATCH_TOKENS, MAX_CODES, Code, Role, ScoredCode
from gram_plugin.contract.tagging import Tagger
from gram_plugin.contract.text import MAX_QUERY_CHARS
from gram_plugin.decode.beam import Ranking, search
from gram_plugin.decode.finder import CodeFinder
from gram_plugin.decode.greatest import greatest
from gram_plugin.decode.likely import Likely
from gram_plugin.decode.linear import LinearArm
from gram_plugin.decode.session import Batch, DecoderSteps, Seq2SeqSession
from gram_plugin.decode.trie import Columns, Trie, trie_of
from gram_plugin.errors import BundleError, DecodeError

_LEAST_RARITY = 0.01
_REMAKE = "make the bundle again with `gram export`"


@dataclass(frozen=True)
class ProductTags:
    """The codes that a product document surely has, by its typed fields and the words that these have taught."""

    tagger: Tagger
    finder: CodeFinder

    def codes_of(self, source: Mapping[str, Any]) -> list[Code]:
        """All of them, in no order of importance."""
        return self.finder.codes_of(self.tagger.attributes(source))


@dataclass(frozen=True)
class OnnxGenerator:
    """A `contract.codes.Generator` over onnxruntime; safe for one call at a time.

    For a query, P(code) = s · P_linear(code) + (1 - s) · P_generator(code), s being the manifest's `linear_share`;
    of codes outside its beams the generator says 0. What it is asked at once it reads in batches of texts of like
    length, each of at most `max_batch_tokens` tokens with padding: that bounds the memory of reading.
    """

    bundle: Bundle
    tokenizer: Tokenizer
    session: Seq2SeqSession
    columns: Columns
    trie: Trie
    beam_width: int
    linear: LinearArm | None
    tags: ProductTags
    max_batch_tokens: int = MAX_BATCH_TOKENS

    @classmethod
    def open(cls, bundle_path: Path, *, threads: int = 1, beam_width: int = BEAM_WIDTH) -> OnnxGenerator:
        """Opens a bundle and checks all of it before the first text.

        Raises:
            BundleError: the bundle is incomplete, damaged, of another version, or contradicts itself.
        """
        return cls.of(open_bundle(bundle_path), threads=threads, beam_width=beam_width)

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 1, beam_width: int = BEAM_WIDTH) -> OnnxGenerator:
        """Serves a bundle that is open already; raises like `open`."""
        tokenizer = _open_tokenizer(bundle.file(TOKENIZER))
        session = Seq2SeqSession.open(bundle, threads=threads, rows=beam_width)
        columns = Columns.of(bundle.manifest.tokens, len(bundle.codebook.attributes), session.vocabulary)
        _check_vocabulary(bundle, tokenizer, session.vocabulary, columns)
        linear = LinearArm.load(bundle.file(LINEAR), len(bundle.codebook)) if bundle.manifest.linear_share else None
        trie = trie_of(bundle.codebook, columns)
        return cls(
            bundle,
            tokenizer,
            session,
            columns,
            trie,
            beam_width,
            linear,
            ProductTags(Tagger.load(bundle.file(TAGGER)), CodeFinder(bundle.codebook, trie, columns)),
        )

    @property
    def generation(self) -> str:
        """The model generation, such as `g3`."""
        return self.manifest.generation

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def codebook(self) -> Codebook:
        """The bundle's codebook; `Ranking.code` counts in it."""
        return self.bundle.codebook

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Writes at most `limit` codes for each rendered text, best first; none for a text without words.

        Raises:
            DecodeError: the model failed; no partial answer is given.
        """
        return [self._scored(ranking, role) for ranking in self.rank(texts, role, limit)]

    def rank(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[Ranking]:
        """Like `generate`, but with the models' own log-probabilities, before calibration.

        Raises:
            DecodeError: the model failed, or `limit` is below 1.
        """
        if limit < 1:
            raise DecodeError(f"limit must be at least 1, found {limit}")
        share, linear = self.manifest.linear_share, self.linear
        if linear is None or role is Role.PRODUCT:
            return self.written(texts, role, limit)
        alone = share == 1  # then the generator need not be asked
        written = [Ranking.empty()] * len(texts) if alone else self.written(texts, role, min(limit, self.beam_width))
        return [
            blend(found, linear.likely(text, limit, found.code), share, limit)
            for text, found in zip(texts, written, strict=True)
        ]

    def written(self, texts: Sequence[str], role: Role, limit: int) -> list[Ranking]:
        """What the generator writes by itself, without the linear arm; raises like `rank`."""
        ids = [self.frame(text, role) for text in texts]
        rankings = [Ranking.empty() for _ in texts]
        for group in self._groups([len(found) for found in ids]):
            batch = Batch.of([ids[place] for place in group], self.manifest.tokens.pad)
            for place, ranking in zip(group, self._search(batch, limit), strict=True):
                rankings[place] = ranking
        return rankings

    def steps(self, batch: Batch) -> DecoderSteps:
        """The model that has read a batch, ready to write."""
        return self.session.read(batch, start=self.manifest.tokens.decoder_start, offset=self.columns.offset)

    def frame(self, text: str, role: Role) -> list[int]:
        """The model's input for a rendered text; empty when the text has no token."""
        most = MAX_QUERY_CHARS if role is Role.QUERY else self.manifest.rendering.max_chars
        readable = text[:most].strip().encode("utf-8", "replace").decode("utf-8")
        ids = self.tokenizer.encode(readable, add_special_tokens=False).ids
        return self.manifest.tokens.framed(ids, role) if ids else []

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which texts run together; by themselves where they would change each other's numbers."""
        return batches_of(lengths, self.max_batch_tokens if self.manifest.precision == "fp32" else 0)

    def _search(self, batch: Batch, limit: int) -> list[Ranking]:
        width = max(self.beam_width, limit)
        return search(self.trie, self.steps(batch), len(batch.ids), width=width, limit=limit)

    def _scored(self, ranking: Ranking, role: Role) -> list[ScoredCode]:
        probabilities = self.bundle.calibration[role].at(ranking.log_probability)
        rarity = rarity_of(self.codebook.products[ranking.code], self.manifest.products)
        return [
            ScoredCode(self.codebook.code(index), probability, rare)
            for index, probability, rare in zip(
                ranking.code.tolist(), probabilities.tolist(), rarity.tolist(), strict=True
            )
        ]


def batches_of(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Places of the texts that are read together: texts of like length, so that little is padding.

    Args:
        lengths: tokens of each text; one of none is in no batch.
        most_tokens: bound of a batch, texts times the longest of them; a text above it has a batch of its own.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not lengths[place]:
            continue
        if batches and (len(batches[-1]) + 1) * lengths[place] <= most_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def blend(written: Ranking, linear: Likely | None, share: float, limit: int) -> Ranking:
    """The mixture of what the generator wrote and what the linear arm says, best first.

    Args:
        written: the generator's beams.
        linear: the arm's likeliest `limit` codes and all that are written; None for a text of which the arm knows no
            part: what the generator then wrote is a guess. Such a text, a model number mostly, is left to the words.
        share: the linear arm's part, 0 to 1.
        limit: most codes in the answer.
    """
    if linear is None:
        return Ranking.empty()
    parts = share * linear.probability, (1 - share) * np.exp(written.log_probability)
    both = Likely.summed(np.concatenate([linear.code, written.code]), np.concatenate(parts))
    best = greatest(both.probability, limit)  # equal ones in order of the codebook
    best = best[both.probability[best] > 0]
    return Ranking(both.code[best], np.log(both.probability[best]))


def rarity_of(carriers: npt.ArrayLike, products: int) -> npt.NDArray[np.float64]:
    """`ScoredCode.rarity` of codes that so many products carry, shape of `carriers` (codes,).

    1 for all where the size of the catalogue is not known.
    """
    counts = np.maximum(1, np.asarray(carriers, dtype=np.float64))
    if products < 2:
        return np.ones(counts.shape)
    rarity = np.log(products / np.minimum(counts, products)) / np.log(products)
    return np.asarray(np.clip(rarity, _LEAST_RARITY, 1.0))


def _open_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BundleError(f"{path} is no tokenizer: {error}", next_step=_REMAKE) from error
    tokenizer.encode_special_tokens = True  # a text that spells a special token must not become one
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_vocabulary(bundle: Bundle, tokenizer: Tokenizer, vocabulary: int, columns: Columns) -> None:
    """Text, attributes and logits must share one numbering; each role needs a prompt."""
    tokens = bundle.manifest.tokens
    end = columns.first_attribute + len(bundle.codebook.attributes)
    if tokenizer.get_vocab_size() > tokens.first_attribute:
        _contradiction(bundle, f"{tokenizer.get_vocab_size()} text tokens, attributes from {tokens.first_attribute}")
    if end > vocabulary:
        _contradiction(bundle, f"attributes up to column {end - 1}, logits of {vocabulary} columns")
    missing = [role.value for role in Role if role.value not in tokens.prompts]
    if missing:
        _contradiction(bundle, f"no prompt for role {', '.join(missing)}")
    if bundle.manifest.precision not in ("fp32", "int8"):
        _contradiction(bundle, f"precision {bundle.manifest.precision!r}, this version runs fp32 and int8")


def _contradiction(bundle: Bundle, finding: str) -> None:
    raise BundleError(f"{bundle.path}: the parts do not fit together: {finding}", next_step=_REMAKE)
