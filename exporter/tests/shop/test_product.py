"""Tests of the catalogue: what is drawn for a product, and how little of it its document says."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from gram_exporter.shop import Shop, stream_products
from gram_exporter.shop.vocabulary import Trait


def _share(shop: Shop, field: str) -> float:
    return sum(field in document for document in shop.documents) / len(shop.documents)


def test_a_million_products_are_streamed() -> None:
    """The first product of a million is there at once, and the same as in a small shop."""
    many, few = stream_products(1, 1_000_000), stream_products(1, 30)
    assert [offer.document for offer in islice(many, 30)] == [offer.document for offer in few]


def test_products_fill_many_departments_and_types(shop: Shop) -> None:
    """There are at least 12 departments with 50 products each, and 200 types."""
    departments = Counter(offer.product.type.department for offer in shop.offers)
    assert len([name for name, size in departments.items() if size >= 50]) >= 12
    assert len({offer.product.type.key for offer in shop.offers}) >= 200


def test_every_document_has_id_title_department_and_price(shop: Shop) -> None:
    """What no shop goes without is always there; ids are unique and titles hold text."""
    assert [_share(shop, field) for field in ("id", "title", "department", "price_eur")] == [1, 1, 1, 1]
    assert len({document["id"] for document in shop.documents}) == len(shop.documents)
    assert all(str(document["title"]).strip() for document in shop.documents)


def test_structured_fields_are_incomplete(shop: Shop) -> None:
    """Descriptions, brands, types and colours are there for most products and missing for some."""
    shares = [_share(shop, field) for field in ("description", "brand", "product_type", "colour")]
    assert all(0.5 < share < 0.97 for share in shares), shares


def test_model_numbers_are_unique(shop: Shop) -> None:
    """A model number names one product."""
    numbers = Counter(offer.product.first("model") for offer in shop.offers)
    assert [number for number, times in numbers.items() if times > 1] == []


def test_merchants_use_several_words_for_one_type(shop: Shop) -> None:
    """Laptops are titled as laptop and as notebook, and not much less often as the one than as the other."""
    offers = [offer for offer in shop.offers if offer.product.type.key == "notebook"]
    titles = [str(offer.document["title"]).casefold() for offer in offers]
    shares = [sum(word in title for title in titles) / len(titles) for word in ("laptop", "notebook")]
    assert min(shares) > 0.2


def test_variants_share_all_but_colour_specs_and_model(shop: Shop) -> None:
    """Products 4 and 5 are product 3 in other colours or sizes, from the same merchant."""
    line = [shop.offers[number] for number in (3, 4, 5)]
    kept = [
        [
            trait
            for trait in offer.product.stated
            if trait.dimension not in ("colour", "model", *offer.product.type.specs)
        ]
        for offer in line
    ]
    assert kept[0] == kept[1] == kept[2]
    assert len({offer.document["merchant"] for offer in line}) == 1


def test_waterproof_products_serve_in_rain_unsaid(shop: Shop) -> None:
    """A function implies its scenario, whether or not the merchant names it."""
    waterproof = [offer.product for offer in shop.offers if Trait("function", "waterproof") in offer.product.stated]
    assert all(Trait("scenario", "rain") in product.traits for product in waterproof)
    assert any(Trait("scenario", "rain") in product.implied for product in waterproof)
