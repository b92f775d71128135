"""A new bundle in the place of the one that serves."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gram_plugin.errors import BundleError, DecodeError
from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.model import Model, Serving
from gram_plugin.serve.renewal import Renewal, Source, trace_of
from gram_plugin.serve.settings import ShimSettings
from gram_plugin.serve.shim import create_shim

LEXICAL = {"query": {"match": {"title": "red couch"}}}
SIGHUP = "SIGHUP"


@dataclass
class Bundles:
    """Folders of bundles, and what opening them gives: a generator, or an error."""

    folder: Path
    next: Any = None
    opened: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> Path:
        """The link that a shim is given."""
        return self.folder / "bundle"

    def publish(self, name: str, content: Any) -> None:
        """Puts a new bundle beside the old and turns the link to it, as an operator does."""
        (self.folder / name).mkdir()
        (self.folder / name / "manifest.json").write_text(name)
        self.next = content
        (self.folder / "link").symlink_to(name)
        (self.folder / "link").replace(self.path)

    def open(self) -> Any:
        """What `reopen` is."""
        self.opened += 1
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


@pytest.fixture
def bundles(tmp_path: Path, fake_generator: Any) -> Bundles:
    """One published bundle, of g1."""
    made = Bundles(tmp_path)
    made.publish("first", fake_generator())
    return made


@dataclass(frozen=True)
class Running:
    """A shim that serves a bundle."""

    url: str
    ask: Callable[[], None]
    client: Any

    async def search(self) -> Any:
        """One search."""
        return await self.client.search(self.url + "/shop/_search", LEXICAL)

    async def until(self, line: str) -> None:
        """Returns once the metrics have a line."""
        async with asyncio.timeout(30):
            while line not in (await self.client(self.url + "/-/metrics")).body.decode().splitlines():
                pass

    async def until_model(self, generation: str) -> None:
        """Returns once this generation serves."""
        async with asyncio.timeout(30):
            while f'"model":"{generation}"' not in (await self.client(self.url + "/-/ready")).body.decode():
                pass


@pytest.fixture
async def run(serve: Any, client: Any, opensearch_url: str, bundles: Bundles) -> Any:
    """Starts a shim with the published bundle."""

    async def start(**changed: Any) -> Running:
        settings = ShimSettings(upstream_url=opensearch_url, budget_ms=20_000, bundle=bundles.path, bundle_check_s=0)
        opened = trace_of(bundles.path)
        app = create_shim(replace(settings, **changed), bundles.open(), reopen=bundles.open, opened=opened)
        actions = {number.name: act for number, act in app.state.on_signal.items()}
        return Running(await serve(app), actions[SIGHUP], client)

    return start


async def test_a_signal_opens_the_new_bundle(
    run: Any, bundles: Bundles, fake_generator: Any, opensearch: Any, index_mapping: Any
) -> None:
    """After SIGHUP searches have codes of the new generation, in an index that was calibrated for it."""
    shim = await run()
    before = await shim.search()
    opensearch.mappings = {"shop": index_mapping("g2")}
    bundles.publish("second", fake_generator(generation="g2"))
    shim.ask()
    await shim.until('gram_bundles_total{outcome="taken"} 1.0')
    after = await shim.search()
    assert (before.status_header, after.status_header) == ("applied", "applied")
    fields = [b"g1/" in seen.body for seen in opensearch.searches]
    assert fields == [True, False]


async def test_a_changed_link_is_noticed_by_itself(run: Any, bundles: Bundles, fake_generator: Any) -> None:
    """Without a signal the new bundle serves after two looks at it, and is opened once."""
    shim = await run(bundle_check_s=0.01)
    bundles.publish("second", fake_generator(generation="g2"))
    await shim.until_model("g2")
    opened = bundles.opened
    await shim.until('gram_bundles_total{outcome="taken"} 1.0')
    assert (opened, bundles.opened) == (2, 2)


async def test_a_bundle_that_changes_while_the_shim_starts_is_taken(
    serve: Any, client: Any, opensearch_url: str, bundles: Bundles, fake_generator: Any
) -> None:
    """What came between the opening of the first model and the first look is new, without a signal."""
    settings = ShimSettings(upstream_url=opensearch_url, bundle=bundles.path, bundle_check_s=0.01)
    opened, first = trace_of(bundles.path), bundles.open()
    bundles.publish("second", fake_generator(generation="g2"))
    app = create_shim(settings, first, reopen=bundles.open, opened=opened)
    await Running(await serve(app), lambda: None, client).until_model("g2")


async def test_an_index_of_the_old_generation_stays_lexical_visibly(
    run: Any, bundles: Bundles, fake_generator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Codes of two generations never mix: the header names the command, the log tells it at the swap."""
    shim = await run()
    await shim.search()
    bundles.publish("second", fake_generator(generation="g2"))
    shim.ask()
    await shim.until_model("g2")
    got = await shim.search()
    assert got.status_header == 'off; reason=generation; next="gram calibrate"'
    said = [record.getMessage() for record in caplog.records]
    assert "indices with codes of g1 stay lexical until `gram backfill` and `gram calibrate` are run for g2" in said


@pytest.mark.parametrize("trouble", ["unreadable", "broken", "unexpected"])
async def test_a_bundle_that_cannot_be_used_changes_nothing(
    run: Any, bundles: Bundles, fake_generator: Any, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """A damaged bundle, a model that fails on its first text: refused, counted, logged; the old one serves on."""
    shim = await run()
    troubles = {
        "unreadable": BundleError("a byte is flipped"),
        "broken": fake_generator(error=DecodeError("broken"), generation="g2"),
        "unexpected": RuntimeError("worse"),
    }
    bundles.publish("second", troubles[trouble])
    shim.ask()
    await shim.until('gram_bundles_total{outcome="refused"} 1.0')
    assert (await shim.search()).status_header == "applied"
    assert [record.levelname for record in caplog.records if "old one serves on" in record.getMessage()] == ["ERROR"]


@pytest.fixture
async def renewed(bundles: Bundles) -> Any:
    """Starts the renewal of a shim that serves the published bundle; a new model has half a second for a text."""
    tasks = []

    async def start() -> tuple[Renewal, Serving, CollectorRegistry]:
        registry = CollectorRegistry()
        metrics = ShimMetrics(registry)
        settings = ShimSettings(upstream_url="http://h")

        def make(generator: Any) -> Model:
            return Model.of(generator, settings, metrics)

        serving = Serving(make(bundles.open()))
        await serving.model.start()
        source = Source(bundles.path, bundles.open, make)
        renewal = Renewal(source, serving, metrics, opened=trace_of(bundles.path), check_s=0, warm_up_s=0.5)
        tasks.append((asyncio.create_task(renewal.run()), serving))
        return renewal, serving, registry

    yield start
    for task, serving in tasks:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await serving.model.stop()


@pytest.mark.parametrize("hangs", ["new", "old"])
async def test_a_model_that_hangs_keeps_no_other_from_being_taken(
    renewed: Any, bundles: Bundles, fake_generator: Any, hangs: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A new one that hangs in its first text is refused, counted and told; behind it and an old one others come."""
    gate = threading.Event()
    old = bundles.next = fake_generator(gate=gate if hangs == "old" else None)
    renewal, serving, registry = await renewed()
    try:
        held = asyncio.create_task(serving.model.query_codes.codes("sofa", Deadline.after(20_000)))
        await until(lambda: bool(old.texts))
        for generation in ("g2", "g3"):
            stuck = hangs == "new" and generation == "g2"
            bundles.publish(generation, fake_generator(generation=generation, gate=gate if stuck else None))
            renewal.ask()
            await until(lambda: bool(refused(registry)) if stuck else serving.model.generation == generation)  # noqa: B023
    finally:
        gate.set()
    await asyncio.gather(held, return_exceptions=True)
    told = [record.getMessage().endswith("within 0.5 s") for record in caplog.records if record.levelname == "ERROR"]
    count = float(hangs == "new")
    assert (serving.model.generation, refused(registry), told) == ("g3", count, [True] * int(count))


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event to wait on
            await asyncio.sleep(0)


def refused(registry: CollectorRegistry) -> float:
    """How many bundles were refused."""
    return registry.get_sample_value("gram_bundles_total", {"outcome": "refused"}) or 0.0


async def test_a_bundle_that_was_refused_is_tried_again_when_it_changes(
    run: Any, bundles: Bundles, fake_generator: Any
) -> None:
    """A repaired bundle serves without anybody's help; until then it is not opened again and again."""
    shim = await run(bundle_check_s=0.01)
    bundles.publish("second", BundleError("half copied"))
    await shim.until('gram_bundles_total{outcome="refused"} 1.0')
    bundles.next = fake_generator(generation="g2")
    (bundles.path / "decoder.onnx").write_text("now whole")
    await shim.until_model("g2")
    assert bundles.opened == 3


async def test_a_bundle_that_is_removed_serves_on_from_memory(
    run: Any, bundles: Bundles, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its folder the model goes on; the log says so once."""
    shim = await run(bundle_check_s=0.01)
    bundles.path.unlink()
    async with asyncio.timeout(30):
        while not [record for record in caplog.records if "is gone" in record.getMessage()]:
            await shim.until_model("g1")
    assert ((await shim.search()).status_header, bundles.opened) == ("applied", 1)


async def test_a_shim_without_a_usable_bundle_gets_one_later(
    serve: Any, client: Any, opensearch_url: str, bundles: Bundles, fake_generator: Any
) -> None:
    """A plain proxy becomes a shim with codes when its bundle is there."""
    settings = ShimSettings(upstream_url=opensearch_url, budget_ms=20_000, bundle=bundles.path, bundle_check_s=0.01)
    app = create_shim(settings, None, reopen=bundles.open, opened=trace_of(bundles.path))
    shim = Running(await serve(app), lambda: None, client)
    before = await shim.search()
    bundles.publish("second", fake_generator())
    await shim.until_model("g1")
    assert (before.status_header, (await shim.search()).status_header) == ("degraded; reason=no-model", "applied")


async def test_a_search_ends_with_the_model_that_it_began_with(
    run: Any, bundles: Bundles, fake_generator: Any, opensearch: Any
) -> None:
    """A text that the old model is reading gets the old model's codes, although the new one serves already."""
    gate = threading.Event()
    bundles.next = fake_generator(gate=gate)
    shim = await run()
    old = asyncio.create_task(shim.search())
    async with asyncio.timeout(30):
        while b'gram_query_codes_total{how="decoded"} 1.0' not in (await shim.client(shim.url + "/-/metrics")).body:
            pass
    bundles.publish("second", fake_generator(generation="g2"))
    shim.ask()
    await shim.until_model("g2")
    new = await shim.search()
    gate.set()
    assert ((await old).status_header, new.status_header.split(";")[1]) == ("applied", " reason=generation")
    assert b"g1/type=sofa" in opensearch.searches[-1].body


async def test_the_old_model_leaves_memory(run: Any, bundles: Bundles, fake_generator: Any) -> None:
    """After the swap nothing holds the old generator, however often bundles change."""
    shim = await run()
    old = weakref.ref(bundles.next)
    assert (await shim.search()).status_header == "applied"
    bundles.publish("second", fake_generator(generation="g2"))
    shim.ask()
    async with asyncio.timeout(30):
        while old() is not None:
            await shim.until_model("g2")
            gc.collect()


async def test_no_search_is_lost_while_bundles_come_and_go(run: Any, bundles: Bundles, fake_generator: Any) -> None:
    """Under a stream of searches ten bundles follow each other: every search is answered with codes."""
    shim = await run()
    stop = asyncio.Event()

    async def searching() -> list[Any]:
        got = []
        while not stop.is_set():
            got.append(await shim.search())
        return got

    streams = [asyncio.create_task(searching()) for _ in range(4)]
    for number in range(10):
        bundles.publish(f"next-{number}", fake_generator())
        shim.ask()
        await shim.until(f'gram_bundles_total{{outcome="taken"}} {number + 1}.0')
    stop.set()
    answers = [got for stream in await asyncio.gather(*streams) for got in stream]
    assert {(got.status, got.status_header) for got in answers} == {(200, "applied")}
    async with asyncio.timeout(30):
        while len([thread for thread in threading.enumerate() if thread.name.startswith("gram-batch")]) > 1:
            await shim.search()


def test_the_trace_of_a_bundle(tmp_path: Path) -> None:
    """It follows links, and changes with a file's content, name and place; without a folder there is none."""
    folder, link = tmp_path / "a", tmp_path / "link"
    missing = trace_of(link)
    folder.mkdir()
    link.symlink_to("a")
    (folder / "manifest.json").write_text("{}")
    first = trace_of(link)
    again = trace_of(folder)
    (folder / "manifest.json").write_text("{ }")
    changed = trace_of(link)
    assert (missing, first == again, changed == first) == (None, True, False)
