"""rsyslog, the log shipper of most Linux machines, writing through the sidecar as it writes straight to OpenSearch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backfills import wait_for
from faultproxy import NONE, Fault, FaultProxy, reply
from gram_plugin.node.node import RunningNode
from gram_plugin.node.release import cache_folder
from rsyslog import Rsyslog, rsyslog
from sidecars import Pair, create, plain, serving, settled, stored

PAGE = Path(__file__).parents[1] / "docs/clients.md"
RESUMES = 'action.resumeRetryCount="-1"'
OVERLOAD = reply(
    "429 Too Many Requests", b'{"error":{"type":"overload","reason":"later"},"status":429}', "retry-after: 1"
)


def products(number: int) -> list[dict[str, Any]]:
    """Lines of a log; of each 40 there is one that OpenSearch refuses."""
    return [{"sku": f"s{n}", "title": f"shoe number{n}", "price": "cheap" if n % 40 == 7 else n} for n in range(number)]


def documented() -> str:
    """The configuration that the page of the clients tells people to use."""
    section = PAGE.read_text(encoding="utf-8").partition("## rsyslog\n")[2]
    return section.split("```")[1]


@dataclass(frozen=True)
class Shipment:
    """A log on its way into an index, by way of an address."""

    folder: Path
    url: str
    index: str

    def prepare(self, lines: Sequence[Any], more: str = "") -> str:
        """Writes the log and gives the configuration that ships it: the one of the page, with these places."""
        self.folder.mkdir()
        (self.folder / "products.log").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        changes = {
            "/var/log": str(self.folder),
            "localhost": "127.0.0.1",
            "9202": str(urlsplit(self.url).port),
            'searchIndex="products"': f'searchIndex="{self.index}"',
            RESUMES: f'{RESUMES} action.resumeInterval="1" {more}',
        }
        block = documented()
        for old, new in changes.items():
            assert block.count(old), old
            block = block.replace(old, new)
        return f'global(workDirectory="{self.folder}")\n{block}'

    def errors(self) -> str:
        """What rsyslog has put aside, as it wrote it."""
        path = self.folder / "products.errors"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def said(self) -> str:
        """What rsyslog has said of itself."""
        return (self.folder / "rsyslog.said").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Trouble:
    """Something is wrong on the way to an address, until its end."""

    url: str
    end: Callable[[], None]


@pytest.fixture(scope="module")
def shipper() -> Rsyslog:
    """The program."""
    return rsyslog(cache_folder(os.environ), os.environ)


def test_what_it_ships_is_stored_as_directly_and_coded(
    shipper: Rsyslog, node: RunningNode, pair: Pair, index_name: str, tmp_path: Path
) -> None:
    """The same documents, and the same refusals in its file of errors, item by item; those stored have codes."""
    direct, behind = (
        Shipment(tmp_path / name, url, f"{index_name}-{name}")
        for name, url in (("direct", node.url), ("behind", pair.url))
    )
    for shipment in (direct, behind):
        create(pair.direct, shipment.index)
        with shipper.shipping(shipment.prepare(products(120), 'erroronly="on"'), shipment.folder):
            wait_for(partial(is_done, pair, shipment))
    documents = stored(pair.direct, behind.index)
    assert refusals(behind) == refusals(direct)
    assert plain(documents) == stored(pair.direct, direct.index)
    codes = {name: document["gram"]["codes"] for name, document in documents.items()}
    assert codes == {f"s{n}": [f"g1/type=number{n}", "g1/type=shoe"] for n in range(120) if n % 40 != 7}


@pytest.fixture(params=["away", "overloaded", "alone"])
def troubled(request: pytest.FixtureRequest, node: RunningNode, pair: Pair) -> Iterator[Trouble]:
    """A sidecar that is not there, one that is overloaded, and one whose OpenSearch is not there."""
    proxy = FaultProxy(node.url if request.param == "alone" else pair.url)
    with proxy.running():
        if request.param == "overloaded":
            proxy.fault = Fault(only=b"_bulk", reply=OVERLOAD)
            yield Trouble(proxy.url, lambda: setattr(proxy, "fault", NONE))
            return
        proxy.refuse()
        with serving(proxy.url, pair.generator) if request.param == "alone" else nullcontext(proxy.url) as url:
            yield Trouble(url, proxy.listen)


def test_no_line_is_lost_when_the_sidecar_cannot_take_it(
    shipper: Rsyslog, troubled: Trouble, pair: Pair, index_name: str, tmp_path: Path
) -> None:
    """Connections refused: it waits and sends. An answer of 429 or 502: what it does not send again it puts aside."""
    create(pair.direct, index_name)
    shipment = Shipment(tmp_path / index_name, troubled.url, index_name)
    with shipper.shipping(shipment.prepare(products(5)), shipment.folder):
        wait_for(lambda: "rsyslogd: omelasticsearch" in shipment.said())  # it has met the trouble
        troubled.end()
        wait_for(lambda: kept(pair, shipment) == {f"s{n}" for n in range(5)})


def is_done(pair: Pair, shipment: Shipment) -> bool:
    """Whether all of 120 products are in the index or refused."""
    return len(stored(pair.direct, shipment.index)) == 117 and shipment.errors().count("mapper_parsing_exception") == 3


def refusals(shipment: Shipment) -> Any:
    """What was refused and why, as rsyslog tells it, item by item."""
    letters = [json.loads(line) for line in shipment.errors().splitlines()]
    requests = [request for letter in letters for request in letter["request"]]
    replies = [json.loads(text) for letter in letters for text in letter["reply"]]
    return settled([requests, replies], shipment.index)


def kept(pair: Pair, shipment: Shipment) -> set[str]:
    """Ids of the lines that are in the index or in the file of errors."""
    put_aside = {f"s{n}" for n in range(5) if f'\\"sku\\": \\"s{n}\\"' in shipment.errors()}
    return set(stored(pair.direct, shipment.index)) | put_aside
