"""The synthetic sample shop: a catalogue, shoppers' queries, judgments and a click log, all made from one seed."""

from gram_exporter.shop.folder import write_catalogue, write_shop
from gram_exporter.shop.product import Product, Trait
from gram_exporter.shop.shop import LABEL, Shop, make_shop, stream_products
from gram_exporter.shop.shopper import Query

__all__ = [
    "LABEL",
    "Product",
    "Query",
    "Shop",
    "Trait",
    "make_shop",
    "stream_products",
    "write_catalogue",
    "write_shop",
]
