"""Places of spans against the slow way."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gram_plugin.decode.spans import places_of


@given(st.data(), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_places_are_those_of_slices_one_after_another(data: st.DataObject, lengths: list[int]) -> None:
    """Empty spans, repeated ones and no span at all are gathered as concatenated slices would be."""
    offsets = np.cumsum([0, *lengths])
    spans = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    everything = np.arange(offsets[-1])
    slow = [int(place) for span in spans for place in everything[offsets[span] : offsets[span + 1]]]
    assert places_of(offsets, np.array(spans, np.int64)).tolist() == slow
