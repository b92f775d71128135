"""Places of many short spans of an array, gathered in one call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def places_of(offsets: Ints, spans: Ints) -> Ints:
    """All places of some spans, span after span, each ascending; int64, shape (places,).

    Args:
        offsets: shape (spans + 1,); span i goes from `offsets[i]` to before `offsets[i + 1]`.
        spans: which, shape (n,), in any order.
    """
    low = offsets[spans]  # (n,)
    counts = offsets[spans + 1] - low  # (n,)
    places: Ints = np.arange(counts.sum()) + np.repeat(low - np.cumsum(counts) + counts, counts)
    return places
