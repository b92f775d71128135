"""Renewal: a new bundle takes the place of the one that serves, without a search that notices."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gram_plugin.contract.codes import Generator
from gram_plugin.errors import GramError
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.model import WARM_UP_S, Model, Serving

LOG = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps the interpreter while a bundle is opened."""


@dataclass(frozen=True)
class Trace:
    """What tells one bundle on disk from another: where its path leads, and its files by name, size, time and inode."""

    folder: Path
    files: tuple[tuple[str, int, int, int], ...]


def trace_of(bundle: Path) -> Trace | None:
    """The trace of a bundle, through symbolic links; None while there is none."""
    try:
        folder = bundle.resolve(strict=True)
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    except OSError:
        return None
    return Trace(folder, tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


@dataclass(frozen=True)
class Source:
    """Where models come from: the folder, how it is opened and how a model is made of what is in it."""

    bundle: Path
    reopen: Callable[[], Generator]
    make: Callable[[Generator], Model]


class Renewal:
    """Watches a bundle and is asked by a signal; what cannot be used changes nothing.

    A changed bundle is opened once it has stayed the same from one check to the next, so that a copy under way is left
    alone; `ask` opens it at once. What was refused is tried again when its files change, or when asked.

    Args:
        source: the bundle.
        serving: the model that serves.
        metrics: counts every attempt.
        opened: trace of the bundle from before the model that serves was opened; None where there was no bundle.
        check_s: seconds from one look at the folder to the next; 0 never looks without being asked.
        warm_up_s: longest that a new model may take for its first text.
    """

    def __init__(
        self,
        source: Source,
        serving: Serving,
        metrics: ShimMetrics,
        *,
        opened: Trace | None,
        check_s: float,
        warm_up_s: float = WARM_UP_S,
    ) -> None:
        self._source = source
        self._serving = serving
        self._metrics = metrics
        self._check_s = check_s
        self._warm_up_s = warm_up_s
        self._ending: set[asyncio.Task[None]] = set()
        self._served = opened
        self._before = self._served
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def ask(self) -> None:
        """Opens the bundle again now, changed or not; may be called from a signal or another thread."""
        if self._loop is None:
            self._asked.set()
        else:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def run(self) -> None:
        """Until cancelled; the models that it replaced have ended then."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._watch()
        finally:
            await asyncio.gather(*self._ending, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            asked = await self._wait()
            try:
                await self._look(asked)
            except Exception:  # the edge of one attempt: the model that serves goes on
                self._metrics.bundles.labels("refused").inc()
                LOG.exception("the new bundle could not be taken, the old one serves on")

    async def _wait(self) -> bool:
        """Whether somebody asked, or it was only time to look."""
        try:
            async with asyncio.timeout(self._check_s or None):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _look(self, asked: bool) -> None:
        now = await asyncio.to_thread(trace_of, self._source.bundle)
        settled, self._before = now == self._before, now
        if asked or (settled and now != self._served):
            self._served = now
            if now is None and not asked:
                LOG.warning("the bundle %s is gone, the model in memory serves on", self._source.bundle)
            else:
                await self._renew()

    async def _renew(self) -> None:
        """Opens, checks and warms the new model beside the old one, and only then lets it serve."""
        try:
            with _sharing():
                generator = await asyncio.to_thread(self._source.reopen)
            model = self._source.make(generator)
            await model.start()
        except GramError as error:
            self._refuse(error)
            return
        try:
            await model.warm_up(self._warm_up_s)
        except BaseException as error:
            self._beside(model.stop())
            if not isinstance(error, GramError | TimeoutError):
                raise
            late = f"it did not decode a text within {self._warm_up_s:g} s"
            self._refuse(late if isinstance(error, TimeoutError) else error)
            return
        self._take(model)

    def _beside(self, ending: Coroutine[None, None, None]) -> None:
        """Lets a model end while the watch goes on: one that hangs must not keep the next from being taken."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.error("a model did not end as it should: %r", task.exception())

    def _take(self, model: Model) -> None:
        old = self._serving.model.generation
        self._metrics.bundles.labels("taken").inc()
        self._metrics.breaker.set(False)
        fields = {"event": "bundle", "outcome": "taken", "generation": model.generation, "before": old}
        LOG.info("a new bundle serves", extra={"fields": fields})
        if old and old != model.generation:
            LOG.warning(
                "indices with codes of %s stay lexical until `gram backfill` and `gram calibrate` are run for %s",
                old,
                model.generation,
            )
        self._beside(self._serving.replace(model))

    def _refuse(self, error: Exception | str) -> None:
        self._metrics.bundles.labels("refused").inc()
        LOG.error("the new bundle cannot be used, the old one serves on: %s", error)


@contextmanager
def _sharing() -> Iterator[None]:
    """Lets searches have the interpreter every half a millisecond, and no collection of garbage between.

    Opening a bundle makes very many objects. With Python's defaults, even in a thread of its own, it held up searches
    for 130 ms at a time, longer than their budgets.
    """
    interval_s, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        if collecting:
            gc.enable()
