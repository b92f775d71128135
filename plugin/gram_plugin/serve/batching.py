"""The batcher: many callers, one generator, dynamic batches bounded by count and by age."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from gram_plugin.contract.codes import MAX_CODES, Generator, Role, ScoredCode
from gram_plugin.errors import DecodeError, GramError, OverloadError

_log = logging.getLogger(__name__)

STOP_S = 5.0
"""How long the batch that runs may take to end; a model that hangs never does."""

Outcome = list[ScoredCode] | DecodeError
"""What one text of a batch ends in."""


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """One caller's text; two jobs are never equal, so that equal texts keep their own futures."""

    text: str
    role: Role
    future: asyncio.Future[list[ScoredCode]]
    arrived: float


@dataclass(frozen=True)
class _Reader:
    """One model and what becomes of a batch that it reads; for one thread at a time."""

    generator: Generator
    limit: int

    def outcomes(self, batch: Sequence[_Job]) -> list[Outcome]:
        """One outcome for each job, in order; runs in a worker thread."""
        alive = [job for job in batch if not job.future.cancelled()]
        found = dict(zip(alive, self._bisect(alive), strict=True))
        return [found.get(job, []) for job in batch]

    def _bisect(self, jobs: Sequence[_Job]) -> list[Outcome]:
        if not jobs:
            return []
        try:
            return list(self._generate(jobs))
        except Exception as error:  # noqa: BLE001 - the edge of a batch item: whatever the model raises stays with it
            if len(jobs) == 1:
                _log.warning("the model failed on one text of %d characters: %r", len(jobs[0].text), error)
                return [_as_decode_error(error)]
        middle = len(jobs) // 2
        return [*self._half(jobs[:middle]), *self._half(jobs[middle:])]

    def _half(self, jobs: Sequence[_Job]) -> list[Outcome]:
        """Bisects on, unless nobody waits for these texts any more (a slow model that fails must not run 2n times)."""
        if all(job.future.cancelled() for job in jobs):
            return [[] for _ in jobs]
        return self._bisect(jobs)

    def _generate(self, jobs: Sequence[_Job]) -> list[list[ScoredCode]]:
        answers = self.generator.generate([job.text for job in jobs], jobs[0].role, self.limit)
        if len(answers) != len(jobs):
            raise DecodeError(f"the model gave {len(answers)} answers to {len(jobs)} texts")
        return answers


class Batcher:
    """Gathers concurrent calls into batches and runs them in one worker thread, one after another.

    With twins of the model there are as many threads as models, and each takes the next batch when it is free.
    A batch holds texts of one role. It starts when `max_batch` texts wait or when the oldest has waited
    `max_wait_ms`. At most `max_queue` texts wait; cancelled callers' texts leave the queue at once.
    A batch that fails is halved until only the texts that the model cannot take have failed. A model that decodes
    one text after another gets one at a time: each answer goes out when it is there, not with the last of a batch.

    Args:
        generator: the model; called from one thread at a time.
        twins: the same model again, with nothing in common that a call changes: for throughput on several cores.
        max_batch: most texts in one call, >= 1.
        max_wait_ms: longest time in milliseconds that a text waits for company, >= 0.
        max_queue: most waiting texts, >= 1; one more is an OverloadError.
        limit: most codes per text.
        newest_first: the text that came last goes first. For callers who wait only for a moment: when more comes
            than the model can read, the oldest text has always just become too late, and the newest never has.
        stop_s: seconds after which a stop leaves the batch that runs to itself.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        max_batch: int,
        max_wait_ms: float,
        max_queue: int,
        limit: int = MAX_CODES,
        newest_first: bool = False,
        stop_s: float = STOP_S,
        twins: Sequence[Generator] = (),
    ) -> None:
        self._generator = generator
        self._readers = [_Reader(model, limit) for model in (generator, *twins)]
        self._max_batch = max_batch if _reads_together(generator) else 1
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue = max_queue
        self._newest_first = newest_first
        self._stop_s = stop_s
        self._queue: dict[_Job, None] = {}  # insertion order is arrival order; removal costs O(1)
        self._changed = asyncio.Event()
        self._executor: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def generation(self) -> str:
        """The generator's model generation."""
        return self._generator.generation

    @property
    def waiting(self) -> int:
        """Texts that wait for a batch now."""
        return len(self._queue)

    @property
    def running(self) -> bool:
        """Whether calls are taken."""
        return self._task is not None

    async def start(self) -> None:
        """Starts the worker threads and takes calls; starting twice is one start."""
        if self._task is None:
            self._executor = ThreadPoolExecutor(max_workers=len(self._readers), thread_name_prefix="gram-batch")
            self._task = asyncio.create_task(self._run(self._executor), name="gram-batcher")

    async def stop(self) -> None:
        """Fails what waits, lets the batches that run end, and leaves no task behind; no thread but one that hangs."""
        task, executor = self._task, self._executor
        self._task = self._executor = None
        for job in list(self._queue):
            _settle(job, _stopped())
        self._queue.clear()
        self._changed.set()
        ended = task is None or await self._ended(task)
        if executor is not None:
            executor.shutdown(wait=ended)  # once the batches have ended the threads are idle: the loop is not blocked

    async def _ended(self, task: asyncio.Task[None]) -> bool:
        try:
            async with asyncio.timeout(self._stop_s):
                await task
        except TimeoutError:
            _log.error("the model did not end within %g s, its thread is left to itself", self._stop_s)
            return False
        return True

    async def codes(self, text: str, role: Role) -> list[ScoredCode]:
        """Ranked codes of one rendered text.

        Raises:
            OverloadError: `max_queue` texts wait already, or the batcher is not running.
            DecodeError: the model failed on this very text.
        """
        if self._task is None:
            raise _stopped()
        if len(self._queue) >= self._max_queue:
            raise OverloadError(
                f"{self._max_queue} texts wait for the model already",
                next_step="send slower, or raise max_queue if the machine has room",
            )
        job = _Job(text, role, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue[job] = None
        self._changed.set()
        try:
            return await job.future
        finally:
            self._queue.pop(job, None)  # a cancelled caller frees its place at once

    async def _run(self, executor: ThreadPoolExecutor) -> None:
        await asyncio.gather(*(self._read(reader, executor) for reader in self._readers))

    async def _read(self, reader: _Reader, executor: ThreadPoolExecutor) -> None:
        while self._task is not None:
            batch = self._take()
            if batch:
                await _answer(batch, reader, executor)
            else:
                await self._wait()

    def _take(self) -> list[_Job]:
        """The next batch, shortest text first, or nothing when it is too early for one."""
        if not self._queue:
            return []
        oldest = next(iter(self._queue))
        order = list(reversed(self._queue) if self._newest_first else self._queue)
        batch = list(islice((job for job in order if job.role is order[0].role), self._max_batch))
        if len(batch) < self._max_batch and time.monotonic() < oldest.arrived + self._max_wait_s:
            return []
        for job in batch:
            del self._queue[job]
        return sorted(batch, key=lambda job: len(job.text))  # halves of alike length: less padding when bisected

    async def _wait(self) -> None:
        """Until the queue changes or its oldest text has waited long enough."""
        self._changed.clear()
        oldest = next(iter(self._queue), None)
        wait_s = None if oldest is None else max(0.0, oldest.arrived + self._max_wait_s - time.monotonic())
        try:
            await asyncio.wait_for(self._changed.wait(), wait_s)
        except TimeoutError:
            return


async def _answer(batch: Sequence[_Job], reader: _Reader, executor: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    try:
        outcomes = await loop.run_in_executor(executor, reader.outcomes, batch)
    except BaseException as error:
        for job in batch:
            _settle(job, DecodeError(f"the worker ended with {error!r}"))
        raise
    for job, outcome in zip(batch, outcomes, strict=True):
        _settle(job, outcome)


def _reads_together(generator: Generator) -> bool:
    """False for a model of lower precision than fp32: `decode.generator` runs its texts one by one."""
    manifest = getattr(generator, "manifest", None)
    return manifest is None or manifest.precision == "fp32"


def _settle(job: _Job, outcome: list[ScoredCode] | GramError) -> None:
    if job.future.done():
        return
    if isinstance(outcome, GramError):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)


def _as_decode_error(error: Exception) -> DecodeError:
    if isinstance(error, DecodeError):
        return error
    decode_error = DecodeError(f"the model failed: {error!r}")
    decode_error.__cause__ = error
    return decode_error


def _stopped() -> OverloadError:
    return OverloadError("the server is stopping or has not started", next_step="send the request again")
