"""What codes cost the store: bytes a product by kind of file, with all of `gram`, with parts of it, and without.

    python benchmarks/growth.py [BUNDLE] [--products 20000] [--fields] [--brief] [--url URL]

Products of the sample shop are coded once and written again and again, each time in another form, to one shard that is
merged to one segment. `--fields` leaves the model out: only the codes that fields surely say, so that 100,000 products
take a minute to code instead of ten; `--brief` writes only the forms with all of `gram` and without. Without a bundle
one of random weights is made, whose codes are of another number and length than a trained one's; a few thousand
products share no dictionary of codes yet, so they tell more than each costs later.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch

from catalogues import Document, bulk_body, place, shop_documents, slices
from figures import Table, show, show_place
from gram_plugin.contract.codes import MAX_PRODUCT_CODES, ScoredCode
from gram_plugin.contract.text import render_product, source_hash
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.progress import Progress
from gram_plugin.search.document import gram_object
from gram_plugin.search.mappings import component_template
from gram_plugin.serve.coding import combined, utc_now
from gram_plugin.serve.productcoder import ProductCoder

INDEX = "gram-growth-benchmark"
BULK = 1000
KINDS = {
    "stored": ("fdt", "fdx", "fdm"),
    "terms": ("tim", "tip", "tmd"),
    "postings": ("doc", "pos", "pay", "psm"),
    "doc values": ("dvd", "dvm"),
    "points": ("kdd", "kdi", "kdm"),
}
"""Files of a Lucene segment by what they hold; all others are told together."""

OTHER = "other"

Gram = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """One way to keep products: what is kept of `gram`, in which field types and settings, and whether all or none."""

    name: str
    keep: Callable[[Gram], Gram] = dict
    fields: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_whole: bool = False


def main() -> None:
    """Reads the command line, codes, writes every form, prints the table."""
    chosen = _arguments()
    show_place()
    with place(chosen.url, chosen.bundle, small=chosen.small) as at:
        store = at.room / "products.jsonl"
        code(at.bundle, chosen.products, store, at.progress, fields_alone=chosen.fields)
        found = {}
        forms = [form for form in FORMS if form.is_whole or not chosen.brief]
        for done, form in enumerate(forms):
            found[form.name] = size_of(at.client, form, store)
            at.progress("forms", done + 1, len(forms))
        show(table(found, chosen.products, codes_of(store)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="a bundle; without it one of random weights is made")
    parser.add_argument("--products", type=int, default=20_000, help="how many products the index has")
    parser.add_argument("--fields", action="store_true", help="only the codes that fields surely say, no model")
    parser.add_argument("--brief", action="store_true", help="only the forms with all of gram and without")
    parser.add_argument("--url", help=f"an OpenSearch; without it one is started. Its index {INDEX} is made anew")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that all of it runs")
    return parser.parse_args()


def code(bundle: Path, products: int, store: Path, progress: Progress, *, fields_alone: bool) -> None:
    """Writes products with their `gram` objects to a file, one JSON object a line, so that memory stays small."""
    coded = _by_fields(bundle, products) if fields_alone else _by_model(bundle, products)
    done = 0
    with store.open("w", encoding="utf-8") as out:
        for found in coded:
            out.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in found)
            done += len(found)
            progress("coding", done, products)


def _by_model(bundle: Path, products: int) -> Iterator[Sequence[Document]]:
    with ProductCoder.open(bundle) as coder:
        for documents in slices(shop_documents(products), BULK):
            grams = coder.gram_of(documents)
            yield [{**document, "gram": gram} for document, gram in zip(documents, grams, strict=True)]


def _by_fields(bundle: Path, products: int) -> Iterator[Sequence[Document]]:
    generator = OnnxGenerator.open(bundle)
    for documents in slices(shop_documents(products), BULK):
        yield [{**document, "gram": _sure(generator, document)} for document in documents]


def _sure(generator: OnnxGenerator, document: Document) -> Gram:
    found: Sequence[ScoredCode] = combined(generator.tags.codes_of(document), (), MAX_PRODUCT_CODES)
    text = render_product(document, generator.manifest.rendering)
    return gram_object(found, generator.generation, source_hash(text, generator.generation), utc_now())


def _nothing(gram: Gram) -> Gram:
    return {}


def _without(*names: str) -> Callable[[Gram], Gram]:
    return lambda gram: {key: value for key, value in gram.items() if key not in names}


def _first(number: int) -> Callable[[Gram], Gram]:
    def keep(gram: Gram) -> Gram:
        codes = gram["codes"][:number]
        weights = {code: gram["weights"][code] for code in codes} if codes else {}
        return {**gram, "codes": codes, **({"weights": weights} if weights else {})}

    return keep


PLAIN, WHOLE = "without gram", "with gram"
_BEST = {"codec": "best_compression"}
FORMS = (
    Form(PLAIN, _nothing, is_whole=True),
    Form(WHOLE, is_whole=True),
    Form("the first 16 codes", _first(16)),
    Form("the first 8 codes", _first(8)),
    Form("the first 4 codes", _first(4)),
    Form("without gram.weights", _without("weights")),
    Form("without gram.codes", _without("codes")),
    Form("without gram.source", _without("source")),
    Form("without gram.at", _without("at")),
    Form("gram.codes not for facets (`doc_values: false`)", fields={"codes": {"type": "keyword", "doc_values": False}}),
    Form("gram.source searchable, as it was", fields={"source": {"type": "keyword"}}),
    Form(f"best_compression, {PLAIN}", _nothing, settings=_BEST, is_whole=True),
    Form(f"best_compression, {WHOLE}", settings=_BEST, is_whole=True),
)


def size_of(client: OpenSearch, form: Form, store: Path) -> Mapping[str, int]:
    """Bytes of the store by kind of file once all products are in it in this form, merged to one segment."""
    gram = component_template(weighted=True)["template"]["mappings"]["properties"]["gram"]
    mapped = {**gram, "properties": {**gram["properties"], **form.fields}}
    settings = {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1", **form.settings}
    client.indices.delete(index=INDEX, ignore_unavailable=True)
    body = {"settings": settings, "mappings": {"properties": {"gram": mapped}}}
    client.indices.create(index=INDEX, body=body)
    with store.open(encoding="utf-8") as lines:
        for some in slices((json.loads(line) for line in lines), BULK):
            documents = [{key: value for key, value in found.items() if key != "gram"} for found in some]
            grams = [form.keep(found["gram"]) for found in some]
            answer = client.bulk(index=INDEX, body=bulk_body(documents, grams if any(grams) else None))
            if answer["errors"]:
                raise SystemExit(f"{form.name}: {str(answer)[:500]}")
    found = _sizes(client)
    client.indices.delete(index=INDEX)
    return found


def _sizes(client: OpenSearch) -> Mapping[str, int]:
    client.indices.forcemerge(index=INDEX, max_num_segments=1)
    client.indices.flush(index=INDEX)
    client.indices.refresh(index=INDEX)
    options = {"include_segment_file_sizes": "true"}
    stats: Any = client.indices.stats(index=INDEX, metric="segments", params=options)["_all"]["primaries"]
    sizes = {ending: found["size_in_bytes"] for ending, found in stats["segments"]["file_sizes"].items()}
    named = {kind: sum(sizes.pop(ending, 0) for ending in endings) for kind, endings in KINDS.items()}
    return {**named, OTHER: sum(sizes.values())}


def codes_of(store: Path) -> float:
    """Mean number of codes of a product."""
    with store.open(encoding="utf-8") as lines:
        numbers = [len(json.loads(line)["gram"]["codes"]) for line in lines]
    return sum(numbers) / len(numbers)


def table(found: Mapping[str, Mapping[str, int]], products: int, codes: float) -> Table:
    """Bytes a product by form and kind of file; but for the two without `gram`, only what is more than without."""
    title = f"bytes a product that `gram` adds, {products:,} products, {codes:.1f} codes each"
    shown = Table(title, ("form", *KINDS, OTHER, "all"))
    for name, sizes in found.items():
        base = found[_base_of(name)]
        more = [(size - (0 if sizes is base else base[kind])) / products for kind, size in sizes.items()]
        shown.add(name, *(f"{part:,.0f}" for part in (*more, sum(more))))
    return shown


def _base_of(name: str) -> str:
    return f"best_compression, {PLAIN}" if name.startswith("best") else PLAIN


if __name__ == "__main__":
    main()
