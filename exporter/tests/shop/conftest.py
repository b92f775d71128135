"""The sample shop of the demo, made and written once for all tests of its room."""

from __future__ import annotations

from pathlib import Path

import pytest

from gram_exporter.shop import Shop, make_shop, write_shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    """The shop of seed 1 with 4,000 products; tests must not change it."""
    return make_shop(seed=1)


@pytest.fixture(scope="session")
def shop_folder(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `shop`; tests must not change them."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(shop, folder)
    return folder
