"""Words of codes as text."""

from __future__ import annotations

from gram_exporter.config import SearchConfig
from gram_exporter.rivals.expansion import expanded_search, expansion_of
from gram_plugin.contract.codes import Code


def test_the_words_of_all_attributes_each_once() -> None:
    """As people write them, in the order of the codes."""
    codes = [Code.parse(text) for text in ("type=running_shoe", "type=running_shoe|colour=red", "brand=a%2Eb")]
    assert (expansion_of(codes), expansion_of([])) == ("running shoe ; red ; a.b", "")


def test_the_expansion_is_one_more_searched_field() -> None:
    """With its boost; a search of all fields finds it as it is."""
    named, whole = SearchConfig(fields=("title^3",), type="best_fields"), SearchConfig()
    assert expanded_search(named, 0.5) == SearchConfig(fields=("title^3", "gram_expansion^0.5"), type="best_fields")
    assert expanded_search(whole, 0.5) == whole
