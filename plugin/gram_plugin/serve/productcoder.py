"""The product coder: `gram` objects for lists of products, as a plain call for Spark, Ray and programs of one's own.

It codes as sidecar and backfill do, so a product gets the same codes on every way. A product that cannot be coded
gets the mark `pending`; no product can fail its batch.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from gram_plugin.contract.codes import MAX_PRODUCT_CODES
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import ConfigError
from gram_plugin.search.document import pending_object
from gram_plugin.serve.coding import Coder, Patience, utc_now
from gram_plugin.serve.productcodes import coder_in_process
from gram_plugin.serve.settings import SidecarSettings, variable

_log = logging.getLogger(__name__)

_SILENCE_S = 300.0
_NEVER = 1 << 62  # the breaker stays closed: a batch full of texts that the model cannot read is no outage
_NOWHERE = "http://localhost"  # the settings ask for an OpenSearch; a coder talks to none

_Key = tuple[type, Path, frozenset[tuple[str, float]]]


class ProductCoder:
    """Codes products in this process; may be called from several threads. Made by `open` or `shared`.

    It has a thread with an event loop, and threads of the model. None of them survives a fork: it is opened in the
    process that uses it.
    """

    _of_process: ClassVar[dict[_Key, ProductCoder]] = {}
    _of_parents: ClassVar[list[dict[_Key, ProductCoder]]] = []
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, generator: OnnxGenerator, settings: SidecarSettings) -> None:
        self.generation = generator.generation
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._calls = threading.Condition()
        self._running = 0
        self._ending = False
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gram-coder", daemon=True)
        self._thread.start()
        patience = Patience(total_s=None, stall_s=_SILENCE_S, failures=_NEVER)
        entered = self._stack.enter_async_context(coder_in_process(generator, settings, patience))
        try:
            self._coder: Coder = asyncio.run_coroutine_threadsafe(entered, self._loop).result()
        except BaseException:
            self._end()
            raise
        atexit.register(self.close)  # a task that is dropped with the process would complain on stderr

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        *,
        threads: int = 1,
        min_probability: float = 0.02,
        max_codes: int = MAX_PRODUCT_CODES,
        cache_entries: int = 0,
    ) -> Self:
        """Opens a bundle.

        Args:
            bundle: folder that `gram export` wrote.
            threads: products that the model reads at once, each on a core of its own.
            min_probability: least probability of a code that is kept, 0 to 1; as the sidecar's setting.
            max_codes: most codes of one product; as the sidecar's setting.
            cache_entries: texts whose codes are kept in memory; equal texts of one call ask the model once without.

        Raises:
            BundleError: the bundle is incomplete, damaged, of another version, or contradicts itself.
            ConfigError: a number is out of its bounds.
        """
        numbers = {
            "threads": threads,
            "min_probability": min_probability,
            "max_codes": max_codes,
            "cache_entries": cache_entries,
        }
        given = {variable(name): str(number) for name, number in numbers.items()}
        settings = SidecarSettings.from_mapping({variable("upstream_url"): _NOWHERE, **given})
        return cls(OnnxGenerator.open(Path(bundle)), settings)

    @classmethod
    def shared(cls, bundle: Path | str, **numbers: float) -> ProductCoder:
        """The coder of this process for these arguments of `open`: opened by the first call, kept to the end.

        Raises like `open`.
        """
        key = (cls, Path(bundle).absolute(), frozenset(numbers.items()))
        with cls._opening:
            found = cls._of_process.get(key)
            if found is None or found.closed:
                opening: Callable[..., ProductCoder] = cls.open
                found = cls._of_process[key] = opening(bundle, **numbers)
            return found

    @property
    def closed(self) -> bool:
        """Whether it takes no products any more."""
        return self._ending

    def gram_of(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The `gram` object of each document, in order.

        The documents are as they will be indexed: what `json.loads` gives. Rows of tables may come with the arrays and
        numbers of numpy, and with NaN, NaT and NA for what is missing; columns that are not read may hold anything. A
        document that the model cannot read gets the mark `pending`, and a backfill may code it later; so does every
        one when no code comes for 300 seconds.

        Raises:
            ConfigError: the coder was closed, or opened in another process.
        """
        with self._call():
            return self._gram_of(documents)

    def _gram_of(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        read = [_json_of(document, self._coder.names) for document in documents]
        sources = [document for document in read if document is not None]
        coded = asyncio.run_coroutine_threadsafe(self._coder.code_products(sources), self._loop).result()
        found = iter(coded)
        return [dict(pending_object(utc_now()) if document is None else next(found).gram) for document in read]

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Holds `close` back while a call runs."""
        self._require_own()  # the lock of another process may be held for ever
        with self._calls:
            if self._ending:
                raise ConfigError("the coder is closed", next_step="open another one")
            self._running += 1
        try:
            yield
        finally:
            with self._calls:
                self._running -= 1
                self._calls.notify_all()

    def close(self) -> None:
        """Takes no further call, waits for those that run, then ends its threads; a second call does nothing more."""
        if self._pid != os.getpid():
            return
        with self._closing:
            if self._loop.is_closed():
                return
            with self._calls:
                self._ending = True
                self._calls.wait_for(lambda: not self._running)
            atexit.unregister(self.close)
            asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result()
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _require_own(self) -> None:
        if self._pid != os.getpid():
            raise ConfigError(
                "the coder was opened in the process that this one was forked from",
                next_step="call ProductCoder.shared in the function that codes",
            )

    @classmethod
    def _begin_child(cls) -> None:
        """After a fork: another thread of the parent may hold the lock, and its coders have no threads here.

        They are kept, not dropped: an event loop that is collected would take its file out of the parent's selector.
        """
        cls._opening = threading.Lock()
        cls._of_parents.append(cls._of_process)
        cls._of_process = {}


os.register_at_fork(after_in_child=ProductCoder._begin_child)


def _json_of(document: Mapping[str, Any], names: Collection[str] | None) -> dict[str, Any] | None:
    """What is read of the document, as JSON has it; None for one that has no such form. No names mean all."""
    try:
        return {str(name): _plain(value) for name, value in document.items() if names is None or str(name) in names}
    except (AttributeError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        _log.warning("a product cannot be read: %r", error)
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(found) for name, found in value.items()}
    if hasattr(value, "asDict"):  # a row of Spark, which is a tuple as well
        return _plain(value.asDict())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(found) for found in value]
    if _is_missing(value):
        return None
    if isinstance(value, float | Decimal):
        return float(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _is_missing(value: Any) -> bool:
    """NaN and NaT differ from themselves; NA of pandas cannot tell."""
    try:
        return bool(value != value)
    except TypeError:
        return True
