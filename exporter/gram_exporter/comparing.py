"""One comparison as `gram evaluate` runs it: the lexical query against arms with codes, and against their rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from gram_exporter.arms import BASELINE, Arm, ArmName, arms_of, check_arms
from gram_exporter.config import Config, SearchConfig
from gram_exporter.evaluate import Evaluation, evaluate
from gram_exporter.lexical import lexical_query
from gram_exporter.measures import Judgments, require_measured
from gram_exporter.rivals.lineup import Lineup, RivalSettings
from gram_exporter.servers import MEASURED, running
from gram_plugin.contract.bundle import read_manifest
from gram_plugin.errors import SearchError
from gram_plugin.search.client import address, connect, reason_of, url_of
from gram_plugin.search.mappings import check_index, read_calibration
from gram_plugin.search.query import Mode

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Comparison:
    """What is compared where.

    Attributes:
        config: catalogue and feedback, which rivals read.
        search: the lexical query that all arms share.
        index: what is searched.
        url: OpenSearch.
        bundle: what a started shim serves; not read when no arm needs a shim.
        arms: names of `ArmName`, besides the baseline.
        shim: a shim that runs; None starts one of our own.
        rivals: how rivals are made.
    """

    config: Config
    search: SearchConfig
    index: str
    url: str
    bundle: Path
    arms: Sequence[str]
    shim: str | None = None
    rivals: RivalSettings = field(default_factory=RivalSettings)

    def run(
        self, judgments: Judgments, kinds: Mapping[str, str], progress: Callable[[str, int, int], None]
    ) -> Evaluation:
        """Evaluates all arms.

        Raises:
            ConfigError: an arm is not known, or makes no sense here.
            ExtraMissingError: a dense arm has no encoder.
            MappingError: the index lacks the fields for codes.
            CalibrationError: the index has no λ for the bundle's generation: the shim would serve no codes.
            JudgmentsError: no query has a relevant product.
            SearchError: OpenSearch or the shim is gone, or the shim is none.
        """
        names = check_arms(self.arms)
        require_measured(judgments)  # before a shim is started for nothing
        with connect(self.url, timeout_s=TIMEOUT_S) as direct, ExitStack() as stack:
            lineup = Lineup(direct, self.index, self.config, self.search, judgments, self.rivals, progress)
            lineup.check(names)
            arms = self._shim_arms(direct, names, stack)
            arms += stack.enter_context(lineup.arms(names))
            rankings = lineup.rankings(names)
            lexical = lexical_query(self.search)
            found, _ = evaluate(
                arms, self.index, lexical, judgments, rankings=rankings, families=kinds, progress=progress
            )
            return found

    def _shim_arms(self, direct: OpenSearch, names: Sequence[ArmName], stack: ExitStack) -> list[Arm]:
        """The baseline, and the arms that a shim answers, which is started if one is needed and none is named."""
        modes: list[Mode] = [name.mode for name in names if name.mode is not None]
        if not modes:
            return [Arm(BASELINE, direct)]
        check_index(direct, self.index)
        read_calibration(direct, self.index, generation=read_manifest(self.bundle).generation)
        return arms_of(direct, stack.enter_context(self._shim()), modes)

    @contextmanager
    def _shim(self) -> Iterator[OpenSearch]:
        """A client of the shim, with the credentials that OpenSearch is asked with: the shim has none of its own."""
        caller = address(self.url)
        started = nullcontext(self.shim) if self.shim else running("shim", self.bundle, self.url, MEASURED)
        with (
            started as url,
            connect(url, timeout_s=TIMEOUT_S, username=caller.username, password=caller.password) as client,
        ):
            _check_shim(client)
            yield client


def _check_shim(client: OpenSearch) -> None:
    """OpenSearch itself would refuse the first search that names a mode, in words about a class of Java."""
    try:
        client.transport.perform_request("GET", "/-/ready")
    except OpenSearchException as error:
        raise SearchError(
            f"{url_of(client)} is no gram shim that is ready: {reason_of(error)}",
            next_step="give the address that `gram shim` listens on, or none: then one is started",
        ) from error
