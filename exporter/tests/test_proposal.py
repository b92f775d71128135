"""What is proposed for catalogues of several shapes and languages."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gram_exporter.proposal import Proposal, propose, search_fields
from gram_exporter.survey import survey
from gram_plugin.errors import CatalogueError

RNG = random.Random(7)
WORDS = "light warm soft long deep quick brown calm bold fine clear sharp round plain rich".split()  # noqa: SIM905


def prose(words: int) -> str:
    """Text that no other product has."""
    return " ".join(RNG.choices(WORDS, k=words)) + f" {RNG.getrandbits(40):x}"


def uses(proposal: Proposal) -> dict[str, str]:
    """Field to use."""
    return {choice.field: choice.use for choice in proposal.choices}


def english(number: int) -> dict[str, Any]:
    """A product of a shop with nested attributes, links, flags, numbers and dates."""
    return {
        "sku": f"S-{number:05}",
        "brand": {"id": number % 7, "name": ["Acme", "Zorg", "Plim"][number % 3]},
        "description": prose(40),
        "product_title": prose(6),
        "short_description": prose(9),
        "category": ["Shoes", "Bags", "Hats", "Coats"][number % 4],
        "type": ["Standard", "Standard", "Deluxe"][number % 3],
        "attributes": {"Colour": ["red", "blue"][: 1 + number % 2], "Heel form": ["flat", "high"][number % 2]},
        "year": 2015 + number % 6,
        "price": 9.99 + number,
        "weight_g": 100 + number,
        "in_stock": number % 2 == 0,
        "image_url": f"https://cdn.example/{number}.jpg",
        "created_at": f"2024-01-{1 + number % 28:02}",
        "ean": f"40{number:011}",
        "warranty": "2 years",
    }


def test_a_shop_with_everything() -> None:
    """Id, texts in order, the category and typed attributes are found; the rest is left out with its reason."""
    proposal = propose(survey([english(number) for number in range(200)]))
    assert uses(proposal) == {
        "sku": "id",
        "product_title": "text",
        "short_description": "text",
        "description": "text",
        "category": "type",
        "brand.name": "brand",
        "attributes.Colour": "colour",
        "year": "time",
        "type": "kind",
        "attributes.Heel form": "heel_form",
    }
    assert [choice.field for choice in proposal.texts] == ["product_title", "short_description", "description"]
    assert proposal.left_out == {
        "links, dates, prices, article numbers and the like": 5,
        "bare numbers": 1,
        "true or false": 1,
        "one value for all": 1,
    }
    assert search_fields(proposal) == (
        "product_title^3", "short_description", "description", "category^2", "brand.name^2", "attributes.Colour",
        "type", "attributes.Heel form",
    )  # fmt: skip


def test_search_fields_of_an_index_are_those_that_hold_text() -> None:
    """Fields that the mapping does not index as text or keyword are not searched."""
    proposal = propose(survey([english(number) for number in range(50)]), id_field="_id")
    assert proposal.id.field == "_id"
    mapped = {"product_title": "text", "category": "keyword", "attributes.Colour": "flat_object"}
    assert search_fields(proposal, mapped) == ("product_title^3", "category^2")


def test_titles_alone() -> None:
    """A catalogue of titles is enough; nothing becomes an attribute."""
    proposal = propose(survey([{"id": number, "title": prose(8)} for number in range(50)]))
    assert uses(proposal) == {"id": "id", "title": "text"}
    assert search_fields(proposal) == ("title^3",)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ("Artikelnummer", "Bezeichnung", "Warengruppe", "Hersteller", "Farbe", "Obermaterial", "Preis"),
            {"Artikelnummer": "id", "Bezeichnung": "text", "Warengruppe": "type", "Hersteller": "brand",
             "Farbe": "colour", "Obermaterial": "material"},
        ),
        (
            ("商品編号ID", "商品名", "カテゴリー", "ブランド", "カラー", "素材", "価格"),
            {"商品編号ID": "id", "商品名": "text", "カテゴリー": "type", "ブランド": "brand", "カラー": "colour",
             "素材": "material"},
        ),
        (
            ("referencia", "nombre", "categoría", "marca", "color", "material", "precio"),
            {"referencia": "id", "nombre": "text", "categoría": "type", "marca": "brand", "color": "colour",
             "material": "material"},
        ),
    ],
)  # fmt: skip
def test_other_languages(names: tuple[str, ...], expected: dict[str, str]) -> None:
    """German, Japanese and Spanish catalogues are understood by their names; all cells are text, as in CSV."""
    cells = [
        (f"{n:04}", prose(5), "abcd"[n % 4], "xyz"[n % 3], "rgb"[n % 3], "pq"[n % 2], f"{n},99") for n in range(60)
    ]
    rows = [dict(zip(names, row, strict=True)) for row in cells]
    assert uses(propose(survey(rows))) == expected


def test_names_that_say_nothing() -> None:
    """Without telling names the statistics decide: a unique code, the text most like a title, shared short values."""
    rows = [{"c1": f"k{n}", "c2": prose(60), "c3": prose(7), "c4": ["oak", "elm", "ash"][n % 3]} for n in range(80)]
    assert uses(propose(survey(rows))) == {"c1": "id", "c3": "text", "c2": "text", "c4": "c_4"}


def test_wide_catalogues_are_capped() -> None:
    """Of many fitting fields the most useful 24 are taken, known kinds first among equals."""
    rows = [{"id": n, "title": prose(5), **{f"spec {k}": f"v{n % 5}" for k in range(60)}, "colour": "rgb"[n % 3]}
            for n in range(60)]  # fmt: skip
    proposal = propose(survey(rows))
    assert len(proposal.attributes) == 24
    assert proposal.attributes[0].use == "colour"
    assert proposal.left_out == {"of little use beside the others": 37}


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        ([{"title": "same title", "colour": "red"}] * 5, "no field has another short value for each product"),
        ([{"id": n, "price": n * 1.5} for n in range(5)], "no field holds words"),
    ],
)
def test_catalogues_without_id_or_words(rows: list[dict[str, Any]], finding: str) -> None:
    """Without an id or a text there is nothing to propose, and the fields that were found are named."""
    with pytest.raises(CatalogueError, match=finding) as caught:
        propose(survey(rows))
    assert "price" in caught.value.message or "colour" in caught.value.message
    assert caught.value.next_step
