"""`gram ingest` as a program against a fake OpenSearch, beside the sidecar with the same bundle."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.errors import SearchError
from gram_plugin.serve.checkpoint import Counts
from gram_plugin.serve.ingest import Report
from gram_plugin.serve.productcodes import product_rules
from gram_plugin.serve.running import Done, Wish, ingest
from gram_plugin.serve.settings import SidecarSettings
from gram_plugin.serve.sidecar import create_sidecar

TINY = Path(__file__).parents[1] / "decode/tiny_bundle"
KEYWORD = {"type": "keyword"}
GRAM = {
    "codes": KEYWORD,
    "weights": {"type": "rank_features"},
    "model": KEYWORD,
    "source": KEYWORD,
    "at": {"type": "date"},
}
MAPPING = {"shop": {"mappings": {"properties": {"gram": {"properties": GRAM}}}}}
PRODUCTS = [
    {"id": str(number), "sku": f"s{number}", "title": f"grey velvet sofa {number} with a tall back"}
    for number in range(1, 6)
]


async def taken(seen: Any) -> Response:
    """The answer to a bulk that was taken whole; nothing else is there."""
    if b"/_bulk" not in seen.target:
        return JSONResponse({}, status_code=404)
    return JSONResponse({"items": [{"index": {"status": 201}} for _ in seen.body.splitlines()[::2]]})


@pytest.fixture
def shop(opensearch: Any) -> Any:
    """An OpenSearch that takes everything into an index with the gram fields."""
    opensearch.mappings, opensearch.answer = MAPPING, taken
    return opensearch


@pytest.fixture
def wish(tmp_path: Path, opensearch_url: str) -> Wish:
    """The wish to put five products into the shop, coded with the tiny bundle."""
    catalogue = tmp_path / "products.jsonl"
    catalogue.write_text("".join(json.dumps(product) + "\n" for product in PRODUCTS))
    return Wish(
        catalogue=catalogue,
        index="shop",
        url=opensearch_url,
        checkpoint=tmp_path / "checkpoint.json",
        dead_letters=tmp_path / "letters.jsonl",
        bundle=TINY,
        id_field="id",
    )


async def run(wish: Wish) -> Done:
    """`gram ingest` to its end; it has a loop of its own."""
    return await asyncio.to_thread(ingest, wish, Console(file=io.StringIO()))


def documents(shop: Any) -> list[dict[str, Any]]:
    """The documents of the bulks so far, without the times of their codes."""
    bodies = b"".join(seen.body for seen in shop.searches if b"/_bulk" in seen.target)
    found = [json.loads(line) for line in bodies.splitlines()[1::2]]
    for document in found:
        del document["gram"]["at"]
    return found


async def interrupted(wish: Wish, shop: Any) -> None:
    """A run that dies at its second bulk; afterwards OpenSearch takes everything again."""
    answers = iter([taken])

    async def answer(seen: Any) -> Response:
        if b"/_bulk" not in seen.target:
            return await taken(seen)
        return await next(answers, refuse)(seen)

    shop.answer = answer
    with pytest.raises(SearchError):
        await run(wish)
    shop.answer = taken
    shop.seen.clear()


async def refuse(_: Any) -> Response:
    """The answer to a writer without rights."""
    return JSONResponse({}, status_code=403)


def ids(shop: Any) -> list[str]:
    """The ids under which documents were indexed."""
    bodies = b"".join(seen.body for seen in shop.searches if b"/_bulk" in seen.target)
    return [json.loads(line)["index"]["_id"] for line in bodies.splitlines()[::2]]


async def test_the_same_command_goes_on_where_an_interrupted_run_stopped(wish: Wish, shop: Any) -> None:
    """What is in the index already is not sent again."""
    wish = replace(wish, bundle=None, bulk=2)
    await interrupted(wish, shop)
    assert (await run(wish)).report == Report(Counts(indexed=5), resumed_at=2)
    assert ids(shop) == ["3", "4", "5"]


async def test_another_id_field_begins_at_the_beginning(wish: Wish, shop: Any) -> None:
    """What the interrupted run left is under other ids."""
    wish = replace(wish, bundle=None, bulk=2)
    await interrupted(wish, shop)
    assert (await run(replace(wish, id_field="sku"))).report == Report(Counts(indexed=5))
    assert ids(shop) == [product["sku"] for product in PRODUCTS]


async def test_another_dead_letter_file_begins_at_the_beginning_and_loses_no_letter(wish: Wish, shop: Any) -> None:
    """A file that has letters of something else is put aside, never cut."""
    wish = replace(wish, bundle=None, bulk=2)
    await interrupted(wish, shop)
    others = wish.dead_letters.with_name("others.jsonl")
    others.write_text("not ours\n")
    assert (await run(replace(wish, dead_letters=others))).report == Report(Counts(indexed=5))
    assert others.with_name("others.jsonl.previous").read_text() == "not ours\n"


@pytest.mark.parametrize("environment", [{}, {"GRAM_MAX_CODES": "12", "GRAM_MIN_PROBABILITY": "0.0"}])
async def test_a_product_gets_the_same_codes_from_ingest_and_from_the_sidecar(
    wish: Wish,
    shop: Any,
    opensearch_url: str,
    serve: Callable[[ASGIApp], Awaitable[str]],
    client: Any,
    environment: dict[str, str],
) -> None:
    """One bundle and one environment give equal documents on both ways, as many codes as the settings allow."""
    await run(replace(wish, environment=environment))
    ingested = documents(shop)
    shop.seen.clear()
    settings = SidecarSettings.from_mapping({**environment, "GRAM_UPSTREAM_URL": opensearch_url})
    generator = OnnxGenerator.open(TINY)
    app = create_sidecar(settings, generator, product_rules(generator, settings))
    lines = [line for product in PRODUCTS for line in ({"index": {"_id": product["id"]}}, product)]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    url = await serve(app)
    await client(f"{url}/shop/_bulk", "POST", [("content-type", "application/x-ndjson")], body)
    assert documents(shop) == ingested
    if environment:
        assert [len(document["gram"]["codes"]) for document in ingested] == [12] * 5
