"""Writers as shops have them: what they send in which order, and how they insist until each item is answered."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import TransportError

BUSY = frozenset({429, 500, 502, 503, 504})
PAUSE_S = 0.05
SCRIPT = "ctx._source.title = params.title; ctx._source.price = params.price"


@dataclass(frozen=True)
class Operation:
    """One item of a bulk: action, id, the line after it, and what the product is then; None if it is refused."""

    action: str
    id: str
    source: dict[str, Any]
    product: dict[str, Any] | None

    def lines(self) -> str:
        """Its two lines of a `_bulk` body."""
        return f"{json.dumps({self.action: {'_id': self.id}})}\n{json.dumps(self.source)}\n"


def chunk_of(writer: int, number: int) -> list[Operation]:
    """The bulk that a writer sends as its n-th: new products, one that is refused, and changes of those before.

    Of every product there is one write that makes it and at most one that changes it, and the first of two is a
    `create`. So a bulk that was lost on its way and arrives after all, when its writer has long sent it again, can
    do no harm: that hazard is the same without a sidecar.
    """
    name = f"w{writer}-{number}"
    made = [Operation("index", f"{name}-{at}", *_product(f"grey velvet sofa {name} {at}", at)) for at in range(5)]
    kept = [Operation("create", f"{name}-{at}", *_product(f"oak table {name}", at)) for at in range(5, 8)]
    refused = Operation("index", f"{name}-8", {"title": "a lamp", "price": "cheap"}, None)
    return [*made, *kept, refused, *(_changes(f"w{writer}-{number - 1}") if number else [])]


def _product(title: str, price: int) -> tuple[dict[str, Any], dict[str, Any]]:
    document = {"title": title, "price": price}
    return document, document


def _changes(name: str) -> Iterator[Operation]:
    """Another text, another price, another text by a script."""
    text, price = f"red leather chair {name}", -1
    yield Operation("update", f"{name}-5", {"doc": {"title": text}}, {"title": text, "price": 5})
    yield Operation("update", f"{name}-6", {"doc": {"price": price}}, {"title": f"oak table {name}", "price": price})
    script = {"source": SCRIPT, "params": {"title": text, "price": price}}
    yield Operation("update", f"{name}-7", {"script": script}, {"title": text, "price": price})


@dataclass
class Book:
    """What a writer was told: what each product is now, which were refused, and how often what happened."""

    products: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def received(self) -> set[str]:
        """The ids of all that was answered for good."""
        return self.products.keys() | self.refused

    def settle(self, operation: Operation, status: int) -> None:
        """Notes an answer that is for good; a `create` that finds its product there has been taken before."""
        taken = status < 300 or (status == 409 and operation.action == "create")
        if taken and operation.product is not None:
            self.products[operation.id] = operation.product
        else:
            assert (status, operation.product) == (400, None), (status, operation)
            self.refused.add(operation.id)


def send(client: OpenSearch, index: str, operations: list[Operation], book: Book, ended: threading.Event) -> None:
    """Insists until every operation is taken or refused for good, as log shippers and indexers do."""
    waiting = operations
    while waiting:
        try:
            answer = client.bulk(index=index, body="".join(found.lines() for found in waiting))
        except NoConnection:
            book.happened["no answer"] += 1
        except TransportError as error:
            assert error.status_code in BUSY, error
            book.happened[f"status {error.status_code}"] += 1
        else:
            results = [result for item in answer["items"] for result in item.values()]
            for operation, result in zip(waiting, results, strict=True):
                if result["status"] not in BUSY:
                    book.settle(operation, result["status"])
            waiting = [found for found, result in zip(waiting, results, strict=True) if result["status"] in BUSY]
            book.happened["again"] += len(waiting)
        if waiting:
            assert not ended.wait(PAUSE_S), "ended in the middle of a bulk"


class Writer(threading.Thread):
    """Sends one chunk after another until it is told to stop, then the one at hand to its end."""

    def __init__(self, number: int, url: str, index: str) -> None:
        super().__init__()
        self._number = number
        self._url = url
        self._index = index
        self._enough = threading.Event()
        self._never = threading.Event()
        self.sent = 0
        self.book = Book()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Writes."""
        try:
            with OpenSearch(self._url, timeout=90, max_retries=0) as client:
                while not self._enough.wait(PAUSE_S):
                    send(client, self._index, chunk_of(self._number, self.sent), self.book, self._never)
                    self.sent += 1
        except BaseException as error:  # noqa: BLE001 - raised again where the thread is joined
            self.error = error

    def end(self) -> None:
        """Returns after its last chunk; raises what went wrong."""
        self._enough.set()
        self.join(300)
        assert not self.is_alive(), "the writer waits for ever"
        if self.error is not None:
            raise self.error


def replay(url: str, index: str, sent: dict[int, int]) -> Book:
    """Sends the same chunks again, as many of each writer, with nobody disturbing."""
    book = Book()
    with OpenSearch(url, timeout=90, max_retries=0) as client:
        for writer, chunks in sent.items():
            for number in range(chunks):
                send(client, index, chunk_of(writer, number), book, threading.Event())
    return book
