"""The product coder: the codes of the other ways, values as tables have them, and its life in one process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import BundleError, ConfigError
from gram_plugin.serve.coding import Patience
from gram_plugin.serve.productcoder import ProductCoder
from gram_plugin.serve.productcodes import coder_in_process
from gram_plugin.serve.settings import SidecarSettings

TINY = Path(__file__).parents[1] / "decode" / "tiny_bundle"
PRODUCTS = [{"id": str(number), "title": f"grey velvet sofa {number % 7}", "price": 9.5} for number in range(20)]
IN_A_CHILD = """
import os, sys
from gram_plugin.errors import ConfigError
from gram_plugin.serve.productcoder import ProductCoder
coder = ProductCoder.shared(sys.argv[1])
assert coder.gram_of([{"title": "sofa"}])[0]["codes"]
child = os.fork()
if child == 0:
    try:
        coder.gram_of([{"title": "sofa"}])
    except ConfigError as error:
        assert ProductCoder.shared(sys.argv[1]).gram_of([{"title": "sofa"}])[0]["codes"]
        print(error, flush=True)
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


FORK_WHILE_OPENING = """
import os, signal, sys, threading
from gram_plugin.serve.productcoder import ProductCoder
begun, end = threading.Event(), threading.Event()
class Slow(ProductCoder):
    @classmethod
    def open(cls, bundle, **numbers):
        begun.set()
        end.wait()
        return super().open(bundle, **numbers)
opening = threading.Thread(target=Slow.shared, args=(sys.argv[1],))
opening.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(7 if ProductCoder.shared(sys.argv[1]).gram_of([{"title": "sofa"}])[0]["codes"] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
end.set()
opening.join()
"""


def untimed(gram: Mapping[str, Any]) -> dict[str, Any]:
    """A `gram` object without the time at which it was made."""
    return {name: value for name, value in gram.items() if name != "at"}


@pytest.fixture
def coder() -> Iterator[ProductCoder]:
    """A coder of the tiny bundle."""
    with ProductCoder.open(TINY) as opened:
        yield opened


@pytest.mark.parametrize("numbers", [{}, {"threads": 2, "min_probability": 0.0, "max_codes": 12}])
async def test_a_product_gets_the_codes_that_the_other_ways_give(numbers: dict[str, Any]) -> None:
    """The same objects as from the coder that ingest and backfill have under the same settings, in order."""
    settings = SidecarSettings(upstream_url="http://localhost", **numbers)
    patience = Patience(total_s=None)
    async with coder_in_process(OnnxGenerator.open(TINY), settings, patience) as other:
        expected = [untimed(coded.gram) for coded in await other.code_products(PRODUCTS)]
    with ProductCoder.open(TINY, **numbers) as coder:
        assert [untimed(gram) for gram in coder.gram_of(PRODUCTS)] == expected
    assert {gram["model"] for gram in expected} == {"g1"}


@pytest.mark.parametrize("most", [60, 4096])
async def test_the_bound_of_tokens_holds_on_every_way_to_write(listened_to: Any, most: int) -> None:
    """Sidecar, ingest and backfill have this batcher: no reading is larger, and a larger bound is used."""
    generator, shapes = listened_to(OnnxGenerator.open(TINY))
    settings = SidecarSettings(upstream_url="http://localhost", max_batch_tokens=most, max_wait_ms=1000)
    async with coder_in_process(generator, settings, Patience(total_s=None)) as coder:
        await coder.code_products(PRODUCTS)
    largest = max(texts * columns for texts, columns in shapes)
    assert largest <= most
    assert (largest > 60) is (most > 60)


def test_a_product_that_cannot_be_read_is_pending_and_costs_the_others_nothing(coder: ProductCoder) -> None:
    """What has no form in JSON, or no end, is marked; its neighbours have their codes."""
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    alone = untimed(coder.gram_of(PRODUCTS[:1])[0])
    found = coder.gram_of([PRODUCTS[0], {"title": object()}, {"title": deep}, {"title": Decimal("sNaN")}, PRODUCTS[0]])
    pending = {"codes": [], "model": "pending"}
    assert [untimed(gram) for gram in found] == [alone, pending, pending, pending, alone]


def test_values_of_tables_mean_what_they_mean_in_json(coder: ProductCoder) -> None:
    """Arrays, numbers of numpy, whole numbers as floats and NaN give the text that the document in the index has."""
    row = {"title": np.array(["sofa", "bed"], dtype=object), "price": np.float64("nan"), "seats": np.float64(3.0)}
    tuples = {"title": ("sofa", np.str_("bed")), "price": Decimal("NaN"), "seats": Decimal(3)}
    missing = {"title": ["sofa", np.nan, "bed", np.datetime64("NaT")], "seats": np.int64(3)}
    stored = {"title": ["sofa", "bed"], "seats": 3}
    expected, *found = [untimed(gram) for gram in coder.gram_of([stored, row, tuples, missing])]
    assert found == [expected] * 3
    assert expected["codes"]


def test_columns_that_are_not_read_may_hold_anything(coder: ProductCoder) -> None:
    """Bytes, names and spans of time have no form in JSON, and nobody asks for one."""
    expected = untimed(coder.gram_of([{"title": "sofa"}])[0])
    row = {"title": "sofa", "photo": b"\xff", "key": uuid4(), "age": timedelta(days=1), 7: object()}
    assert [untimed(gram) for gram in coder.gram_of([row])] == [expected]
    assert expected["codes"]


def test_no_products_are_no_objects(coder: ProductCoder) -> None:
    """An empty partition is no error."""
    assert coder.gram_of([]) == []


def test_several_threads_may_share_a_coder(coder: ProductCoder) -> None:
    """Each caller gets the codes of its own products."""
    expected = [untimed(coder.gram_of([product])[0]) for product in PRODUCTS]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda product: untimed(coder.gram_of([product])[0]), PRODUCTS))
    assert found == expected


def test_a_process_opens_a_bundle_once_for_the_same_arguments() -> None:
    """`shared` gives the open coder; other numbers have another one, and a closed one is opened again."""
    first = ProductCoder.shared(TINY)
    other = ProductCoder.shared(TINY, max_codes=3)
    assert ProductCoder.shared(str(TINY)) is first is not other
    assert max(len(gram["codes"]) for gram in other.gram_of(PRODUCTS)) == 3
    first.close()
    again = ProductCoder.shared(TINY)
    assert (first.closed, again.closed, again is first) == (True, False, False)
    again.close()
    other.close()


def test_a_closed_coder_says_so_and_can_be_closed_again() -> None:
    """After `close` nothing hangs: the next call is an error."""
    coder = ProductCoder.open(TINY)
    coder.close()
    coder.close()
    with pytest.raises(ConfigError, match="the coder is closed — open another one"):
        coder.gram_of(PRODUCTS)


def test_close_waits_for_calls_that_run_and_refuses_new_ones() -> None:
    """A thread that is in a call gets its codes, one that comes later gets the error; neither waits without end."""
    coder = ProductCoder.open(TINY)
    begun, go_on = threading.Event(), threading.Event()

    class Held(dict[str, Any]):
        """A product that is read no sooner than the test says."""

        def items(self) -> Any:
            begun.set()
            go_on.wait(30)
            return super().items()

    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(coder.gram_of, [Held(PRODUCTS[0])])
        assert begun.wait(30)
        closing = pool.submit(coder.close)
        while not coder.closed:
            assert not closing.done()
        with pytest.raises(ConfigError, match="the coder is closed"):
            coder.gram_of(PRODUCTS)
        go_on.set()
        assert call.result(30)[0]["codes"]
        closing.result(30)


def test_a_fork_while_a_coder_is_being_opened_leaves_the_child_able_to_open_one() -> None:
    """The lock that another thread of the parent held is none of the child's."""
    words = [sys.executable, "-W", "ignore", "-c", FORK_WHILE_OPENING, str(TINY)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_a_fork_is_told_to_open_its_own_and_a_process_ends_without_close() -> None:
    """In a forked child the parent's coder is an error instead of a wait without end; `shared` opens a new one."""
    words = [sys.executable, "-W", "ignore", "-c", IN_A_CHILD, str(TINY)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    message = "the coder was opened in the process that this one was forked from"
    step = "call ProductCoder.shared in the function that codes"
    assert (done.stdout, done.stderr, done.returncode) == (f"{message} — {step}\n7\n", "", 0)


def test_a_bundle_or_a_number_that_cannot_be_used_is_an_error_at_once(tmp_path: Path) -> None:
    """Nothing is left running behind an error of opening."""
    with pytest.raises(BundleError):
        ProductCoder.open(tmp_path)
    with pytest.raises(ConfigError, match="GRAM_THREADS is 0, expected 1 to 256"):
        ProductCoder.open(TINY, threads=0)
