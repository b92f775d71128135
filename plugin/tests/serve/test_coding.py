"""Coding: which products ask the model, what is stored of its answer, and what happens when there is none."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.contract.codes import MAX_CODES, MAX_PRODUCT_CODES, Attribute, Code, Role, ScoredCode
from gram_plugin.contract.text import Rendering, source_hash
from gram_plugin.errors import DecodeError
from gram_plugin.search.document import gram_object, pending_object, replacing
from gram_plugin.serve.batching import Batcher
from gram_plugin.serve.coding import (
    Coded,
    Coder,
    CodingRules,
    How,
    Patience,
    Reading,
    Reason,
    Tags,
    combined,
    select_codes,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
RENDERING = Rendering(("title", "specs.size"))


def word(text: str, probability: float = 0.5) -> ScoredCode:
    """The code of one word."""
    return ScoredCode(Code.of([Attribute.of("type", text)]), probability)


class WordGenerator:
    """One code for each distinct word; fails on `poison`; stands still while its gate is closed."""

    generation = "g2"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.down = False

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Codes of the words, in order of the alphabet."""
        self.texts.extend(texts)
        self.gate.wait(10)
        if self.down or any("poison" in text for text in texts):
            raise DecodeError("no")
        return [[word(found) for found in sorted(set(text.split()))][:limit] for text in texts]


@asynccontextmanager
async def coding(
    generator: WordGenerator,
    patience: Patience | None = None,
    *,
    cache_entries: int = 100,
    max_queue: int = 100,
    max_codes: int = MAX_PRODUCT_CODES,
    tags: Tags | None = None,
    reads: tuple[str, ...] | None = None,
    clock: Callable[[], datetime] = lambda: NOW,
) -> AsyncIterator[Coder]:
    """A coder over the generator; its batcher is stopped at the end."""
    batcher = Batcher(generator, max_batch=4, max_wait_ms=0, max_queue=max_queue)
    await batcher.start()
    try:
        rules = CodingRules(RENDERING, cache_entries=cache_entries, max_codes=max_codes, tags=tags, reads=reads)
        yield Coder(batcher, rules, patience, clock=clock)
    finally:
        generator.gate.set()
        await batcher.stop()


def coded(text: str) -> Coded:
    """What a product with this rendered text becomes."""
    codes = [word(found) for found in sorted(set(text.split()))]
    return Coded(gram_object(codes, "g2", source_hash(text, "g2"), NOW))


def pending(reason: Reason, said: str = "") -> Coded:
    """What a product without codes becomes."""
    return Coded(pending_object(NOW), reason, said)


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the thread of the model has no event of this loop
            await asyncio.sleep(0)


async def test_products_are_rendered_coded_and_answered_in_order() -> None:
    """Only the rendered fields count, also inside objects, and each product gets the codes of its own text."""
    sources = [{"title": "Red Shoe", "price": 3}, {"specs": {"size": [42, "XL"]}}]
    async with coding(WordGenerator()) as coder:
        assert await coder.code_products(sources) == [coded("red shoe"), coded("42 xl")]


async def test_what_would_be_read_is_told_without_asking_the_model() -> None:
    """The hash that coding would store, whether there is text, the sure codes; None for a product that is too deep."""
    deep: Any = "shoe"
    for _ in range(100_000):
        deep = [deep]
    generator, sure = WordGenerator(), word("shoe").code
    async with coding(generator, tags=lambda _: [sure]) as coder:
        found = await coder.read_products([{"title": "Red Shoe"}, {"price": 3}, {"title": deep}])
    texts = [("red shoe", True), ("", False)]
    assert found == [*(Reading(source_hash(text, "g2"), has_text, (sure,)) for text, has_text in texts), None]
    assert generator.texts == []


async def test_equal_texts_ask_once_and_known_texts_never() -> None:
    """A product whose rendered text did not change does not reach the model again, whatever else changed."""
    generator = WordGenerator()
    async with coding(generator) as coder:
        first = await coder.code_products([{"title": "shoe", "price": 1}, {"title": "SHOE", "price": 2}])
        again = await coder.code_products([{"title": "shoe", "price": 3}])
    assert [*first, *again] == [coded("shoe")] * 3
    assert generator.texts == ["shoe"]


@pytest.mark.parametrize(
    ("sources", "is_same"),
    [
        ([{"title": "shoe", "price": 1}, {"title": "shoe", "price": 2}], True),
        ([{"price": 1}, {"price": 2}], True),
        ([{"title": "shoe"}, {"title": "boot"}], False),
        ([{"title": "shoe", "kind": "a"}, {"title": "shoe", "kind": "b"}], False),
    ],
)
async def test_the_same_codes_get_the_same_time(sources: Sequence[dict[str, Any]], is_same: bool) -> None:
    """The time is that at which the codes were made: of the text, or of the fields that surely say some of them."""
    hours = (datetime(2026, 1, 2, hour, tzinfo=UTC) for hour in range(24))

    def tags(source: Mapping[str, Any]) -> Sequence[Code]:
        return [word(source.get("kind", "any")).code]

    async with coding(WordGenerator(), tags=tags, reads=("title", "kind"), clock=lambda: next(hours)) as coder:
        first, again = [(await coder.code_products([source]))[0].gram for source in sources]
    assert (first == again) is is_same
    assert (first["at"] == again["at"]) is is_same


@pytest.mark.parametrize(
    "source", [{}, {"title": ""}, {"title": " \t"}, {"title": None}, {"title": True}, {"other": "shoe"}]
)
async def test_a_product_without_text_is_coded_with_no_codes(source: dict[str, Any]) -> None:
    """Nothing to read is an answer: no codes, not pending, and the model is not asked."""
    generator = WordGenerator()
    async with coding(generator) as coder:
        assert await coder.code_products([source]) == [Coded(gram_object([], "g2", source_hash("", "g2"), NOW))]
    assert generator.texts == []


@pytest.mark.parametrize(
    "title",
    ["\ud800 shoe", "👟 \U0001f3fd", "ab " * 350_000, "\x00\x1f\x7f shoe", ["a", ["b", {"c": "d"}], None, 1.5], "حذاء"],
)
async def test_odd_texts_are_coded(title: object) -> None:
    """Surrogates, emoji, a text of 1 MB, controls, arrays and right-to-left text do not fail."""
    async with coding(WordGenerator()) as coder:
        (found,) = await coder.code_products([{"title": title}])
    assert found.reason is None


async def test_a_product_too_deep_to_read_is_pending_and_its_neighbour_coded() -> None:
    """An array nested deeper than Python recurses costs its own product the codes, no other."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    async with coding(WordGenerator()) as coder:
        found = await coder.code_products([{"title": deep}, {"title": "shoe"}])
    assert found == [pending(Reason.UNREADABLE, found[0].said), coded("shoe")]
    assert "RecursionError" in found[0].said
    while deep:
        deep = deep.pop()  # taken apart step by step: freeing it at once recurses too


async def test_a_text_the_model_fails_on_is_pending_and_asked_again_next_time() -> None:
    """A failure costs one product its codes and is not remembered."""
    generator = WordGenerator()
    async with coding(generator) as coder:
        found = await coder.code_products([{"title": "poison"}, {"title": "shoe"}])
        again = await coder.code_products([{"title": "poison"}])
    assert [*found, *again] == [pending(Reason.MODEL, "no"), coded("shoe"), pending(Reason.MODEL, "no")]


async def test_where_the_model_fails_on_every_text_none_of_them_is_blamed() -> None:
    """Several that fail together say nothing of themselves; one alone does, and one beside others that are coded."""
    generator = WordGenerator()
    generator.down = True
    async with coding(generator) as coder:
        assert await coder.code_products([{"title": "shoe"}, {"title": "boot"}]) == [pending(Reason.MODEL)] * 2
        assert await coder.code_products([{"title": "shoe"}]) == [pending(Reason.MODEL, "no")]


async def test_it_tells_where_codes_came_from() -> None:
    """Of each call: decoded, shared with an equal text, remembered; neither empty texts nor failures count."""
    counts: list[tuple[How, int]] = []
    batcher = Batcher(WordGenerator(), max_batch=4, max_wait_ms=0, max_queue=100)
    await batcher.start()
    try:
        coder = Coder(batcher, CodingRules(RENDERING), count=lambda how, number: counts.append((how, number)))
        titles = ["shoe", "Shoe", "shoe ", "boot", "poison", ""]
        await coder.code_products([{"title": title} for title in titles])
        await coder.code_products([{"title": title} for title in titles])
    finally:
        await batcher.stop()
    assert counts == [
        *((How.CACHED, 0), (How.DECODED, 2), (How.JOINED, 2)),
        *((How.CACHED, 4), (How.DECODED, 0), (How.JOINED, 0)),
    ]


async def test_without_a_model_every_product_is_pending() -> None:
    """A coder without batcher answers at once."""
    coder = Coder(None, CodingRules(RENDERING), clock=lambda: NOW)
    assert await coder.code_products([{"title": "shoe"}, {}]) == [pending(Reason.NO_MODEL)] * 2


async def test_a_model_that_gives_nothing_for_a_while_makes_products_pending() -> None:
    """Waiting ends after the stall time; codes that were there before are kept."""
    generator = WordGenerator()
    async with coding(generator, Patience(stall_s=0.05)) as coder:
        await coder.code_products([{"title": "shoe"}])
        generator.gate.clear()
        found = await coder.code_products([{"title": "shoe"}, {"title": "boot"}])
    assert found == [coded("shoe"), pending(Reason.TIMEOUT)]


async def test_waiting_ends_when_the_total_is_up() -> None:
    """Whatever the model still works on, products beyond the total time are pending."""
    generator = WordGenerator()
    generator.gate.clear()
    async with coding(generator, Patience(total_s=0.05, stall_s=10)) as coder:
        assert await coder.code_products([{"title": "boot"}]) == [pending(Reason.TIMEOUT)]


async def test_a_model_that_is_down_is_left_alone_and_tried_again() -> None:
    """After the calls that failed the breaker answers; once the pause is over, a success closes it."""
    generator = WordGenerator()
    generator.down = True
    async with coding(generator, Patience(failures=2, pause_s=0.05)) as coder:
        found = [await coder.code_products([{"title": title}]) for title in ("shoe", "boot", "shoe", "boot")]
        assert found == [[pending(Reason.MODEL, "no")]] * 3 + [[pending(Reason.BREAKER)]]
        assert len(generator.texts) == 3
        generator.down = False
        answers = [[pending(Reason.BREAKER)]]
        async with asyncio.timeout(10):
            while answers[-1] == [pending(Reason.BREAKER)]:
                answers.append(await coder.code_products([{"title": "shoe"}]))
        assert answers[-1] == [coded("shoe")]


async def test_texts_that_the_model_cannot_take_open_no_breaker_where_the_others_are_known() -> None:
    """They are blamed: they get their letters, and the next writer gets its codes."""
    generator = WordGenerator()
    products = [{"title": f"shoe {number}"} for number in range(8)]
    poisons = [{"title": "poison one"}, {"title": "poison two"}]
    async with coding(generator, Patience(failures=2, pause_s=100)) as coder:
        await coder.code_products(products)
        found = [(await coder.code_products([*products, *some]))[8:] for some in (poisons, poisons[:1], poisons[1:])]
        boot = await coder.code_products([{"title": "boot"}])
    said = pending(Reason.MODEL, "no")
    assert (found, boot) == ([[said] * 2, [said], [said]], [coded("boot")])


async def test_one_text_that_is_sent_again_and_again_opens_no_breaker() -> None:
    """A writer who insists on what the model cannot take costs nobody else the codes."""
    async with coding(WordGenerator(), Patience(failures=1, pause_s=100)) as coder:
        for _ in range(3):
            assert await coder.code_products([{"title": "poison"}]) == [pending(Reason.MODEL, "no")]
        assert await coder.code_products([{"title": "boot"}]) == [coded("boot")]


async def test_a_model_that_fails_on_more_than_is_known_is_down() -> None:
    """A cache that knows a few texts of a request neither closes the breaker nor blames the others."""
    generator = WordGenerator()
    async with coding(generator, Patience(failures=1, pause_s=100)) as coder:
        await coder.code_products([{"title": "shoe"}])
        generator.down = True
        found = await coder.code_products([{"title": title} for title in ("shoe", "boot", "sock")])
        again = await coder.code_products([{"title": "boot"}])
    assert found == [coded("shoe"), pending(Reason.MODEL), pending(Reason.MODEL)]
    assert again == [pending(Reason.BREAKER)]


async def test_callers_who_leave_a_silent_model_open_the_breaker() -> None:
    """A client that hangs up before any code came has met a model that is down."""
    generator = WordGenerator()
    generator.gate.clear()
    async with coding(generator, Patience(failures=1, pause_s=100)) as coder:
        call = asyncio.create_task(coder.code_products([{"title": "shoe"}]))
        await until(lambda: generator.texts == ["shoe"])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await coder.code_products([{"title": "boot"}]) == [pending(Reason.BREAKER)]


async def test_a_full_model_queue_makes_products_pending_and_says_overload() -> None:
    """What finds the queue full is pending; what has a place is coded."""
    generator = WordGenerator()
    generator.gate.clear()
    async with coding(generator, max_queue=1) as coder:
        call = asyncio.create_task(coder.code_products([{"title": f"shoe{n}"} for n in range(9)]))
        await until(lambda: bool(generator.texts))
        generator.gate.set()
        reasons = [found.reason for found in await call]
    assert set(reasons) == {None, Reason.OVERLOAD}


async def test_more_products_than_places_all_get_their_codes() -> None:
    """A call of any size goes through the model's bounded queue without overload."""
    products = [{"title": f"shoe{number}"} for number in range(1_000)]
    async with coding(WordGenerator(), max_queue=128) as coder:
        assert await coder.code_products(products) == [coded(f"shoe{number}") for number in range(1_000)]


async def test_a_large_call_makes_no_task_for_each_of_its_products() -> None:
    """However many products wait, only as many tasks are alive as texts may be with the model at once."""
    generator = WordGenerator()
    generator.gate.clear()
    async with coding(generator, max_queue=128) as coder:
        call = asyncio.create_task(coder.code_products([{"title": f"shoe{number}"} for number in range(5_000)]))
        await until(lambda: bool(generator.texts))
        alive = len(asyncio.all_tasks())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert alive < 50


async def test_a_defect_in_the_model_is_raised_and_not_taken_for_a_late_answer() -> None:
    """An answer of the wrong kind ends the call with its own error; the coder works on for others."""

    class Odd(WordGenerator):
        def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
            return [[None] for _ in texts]  # type: ignore[list-item]

    async with coding(Odd()) as coder:
        with pytest.raises(AttributeError):
            await coder.code_products([{"title": "shoe"}])
        assert (await coder.code_products([{}]))[0].reason is None


def test_stored_codes_are_likely_ranked_distinct_and_capped() -> None:
    """Below the least probability nothing is stored; the likeliest come first; a repeated code counts once."""
    rules = CodingRules(RENDERING, min_probability=0.1, max_codes=2)
    scored = [word("a", 0.2), word("b", 0.9), word("c", 0.05), word("b", 0.1), word("d", 0.5)]
    assert select_codes(scored, rules) == (word("b", 0.9), word("d", 0.5))


def test_sure_codes_come_first_with_weight_one() -> None:
    """Those that the model finds likeliest lead them; its other codes follow with their own probability."""
    written = [word("b", 0.9), word("d", 0.4), word("e", 0.7)]
    tags = [word("a").code, word("d").code, word("b").code]
    expected = (word("b", 1.0), word("d", 1.0), word("a", 1.0), word("e", 0.7))
    assert combined(tags, written, 9) == expected
    assert [combined(tags, written, most) for most in (0, 2, 4)] == [(), expected[:2], expected]


def slow_combined(tags: Sequence[str], written: Mapping[str, float], most: int) -> list[tuple[str, float]]:
    """Picks one code after another: a sure one while there is any, the likeliest, the first by text."""
    left, picked = {*tags, *written}, list[tuple[str, float]]()
    while left and len(picked) < most:
        kind = [text for text in left if text in tags] or list(left)
        highest = max(written.get(text, 0.0) for text in kind)
        best = min(text for text in kind if written.get(text, 0.0) == highest)
        picked.append((best, 1.0 if best in tags else written[best]))
        left.remove(best)
    return picked


@given(
    tags=st.lists(st.sampled_from("abcdefgh"), max_size=8),
    written=st.dictionaries(st.sampled_from("efghijkl"), st.sampled_from([0.1, 0.5, 0.9, 1.0]), max_size=8),
    most=st.integers(0, 12),
)
def test_combining_equals_the_slow_reference(tags: list[str], written: dict[str, float], most: int) -> None:
    """Codes that both parts have, ties and any cap."""
    found = combined([word(text).code for text in tags], [word(*item) for item in written.items()], most)
    assert found == tuple(word(*item) for item in slow_combined(tags, written, most))


def brand_tags(source: Mapping[str, Any]) -> list[Code]:
    """Surely the code of the brand, where the document names one."""
    return [word(source["brand"]).code] if "brand" in source else []


def tagged(text: str, *codes: ScoredCode) -> Coded:
    """What a product with this rendered text and these codes becomes."""
    return Coded(gram_object(codes, "g2", source_hash(text, "g2"), NOW))


async def test_a_product_has_its_sure_codes_beside_those_of_the_model() -> None:
    """Both are in the document, the sure one first, and at most as many as the rules say."""
    async with coding(WordGenerator(), tags=brand_tags, max_codes=2) as coder:
        found = await coder.code_products([{"title": "red shoe", "brand": "acme"}, {"title": "red shoe boot"}])
    assert found == [
        tagged("red shoe", word("acme", 1.0), word("red", 0.5)),
        tagged("red shoe boot", word("boot", 0.5), word("red", 0.5)),
    ]


async def test_products_of_equal_texts_keep_their_own_sure_codes() -> None:
    """The model is asked once for a text, now or before; what a document says by itself is never shared."""
    generator = WordGenerator()
    sources = [{"title": "shoe", "brand": "acme"}, {"title": "shoe", "brand": "zed"}, {"title": "shoe"}]
    async with coding(generator, tags=brand_tags) as coder:
        found = await coder.code_products(sources)
        again = await coder.code_products(sources[1:])
    acme, zed, shoe = word("acme", 1.0), word("zed", 1.0), word("shoe", 0.5)
    assert found == [tagged("shoe", acme, shoe), tagged("shoe", zed, shoe), tagged("shoe", shoe)]
    assert again == found[1:]
    assert generator.texts == ["shoe"]


async def test_a_product_without_text_keeps_its_sure_codes() -> None:
    """Nothing for the model to read, but the document says something by itself."""
    generator = WordGenerator()
    async with coding(generator, tags=brand_tags) as coder:
        assert await coder.code_products([{"brand": "acme"}]) == [tagged("", word("acme", 1.0))]
    assert generator.texts == []


async def test_a_product_that_the_model_fails_on_is_pending_whatever_it_surely_has() -> None:
    """Half of its codes would be taken for all of them; it is asked again later."""
    async with coding(WordGenerator(), tags=brand_tags) as coder:
        assert await coder.code_products([{"title": "poison", "brand": "acme"}]) == [pending(Reason.MODEL, "no")]


@pytest.mark.parametrize("error", [ValueError("odd"), UnicodeError("odd"), RecursionError("deep")])
async def test_a_document_that_cannot_be_tagged_is_pending_and_its_neighbour_coded(error: Exception) -> None:
    """A document that breaks the reading of its fields costs its own product the codes, no other."""

    def tags(source: Mapping[str, Any]) -> list[Code]:
        if source["title"] == "odd":
            raise error
        return []

    async with coding(WordGenerator(), tags=tags) as coder:
        found = await coder.code_products([{"title": "odd"}, {"title": "shoe"}])
    assert found == [pending(Reason.UNREADABLE, repr(error)), coded("shoe")]


async def test_a_defect_in_tagging_is_raised() -> None:
    """An error of another kind is none of the document's, and is not hidden."""
    async with coding(WordGenerator(), tags=lambda source: [source["missing"]]) as coder:
        with pytest.raises(KeyError):
            await coder.code_products([{"title": "shoe"}])


async def test_a_product_whose_read_fields_are_as_before_is_neither_rendered_nor_tagged_again() -> None:
    """Another price is no reason; another size is."""
    asked: list[object] = []
    rules = CodingRules(RENDERING, tags=lambda source: asked.append(source["price"]) or (), reads=RENDERING.fields)
    coder = Coder(None, rules)
    products = [{"title": "shoe", "specs": {"size": size}, "price": price} for size, price in ((1, 5), (1, 6), (2, 7))]
    first, second, third = [(await coder.read_products([product]))[0] for product in products]
    assert asked == [5, 7]
    assert first == second != third


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0, "a", "b", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["size", "a"]), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["title", "specs", "specs.size", "size"])


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=6))
def test_what_is_remembered_of_a_product_is_what_reading_it_gives(products: list[dict[str, Any]]) -> None:
    """Whatever was read before, each product has the reading that it has alone: no two are taken for each other."""

    def tags(source: Mapping[str, Any]) -> list[Code]:
        return [Code.of([Attribute.of("type", "tagged")])] if source.get("title") == "a" else []

    remembering = Coder(None, CodingRules(RENDERING, tags=tags, reads=RENDERING.fields))
    expected = asyncio.run(Coder(None, CodingRules(RENDERING, tags=tags)).read_products(products))
    assert [asyncio.run(remembering.read_products([product]))[0] for product in products] == expected


@given(st.lists(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=4), min_size=1, max_size=4))
def test_what_is_remembered_of_codes_is_what_coding_anew_gives(calls: list[list[dict[str, Any]]]) -> None:
    """Whatever was coded before, in this call or an earlier one; and what is ready as JSON says the same."""

    def tags(source: Mapping[str, Any]) -> list[Code]:
        return [word(f"sure{len(str(source.get('specs')))}").code] if source.get("title") else []

    async def coded_by(calls: list[list[dict[str, Any]]], reads: tuple[str, ...] | None) -> list[list[Coded]]:
        async with coding(WordGenerator(), tags=tags, reads=reads) as coder:
            return [await coder.code_products(products) for products in calls]

    remembered = asyncio.run(coded_by(calls, RENDERING.fields))
    assert remembered == asyncio.run(coded_by(calls, None))
    for found in (found for call in remembered for found in call):
        assert json.loads(found.text) == replacing(found.gram)


async def test_a_product_that_was_coded_is_neither_rendered_nor_combined_again() -> None:
    """What is ready is counted as remembered, keeps its time and its JSON, and asks nobody."""
    asked: list[object] = []
    hours = (datetime(2026, 1, 2, hour, tzinfo=UTC) for hour in range(24))
    generator = WordGenerator()

    def tags(source: Mapping[str, Any]) -> list[Code]:
        asked.append(source["price"])
        return []

    async with coding(generator, tags=tags, reads=("title",), clock=lambda: next(hours)) as coder:
        (first,) = await coder.code_products([{"title": "shoe", "price": 1}])
        (again,) = await coder.code_products([{"title": "shoe", "price": 2}])
    assert (again, again.text) == (first, first.text)
    assert (asked, generator.texts) == ([1], ["shoe"])


async def test_a_text_is_not_coded_again_whatever_else_changes_beside_it() -> None:
    """A price within the object that is read, equal products of one call, more of them than any short memory holds."""
    generator = WordGenerator()
    numbers = range(1_200)
    async with coding(generator, cache_entries=5_000, max_queue=128, reads=RENDERING.fields) as coder:
        for stock in (1, 2):
            products = [{"title": f"shoe{number}", "specs": {"stock": stock}} for number in numbers]
            assert await coder.code_products(products * 2) == [coded(f"shoe{number}") for number in numbers] * 2
    assert sorted(generator.texts) == sorted(f"shoe{number}" for number in numbers)


async def run_all(calls: Sequence[Awaitable[object]]) -> list[object]:
    """The results of concurrent calls."""
    return list(await asyncio.gather(*calls))


async def test_a_single_product_is_not_stuck_behind_a_large_call() -> None:
    """A large call leaves places free, so a product that comes later is coded before the large call ends."""
    generator = WordGenerator()
    order: list[str] = []
    async with coding(generator, max_queue=128) as coder:

        async def call(name: str, products: list[dict[str, str]]) -> None:
            await coder.code_products(products)
            order.append(name)

        large = asyncio.create_task(call("large", [{"title": f"shoe{number}"} for number in range(2_000)]))
        await until(lambda: bool(generator.texts))
        await run_all([call("single", [{"title": "boot"}]), large])
    assert order == ["single", "large"]
