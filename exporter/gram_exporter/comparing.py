"""One comparison as `gram evaluate` runs it: OpenSearch direct against a shim, found or started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from gram_exporter.arms import arms_of, check_modes
from gram_exporter.config import SearchConfig
from gram_exporter.evaluate import Evaluation, evaluate
from gram_exporter.lexical import lexical_query
from gram_exporter.measures import Judgments, require_measured
from gram_exporter.servers import MEASURED, running
from gram_plugin.contract.bundle import read_manifest
from gram_plugin.errors import SearchError
from gram_plugin.search.client import address, connect, reason_of, url_of
from gram_plugin.search.mappings import check_index, read_calibration

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Comparison:
    """What is compared where; `shim` None starts one of our own."""

    search: SearchConfig
    index: str
    url: str
    bundle: Path
    modes: Sequence[str]
    shim: str | None = None

    def run(
        self, judgments: Judgments, kinds: Mapping[str, str], progress: Callable[[str, int, int], None]
    ) -> Evaluation:
        """Evaluates all arms.

        Raises:
            MappingError: the index lacks the fields for codes.
            CalibrationError: the index has no λ for the bundle's generation: the shim would serve no codes.
            JudgmentsError: no query has a relevant product.
            SearchError: OpenSearch or the shim is gone, or the shim is none.
        """
        modes = check_modes(self.modes)
        require_measured(judgments)  # before a shim is started for nothing
        with connect(self.url, timeout_s=TIMEOUT_S) as direct:
            check_index(direct, self.index)
            read_calibration(direct, self.index, generation=read_manifest(self.bundle).generation)
            with self._shim() as shim:
                arms = arms_of(direct, shim, modes)
                lexical = lexical_query(self.search)
                return evaluate(arms, self.index, lexical, judgments, families=kinds, progress=progress)[0]

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
