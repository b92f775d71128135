"""The model that serves, and one model after another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gram_plugin.contract.codes import Role
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import DecodeError, OverloadError
from gram_plugin.serve.deadline import Deadline
from gram_plugin.serve.health import ShimMetrics
from gram_plugin.serve.model import Model, Serving
from gram_plugin.serve.settings import ShimSettings

TINY = Path(__file__).parents[1] / "decode/tiny_bundle"
SETTINGS = ShimSettings(upstream_url="http://h")


def model(generator: Any) -> Model:
    """A model of a generator, or of none."""
    return Model.of(generator, SETTINGS, ShimMetrics(CollectorRegistry()))


async def test_a_model_starts_warms_up_and_stops(fake_generator: Any) -> None:
    """It takes texts only between start and stop, and its state is the generator's."""
    made = model(fake_generator(generation="g7"))
    await made.start()
    await made.warm_up()
    codes = await made.query_codes.codes("sofa", Deadline.after(20_000))
    await made.stop()
    assert made.batcher is not None
    with pytest.raises(OverloadError):
        await made.batcher.codes("sofa", Role.QUERY)
    assert ([code.code.text for code in codes], made.generation) == (["type=sofa"], "g7")
    assert made.state() == {"model": "g7", "breaker_open": False, "waiting": 0}


async def test_a_model_of_a_bundle_knows_the_field_of_titles(fake_generator: Any) -> None:
    """As its catalogue was configured; other generators know of no fields."""
    found = [model(generator).title for generator in (OnnxGenerator.open(TINY), fake_generator(), None)]
    assert found == ["title", "", ""]


async def test_without_a_generator_there_is_nothing_to_start() -> None:
    """No model is a model that has no generation."""
    made = model(None)
    await made.start()
    await made.warm_up()
    await made.stop()
    assert made.state() == {"model": None, "breaker_open": False, "waiting": 0}


async def test_a_model_that_fails_says_so_when_it_is_warmed_up(fake_generator: Any) -> None:
    """What the generator raises comes out."""
    made = model(fake_generator(error=DecodeError("broken")))
    await made.start()
    with pytest.raises(DecodeError, match="broken"):
        await made.warm_up()
    await made.stop()


async def test_the_old_model_stops_after_its_last_search(fake_generator: Any) -> None:
    """From the swap on searches get the new model, and the old one answers those that have it."""
    old, new = model(fake_generator()), model(fake_generator(generation="g2"))
    await old.start()
    await new.start()
    serving = Serving(old)
    with serving.lent() as first, serving.lent() as second:
        swap = asyncio.create_task(serving.replace(new))
        await asyncio.sleep(0)  # the swap runs up to where it waits
        with serving.lent() as third:
            pass
        codes = await first.query_codes.codes("sofa", Deadline.after(20_000))
        assert ((first, second, third), len(codes), swap.done()) == ((old, old, new), 1, False)
    await swap
    assert old.batcher is not None
    assert new.batcher is not None
    assert [old.batcher.running, new.batcher.running] == [False, True]
    await new.stop()


async def test_a_swap_that_is_cancelled_leaves_no_thread(fake_generator: Any) -> None:
    """At shutdown the old model stops although a search still has it."""
    old, new = model(fake_generator()), model(fake_generator())
    await old.start()
    serving = Serving(old)
    with serving.lent():
        swap = asyncio.create_task(serving.replace(new))
        await asyncio.sleep(0)  # the swap runs up to where it waits
        swap.cancel()
        await asyncio.gather(swap, return_exceptions=True)
    assert old.batcher is not None
    assert (swap.cancelled(), old.batcher.running, serving.model) == (True, False, new)
