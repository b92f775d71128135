"""One index being tuned: its scores, its lexical query, and how strong codes are in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from opensearchpy import OpenSearch

from gram_exporter.config import Config, SearchConfig
from gram_exporter.feedback import read_judgments
from gram_exporter.lexical import lexical_query
from gram_exporter.measures import Judgments
from gram_exporter.record import CALIBRATION_TEXTS, HELD, read_calibration_texts
from gram_exporter.tune import Tuned, development_queries, tune_lexical, tune_strength
from gram_plugin.contract.codes import Role
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import CalibrationError, CodeError
from gram_plugin.progress import Progress
from gram_plugin.search.calibrate import DEFAULT_STRENGTH, calibrate_index
from gram_plugin.search.client import asking, connect
from gram_plugin.search.mappings import IndexCalibration, check_index, write_calibration
from gram_plugin.search.query import ClauseSettings
from gram_plugin.search.titles import read_title_keywords

TIMEOUT_S = 60.0
FEWEST_HELD = 50
"""Queries of held-out feedback below which the default strength is the better guess."""


@dataclass(frozen=True)
class Tuning:
    """Index, model and lexical query that belong together."""

    client: OpenSearch
    config: Config
    index: str
    search: SearchConfig
    generator: OnnxGenerator
    weighted: bool
    progress: Progress

    @classmethod
    @contextmanager
    def open(cls, config: Config, index: str, bundle: Path, url: str, progress: Progress) -> Iterator[Tuning]:
        """Connects and checks both ends.

        Raises:
            MappingError: the index lacks the fields for codes.
            BundleError: the bundle cannot be used.
        """
        with connect(url, timeout_s=TIMEOUT_S) as client:
            fields = check_index(client, index)
            yield cls(client, config, index, config.search, OnnxGenerator.open(bundle), fields.weighted, progress)

    def with_lexical(self, dev: Judgments) -> Tuning:
        """The same with the lexical query that does best on development judgments.

        It searches the fields of `[search]`: that an attribute is trained on does not make it searchable as text.
        """
        catalogue = self.config.catalogue
        named = [field.partition("^")[0] for field in self.search.fields]
        searched = list(dict.fromkeys(named or [*catalogue.text, *catalogue.attributes]))
        text = [name for name in catalogue.text if name in searched] or searched[:1]
        others = [name for name in searched if name not in text]
        own = self.search if self.search.fields else None
        found = tune_lexical(self.client, self.index, text, others, dev, own=own, progress=self.progress)
        return replace(self, search=replace(found, index=self.index, strength=self.search.strength))

    def calibrate(
        self, dev: Judgments | None, training: Path, *, tell: Callable[[Tuned], None] = lambda _: None
    ) -> IndexCalibration:
        """Measures the score scale, chooses the strength, and keeps both in the index.

        The strength is that of gram.toml, else the best on `dev`, else the best on the feedback that training kept
        apart, where that is enough, else the default. Without `dev` the scale is measured on the queries that training
        kept apart. `tell` gets the scores when strengths are compared.

        Raises:
            CalibrationError: there are neither judgments nor a training with queries, or no codes to tune.
            JudgmentsError: no query of `dev` has a relevant product.
        """
        dev = held_feedback(training) if dev is None else dev
        queries = _held_queries(training) if dev is None else development_queries(dev)
        lexical = lexical_query(self.search)
        generation = self.generator.generation
        measured = calibrate_index(self.client, self.index, queries, lexical, generation=generation)
        kept = replace(measured, strength=self._strength(dev, measured.score_scale, tell))
        write_calibration(self.client, self.index, kept)
        return kept

    def _strength(self, dev: Judgments | None, score_scale: float, tell: Callable[[Tuned], None]) -> float:
        if self.search.strength is not None or dev is None:
            return self.search.strength or DEFAULT_STRENGTH
        self._check_codes()
        tuned = tune_strength(
            self.client,
            self.index,
            self.generator,
            lexical_query(self.search),
            dev,
            score_scale=score_scale,
            settings=ClauseSettings(
                strength=1.0,
                weighted=self.weighted,
                titles=read_title_keywords(self.client, self.index, self.config.catalogue.text[0]),
            ),
            progress=self.progress,
        )
        tell(tuned)
        return tuned.strength

    def _check_codes(self) -> None:
        """Without codes in the index every strength is as good as any."""
        coded = {"query": {"term": {"gram.model": self.generator.generation}}}
        with asking(self.client, f"counting codes in {self.index}"):
            found = self.client.count(index=self.index, body=coded)["count"]
        if not found:
            raise CalibrationError(
                f"no product of {self.index} has codes of generation {self.generator.generation}",
                next_step="index the products first, with `gram ingest` or through `gram sidecar`",
            )


def held_feedback(training: Path) -> Judgments | None:
    """Feedback that training did not read, as judgments; None where it is too little to choose by."""
    path = training / HELD
    if not path.is_file():
        return None
    held = read_judgments(path)
    return held if len(held) >= FEWEST_HELD else None


def _held_queries(training: Path) -> list[str]:
    path = training / CALIBRATION_TEXTS
    if not path.is_file():
        raise CalibrationError(
            f"there are no queries to measure with: no judgments, and no {path}",
            next_step="pass --judgments, or --training with the folder of `gram train`",
        )
    try:
        held = [item.text for item in read_calibration_texts(path) if item.role is Role.QUERY]
    except (OSError, ValueError, KeyError, CodeError) as error:
        raise CalibrationError(f"{path} cannot be read: {error!r}", next_step="run `gram train` again") from error
    if not held:
        raise CalibrationError(f"{path} holds no queries", next_step="pass --judgments")
    return held
