"""Rivals of codes made ready for one evaluation: arms that OpenSearch answers, and rankings that are computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch

from gram_exporter.arms import BASELINE, DENSE_ARMS, Arm, ArmName
from gram_exporter.config import Config, SearchConfig
from gram_exporter.feedback import Feedback, positives
from gram_exporter.lexical import Lexical, lexical_query
from gram_exporter.measures import DEPTH, Judgments, Run, require_measured
from gram_exporter.prepare import rendering_of
from gram_exporter.rivals.expansion import BOOSTS, expanded_index, expanded_search
from gram_exporter.rivals.oracle import IndexCodes, OracleGenerator, read_codes
from gram_exporter.source import indexed_products
from gram_exporter.tune import development_queries, score_lexical, tune_strength
from gram_plugin.contract.codes import Role
from gram_plugin.contract.text import render_product, render_query
from gram_plugin.errors import ConfigError
from gram_plugin.progress import Progress
from gram_plugin.search.mappings import check_index, read_calibration
from gram_plugin.search.query import ClauseSettings, Mode, enrich
from gram_plugin.search.titles import read_title_keywords

MINILM = "MiniLM"


@dataclass(frozen=True)
class RivalSettings:
    """How rivals are made.

    Attributes:
        work: folder that keeps vectors and fine-tuned encoders for the next run.
        development: judgments that weights are chosen by; None leaves each rival at its default.
        encoder: checkpoint folder of a sentence encoder; None is the packaged MiniLM.
        minutes: longest fine-tuning.
        steps: most steps of it.
    """

    work: Path = Path("gram-rivals")
    development: Judgments | None = None
    encoder: Path | None = None
    minutes: float = 30.0
    steps: int = 400


@dataclass(frozen=True)
class Lineup:
    """One evaluation's index, query, settings and test judgments."""

    client: OpenSearch
    index: str
    config: Config
    search: SearchConfig
    test: Judgments
    settings: RivalSettings
    progress: Progress

    def check(self, names: Sequence[ArmName]) -> None:
        """Finds what would end the evaluation after minutes of work.

        Raises:
            ConfigError: `fuzzy` beside a query that has a fuzzy companion, or a folder that is no checkpoint.
            ExtraMissingError: a dense arm, no encoder named, and none installed.
        """
        if ArmName.FUZZY in names and self.search.fuzzy:
            raise ConfigError(
                "the arm fuzzy is what the lexical query is already",
                next_step="leave --arm fuzzy out, or set fuzzy to 0 in [search] of gram.toml",
            )
        if any(name in names for name in DENSE_ARMS):
            from gram_exporter.rivals.encoder import check_checkpoint, packaged_encoder

            check_checkpoint(self.settings.encoder or packaged_encoder())

    @contextmanager
    def arms(self, names: Sequence[ArmName]) -> Iterator[list[Arm]]:
        """The arms among `names` that OpenSearch answers; what they need is there while the block runs.

        Raises:
            CalibrationError: the index has no codes, or no λ.
            SearchError: OpenSearch refused something.
        """
        found: list[Arm] = []
        with ExitStack() as stack:
            if ArmName.FUZZY in names:
                found.append(self._fuzzy())
            if ArmName.EXPANSION in names or ArmName.ORACLE in names:
                codes = read_codes(self.client, self.index, read_calibration(self.client, self.index).generation)
                if ArmName.EXPANSION in names:
                    copy = expanded_index(self.client, self.index, codes, self.search, self.progress)
                    found.append(self._expansion(stack.enter_context(copy)))
                if ArmName.ORACLE in names:
                    found.append(self._oracle(codes))
            yield found

    def rankings(self, names: Sequence[ArmName]) -> dict[str, Run]:
        """The rankings of the dense arms among `names`, by the arms' names, for the test queries.

        Raises:
            ExtraMissingError: no encoder is named, and none is installed.
            ConfigError: the encoder cannot be read.
            TrainingError: there is nothing to fine-tune on.
            SearchError: OpenSearch refused something.
        """
        chosen = [name for name in DENSE_ARMS if name in names]
        if not chosen:
            return {}
        # torch takes seconds to import, and the other arms have no use for it.
        from gram_exporter.rivals.encoder import packaged_encoder
        from gram_exporter.rivals.two_tower import Pairs, TwoTowerSettings, fine_tuned

        start = self.settings.encoder or packaged_encoder()
        label = self.settings.encoder.resolve().name if self.settings.encoder else MINILM
        rendering = rendering_of(self.config)
        products = indexed_products(self.client, self.index)
        texts = {product.id: render_product(product.source, rendering) for product in products}
        runs: dict[str, Run] = {}
        if ArmName.DENSE in chosen:
            runs |= self._dense(start, label, texts)
        if ArmName.DENSE_TUNED in chosen:
            feedback = self.feedback()
            course = TwoTowerSettings(
                steps=self.settings.steps, minutes=self.settings.minutes, seed=self.config.training.seed
            )
            tuned = fine_tuned(
                start, Pairs(texts, feedback.wanted, feedback.unwanted), course, self.settings.work, self.progress
            )
            runs |= self._dense(tuned, f"{label} fine-tuned", texts)
        return runs

    @property
    def development(self) -> Judgments | None:
        """Development judgments without the queries of the test, however they are written; None if none are left."""
        tested = {render_query(query) for query in self.test}
        given = self.settings.development or {}
        kept = {query: grades for query, grades in given.items() if render_query(query) not in tested}
        return kept if any(grade > 0 for grades in kept.values() for grade in grades.values()) else None

    def feedback(self) -> Feedback:
        """What `gram train` learns from, by rendered query, less the development queries.

        Raises:
            JudgmentsError: a file of `[feedback]` cannot be read.
        """
        found, held = positives(self.config), {render_query(query) for query in self.settings.development or {}}
        wanted: dict[str, dict[str, float]] = {}
        unwanted: dict[str, frozenset[str]] = {}
        for query, products in found.wanted.items():
            wanted.setdefault(render_query(query), {}).update(products)
        for query, ids in found.unwanted.items():
            unwanted[render_query(query)] = ids | unwanted.get(render_query(query), frozenset())
        return Feedback(
            {query: own for query, own in wanted.items() if query not in held},
            {query: own for query, own in unwanted.items() if query not in held},
        )

    def _fuzzy(self) -> Arm:
        return Arm(f"{BASELINE} + fuzzy", self.client, query=lexical_query(replace(self.search, fuzzy=FUZZY_WEIGHT)))

    def _expansion(self, copy: str) -> Arm:
        searches = {boost: lexical_query(expanded_search(self.search, boost)) for boost in BOOSTS}
        boost, judged = 1.0, self.development
        if judged is not None:
            queries = development_queries(judged)
            scores = {b: score_lexical(self.client, copy, query, judged, queries) for b, query in searches.items()}
            boost = max(scores, key=lambda tried: scores[tried])
        return Arm(f"{BASELINE} + expansion", self.client, query=searches[boost], index=copy, benchmark_only=True)

    def _oracle(self, codes: IndexCodes) -> Arm:
        """The clause with the codes of the relevant products; λ tuned for them, or else that of the index."""
        calibration, judged = read_calibration(self.client, self.index), self.development
        plain = ClauseSettings(
            calibration.points,
            weighted=check_index(self.client, self.index).weighted,
            titles=read_title_keywords(self.client, self.index, self.config.catalogue.text[0]),
        )
        lexical = lexical_query(self.search)
        if judged is not None:
            tuned = tune_strength(
                self.client,
                self.index,
                OracleGenerator(codes, judged),
                lexical,
                judged,
                score_scale=calibration.score_scale,
                settings=plain,
                progress=lambda _, done, total: self.progress("tune the oracle", done, total),
            )
            plain = replace(plain, strength=tuned.strength * calibration.score_scale)
        query = oracle_query(lexical, OracleGenerator(codes, self.test), plain)
        return Arm(f"{BASELINE} + codes, oracle", self.client, query=query, benchmark_only=True)

    def _dense(self, folder: Path, label: str, texts: Mapping[str, str]) -> dict[str, Run]:
        from gram_exporter.rivals.dense import Dense
        from gram_exporter.rivals.encoder import SentenceEncoder
        from gram_exporter.rivals.vectors import catalogue_vectors

        encoder = SentenceEncoder.open(folder)
        stage = f"encode for {label}"
        catalogue = catalogue_vectors(encoder, texts, self.settings.work / "vectors", self.progress, stage=stage)
        lexical = lexical_query(self.search)
        dense = Dense(self.client, self.index, lexical, encoder, catalogue, self.progress, label)
        return dense.runs(require_measured(self.test), self.development, DEPTH)


FUZZY_WEIGHT = 0.3


def oracle_query(lexical: Lexical, generator: OracleGenerator, settings: ClauseSettings) -> Lexical:
    """Text to the lexical query with the clause beside it, as the shim puts it in mode `recall`."""

    def query_of(text: str) -> dict[str, Any]:
        codes = generator.generate([render_query(text)], Role.QUERY)[0]
        body = enrich({"query": lexical(text)}, codes, generator.generation, settings, Mode.RECALL, text=text)
        return dict(body["query"])

    return query_of
