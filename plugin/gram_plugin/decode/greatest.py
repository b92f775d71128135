"""The greatest numbers of many, found without sorting or partitioning them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SLICES = 64


def greatest(values: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.intp]:
    """Positions of the `count` greatest of `values` [n], greatest first, equal ones in their order.

    Of each of many slices the maximum is taken; `count` slices reach the bar that the `count`-th of these maxima
    sets, so the answer is among the few values that do. Two passes that a processor runs at the speed of its memory.
    """
    if values.size <= count:
        return np.argsort(-values, kind="stable")
    columns = values.size // _SLICES
    candidates = values
    if columns > count:
        candidates = values[: columns * _SLICES].reshape(_SLICES, columns).max(axis=0)  # [columns]
    bar = np.partition(candidates, -count)[-count]
    kept = (values >= bar).nonzero()[0]
    return np.asarray(kept[(-values[kept]).argsort(kind="stable")[:count]])
