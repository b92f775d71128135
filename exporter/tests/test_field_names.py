"""Field names in several languages and the types that they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram_exporter.field_names import (
    HEAD_NAMES,
    ID_NAMES,
    TITLE_NAMES,
    WHOLE_NAMES,
    category_certainty,
    core_words,
    is_no_attribute,
    name_rank,
    named_type,
    own_type,
)
from gram_plugin.contract.codes import ATTRIBUTE_TYPES, Attribute


@pytest.mark.parametrize(
    ("field", "type_name"),
    [
        ("brand", "brand"), ("brand_name", "brand"),
        ("attributes.brand.name", "brand"), ("supplier", "brand"),
        ("Hersteller", "brand"), ("Marken", "brand"),
        ("marca", "brand"), ("品牌", "brand"), ("ブランド", "brand"),
        ("processor_manufacturer", None),
        ("attr_t_product_colour", "colour"), ("productColors", "colour"),
        ("Hauptfarbe", "colour"), ("couleur", "colour"),
        ("颜色", "colour"), ("商品颜色", "colour"), ("jacket_material", "material"),
        ("Obermaterial", "material"), ("shoe_size", "sales_spec"),
        ("Größe", "sales_spec"), ("Schuhgröße", "sales_spec"),
        ("year", "time"), ("Jahreszeit", "time"),
        ("gender", "audience"), ("connector_gender", None), ("Zielgruppe", "audience"),
        ("occasion", "scenario"), ("tags", "other"),
        ("model", "model"), ("processor_model", None), ("director", None),
    ],
)  # fmt: skip
def test_named_types(field: str, type_name: str | None) -> None:
    """Names in several languages, with affixes, plurals and compounds, mean their GRAM type; others none."""
    assert named_type(field) == type_name


@pytest.mark.parametrize(
    ("field", "certainty"),
    [
        ("category", 1.0), ("categories", 1.0),
        ("Kategorien", 1.0), ("product_type", 1.0), ("attr_t_product_type", 1.0),
        ("productTypeName", 1.0), ("genres", 1.0), ("Warengruppe", 1.0),
        ("類別", 0.0), ("类别", 1.0), ("カテゴリー", 1.0),
        ("Hauptkategorie", 0.6), ("department", 0.7),
        ("type", 0.5), ("attr_t_type", 0.5), ("package_type", 0.0),
    ],
)  # fmt: skip
def test_categories(field: str, certainty: float) -> None:
    """A bare `type` is a weaker sign of the category than `product_type`; a `package_type` is none."""
    assert category_certainty(field) == certainty


def test_ranks_of_titles_and_ids() -> None:
    """Better names come first; the name of something else is not the product's."""
    titles = ["name", "product_title", "Titel", "商品名", "brand.name", "product.title", "nickname"]
    assert sorted((f for f in titles if name_rank(f, TITLE_NAMES) is not None), key=titles.index) == [
        "name", "product_title", "Titel", "商品名", "product.title",
    ]  # fmt: skip
    assert min(["sku", "product_id", "id"], key=lambda f: name_rank(f, ID_NAMES) or 0) == "id"


def test_names_that_nobody_searches_by() -> None:
    """Prices, links, dates and article numbers are known by name; a title is not one of them."""
    fields = ["price_eur", "imageUrl", "img_500x500", "createdAt", "EAN", "category_id", "rating", "title", "colour"]
    assert [field for field in fields if not is_no_attribute(field)] == ["title", "colour"]


def test_own_types() -> None:
    """Fields of no known kind are named after themselves, and never as one of the 16 types."""
    assert own_type("attr_t_form_factor", ATTRIBUTE_TYPES) == "form_factor"
    assert own_type("Anschlüsse", ATTRIBUTE_TYPES) == "anschlusse"
    assert own_type("attr_t_type", ATTRIBUTE_TYPES) == "kind"
    assert own_type("model", ATTRIBUTE_TYPES) == "field_model"
    assert own_type("2nd colour", ()) == "nd_colour"
    assert own_type("接口", ()) == "field_63a5_53e3"


@given(st.text(min_size=1), st.sets(st.sampled_from(ATTRIBUTE_TYPES)))
def test_every_field_name_gives_a_valid_type(field: str, taken: set[str]) -> None:
    """Whatever a field is called, its own type can be part of a code, and asking for its kind never fails."""
    assert own_type(field, taken) not in taken
    assert Attribute.of(own_type(field, taken), "x").value == "x"
    assert named_type(field) in {None, *ATTRIBUTE_TYPES}
    assert 0.0 <= category_certainty(field) <= 1.0
    assert isinstance(core_words(field), tuple)
    assert is_no_attribute(field) in (True, False)


def test_no_name_means_two_types() -> None:
    """Each name stands under one type only, or the order of the table would decide."""
    seen: dict[tuple[str, ...], str] = {}
    for type_name, names in (*WHOLE_NAMES.items(), *HEAD_NAMES.items()):
        for name in names:
            assert seen.setdefault(core_words(name), type_name) == type_name, name
