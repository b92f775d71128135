"""The batcher: what is batched with what, and what one bad text, caller or stop does to the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import MAX_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.errors import DecodeError, OverloadError
from gram_plugin.serve.batching import Batcher


def codes_of(text: str) -> list[ScoredCode]:
    """What the recording generator answers: one code that names the text."""
    return [ScoredCode(Code.of([Attribute.of("type", text)]), 0.5)]


class RecordingGenerator:
    """Remembers each call, fails on texts that hold `poison`, and can be held at a gate."""

    generation = "g1"

    def __init__(self, *, held: bool = False) -> None:
        self.calls: list[tuple[list[str], Role]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        if not held:
            self.gate.set()

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes that name the texts."""
        self.calls.append((list(texts), role))
        self.entered.set()
        self.gate.wait(10)
        if any("poison" in text for text in texts):
            raise ValueError("bad text")
        return [codes_of(text) for text in texts]


class ShortGenerator(RecordingGenerator):
    """Forgets one answer of each call."""

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """One answer too few."""
        return super().generate(texts, role, limit)[1:]


class Int8Generator(RecordingGenerator):
    """Decodes one text after another, as its manifest tells, and is held only at the text `last`."""

    manifest = SimpleNamespace(precision="int8")

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes that name the texts."""
        if "last" in texts:
            self.gate.wait(10)
        return [codes_of(text) for text in texts]


async def with_batcher(
    generator: RecordingGenerator,
    use: Callable[[Batcher], Awaitable[None]],
    *,
    max_batch: int = 8,
    max_wait_ms: float = 0,
    max_queue: int = 100,
    newest_first: bool = False,
) -> None:
    """Runs `use` with a started batcher and stops it whatever happens."""
    batcher = Batcher(
        generator, max_batch=max_batch, max_wait_ms=max_wait_ms, max_queue=max_queue, newest_first=newest_first
    )
    await batcher.start()
    try:
        await use(batcher)
    finally:
        generator.gate.set()
        await batcher.stop()


async def ask(batcher: Batcher, *texts: str, role: Role = Role.PRODUCT) -> list[list[ScoredCode] | BaseException]:
    """Asks for all texts at once; a failure stands in its text's place."""
    return await asyncio.gather(*(batcher.codes(text, role) for text in texts), return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is of the batcher, which has no event to wait on
            await asyncio.sleep(0)


async def test_concurrent_texts_share_one_call_sorted_by_length() -> None:
    """Texts that come together are one call, shortest first, and each caller gets its own answer."""
    generator = RecordingGenerator()

    async def use(batcher: Batcher) -> None:
        assert await ask(batcher, "ccc", "a", "bb") == [codes_of("ccc"), codes_of("a"), codes_of("bb")]

    await with_batcher(generator, use, max_batch=3, max_wait_ms=5_000)
    assert generator.calls == [(["a", "bb", "ccc"], Role.PRODUCT)]


async def test_answers_of_a_model_that_decodes_one_by_one_do_not_wait_for_the_last() -> None:
    """Of three texts that come together the first two are answered while the third is in the model."""

    async def use(batcher: Batcher) -> None:
        first, second, last = (asyncio.create_task(batcher.codes(text, Role.QUERY)) for text in ("a", "b", "last"))
        assert await asyncio.gather(first, second) == [codes_of("a"), codes_of("b")]
        assert not last.done()

    await with_batcher(Int8Generator(held=True), use, max_wait_ms=5)


class MeetingGenerator(RecordingGenerator):
    """Answers only once another model of the same barrier reads a text too."""

    manifest = SimpleNamespace(precision="int8")

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self._barrier = barrier

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes that name the texts."""
        self._barrier.wait(10)
        return super().generate(texts, role, limit)


async def test_twins_of_a_model_read_texts_at_the_same_time() -> None:
    """With one twin two texts are in two models at once, each in one; callers get their own answers."""
    barrier = threading.Barrier(2)
    first, second = MeetingGenerator(barrier), MeetingGenerator(barrier)
    batcher = Batcher(first, twins=[second], max_batch=8, max_wait_ms=0, max_queue=100)
    await batcher.start()
    assert await ask(batcher, "a", "b", "c", "d") == [codes_of(text) for text in "abcd"]
    await batcher.stop()
    read = [text for model in (first, second) for texts, _ in model.calls for text in texts]
    assert (len(first.calls), sorted(read)) == (2, ["a", "b", "c", "d"])


async def test_a_batch_is_bounded_by_count() -> None:
    """More texts than `max_batch` are several calls in the order of arrival."""
    generator = RecordingGenerator()

    async def use(batcher: Batcher) -> None:
        assert await ask(batcher, "a", "b", "c") == [codes_of("a"), codes_of("b"), codes_of("c")]

    await with_batcher(generator, use, max_batch=2)
    assert generator.calls == [(["a", "b"], Role.PRODUCT), (["c"], Role.PRODUCT)]


@pytest.mark.parametrize(("newest_first", "order"), [(False, "abc"), (True, "cba")])
async def test_what_waits_goes_in_the_order_of_its_callers_patience(newest_first: bool, order: str) -> None:
    """The oldest first where callers wait for long, the newest first where they soon give up."""
    generator = RecordingGenerator(held=True)

    async def use(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.codes("running", Role.QUERY))
        await until(generator.entered.is_set)
        waiting = [asyncio.create_task(batcher.codes(text, Role.QUERY)) for text in "abc"]
        await until(lambda: batcher.waiting == 3)
        generator.gate.set()
        await asyncio.gather(running, *waiting)

    await with_batcher(generator, use, max_batch=1, newest_first=newest_first)
    assert [texts for texts, _ in generator.calls] == [["running"], *([text] for text in order)]


async def test_a_lone_text_waits_no_longer_than_the_age_bound() -> None:
    """A batch that does not fill up starts when its oldest text is old enough."""
    generator = RecordingGenerator()

    async def use(batcher: Batcher) -> None:
        assert await ask(batcher, "a") == [codes_of("a")]

    await with_batcher(generator, use, max_batch=100, max_wait_ms=1)


async def test_roles_are_never_mixed_in_one_call() -> None:
    """Queries and products that come together are two calls."""
    generator = RecordingGenerator()

    async def use(batcher: Batcher) -> None:
        await asyncio.gather(ask(batcher, "a", "b"), ask(batcher, "q", role=Role.QUERY))

    await with_batcher(generator, use, max_batch=8)
    assert sorted(generator.calls) == [(["a", "b"], Role.PRODUCT), (["q"], Role.QUERY)]


@given(st.lists(st.sampled_from(["good", "fine", "poison"]), min_size=1, max_size=20))
def test_only_the_poisonous_texts_of_a_batch_fail(kinds: list[str]) -> None:
    """Whatever the mix, each good text gets its codes and each bad one a DecodeError."""
    texts = [f"{kind}{number}" for number, kind in enumerate(kinds)]

    async def use(batcher: Batcher) -> None:
        for text, outcome in zip(texts, await ask(batcher, *texts), strict=True):
            if "poison" in text:
                assert isinstance(outcome, DecodeError)
            else:
                assert outcome == codes_of(text)

    asyncio.run(with_batcher(RecordingGenerator(), use, max_batch=32))


async def test_a_generator_that_forgets_an_answer_never_shifts_codes_to_the_neighbour() -> None:
    """A call with the wrong number of answers is an error for its texts, not a mix-up."""

    async def use(batcher: Batcher) -> None:
        outcomes = await ask(batcher, "a", "b")
        assert [type(outcome) for outcome in outcomes] == [DecodeError, DecodeError]

    await with_batcher(ShortGenerator(), use)


async def test_a_full_queue_refuses_and_takes_calls_again_when_it_has_emptied() -> None:
    """The text that finds `max_queue` others waiting gets OverloadError; the others their codes."""
    generator = RecordingGenerator(held=True)

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.codes("in the model", Role.PRODUCT))
        await until(generator.entered.is_set)
        waiting = [asyncio.create_task(batcher.codes(text, Role.PRODUCT)) for text in "ab"]
        await until(lambda: batcher.waiting == 2)
        with pytest.raises(OverloadError):
            await batcher.codes("one too many", Role.PRODUCT)
        generator.gate.set()
        assert await first == codes_of("in the model")
        assert await asyncio.gather(*waiting) == [codes_of("a"), codes_of("b")]
        assert await batcher.codes("later", Role.PRODUCT) == codes_of("later")

    await with_batcher(generator, use, max_queue=2)


async def test_work_of_a_cancelled_caller_is_dropped_before_it_runs() -> None:
    """A caller that gave up frees its place, and the model never sees its text."""
    generator = RecordingGenerator(held=True)

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.codes("first", Role.PRODUCT))
        await until(generator.entered.is_set)
        given_up = asyncio.create_task(batcher.codes("given up", Role.PRODUCT))
        await until(lambda: batcher.waiting == 1)
        given_up.cancel()
        await until(lambda: batcher.waiting == 0)
        generator.gate.set()
        await first

    await with_batcher(generator, use, max_queue=1)
    assert generator.calls == [(["first"], Role.PRODUCT)]


async def test_a_failing_model_is_not_run_again_for_callers_who_left() -> None:
    """Halving stops as soon as nobody waits for the texts."""
    generator = RecordingGenerator(held=True)

    async def use(batcher: Batcher) -> None:
        callers = [asyncio.create_task(batcher.codes(f"poison{n}", Role.PRODUCT)) for n in range(4)]
        await until(generator.entered.is_set)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    await with_batcher(generator, use, max_batch=4, max_wait_ms=5_000)
    assert [len(texts) for texts, _ in generator.calls] == [4]


async def test_stop_fails_what_waits_finishes_what_runs_and_leaves_nothing_behind() -> None:
    """After stop no thread and no task of the batcher exists, and every caller has an answer."""
    generator = RecordingGenerator(held=True)
    batcher = Batcher(generator, max_batch=1, max_wait_ms=0, max_queue=10)
    await batcher.start()
    running = asyncio.create_task(batcher.codes("running", Role.PRODUCT))
    await until(generator.entered.is_set)
    waiting = asyncio.create_task(batcher.codes("waiting", Role.PRODUCT))
    await until(lambda: batcher.waiting == 1)
    stopping = asyncio.create_task(batcher.stop())
    with pytest.raises(OverloadError, match="stopping"):
        await waiting
    generator.gate.set()
    await stopping
    assert await running == codes_of("running")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("gram-batch")]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_batch_that_hangs_does_not_hold_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    """After its time the batch is left to itself, its caller has an answer, and the log tells it."""
    generator = RecordingGenerator(held=True)
    batcher = Batcher(generator, max_batch=1, max_wait_ms=0, max_queue=10, stop_s=0.05)
    await batcher.start()
    hanging = asyncio.create_task(batcher.codes("hanging", Role.PRODUCT))
    await until(generator.entered.is_set)
    await batcher.stop()
    with pytest.raises(DecodeError, match="the worker ended"):
        await hanging
    generator.gate.set()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the model did not end within 0.05 s, its thread is left to itself"]
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("gram-batch")])


async def test_calls_before_start_and_after_stop_are_refused() -> None:
    """A batcher that does not run says so at once; stop without start and a second stop do nothing."""
    batcher = Batcher(RecordingGenerator(), max_batch=1, max_wait_ms=0, max_queue=1)
    await batcher.stop()
    with pytest.raises(OverloadError):
        await batcher.codes("early", Role.QUERY)
    await batcher.start()
    await batcher.start()
    assert await batcher.codes("a", Role.QUERY) == codes_of("a")
    await batcher.stop()
    await batcher.stop()
    with pytest.raises(OverloadError):
        await batcher.codes("late", Role.QUERY)
