"""Nearest queries: codes that were wanted by people who asked something alike.

A classifier gives the few codes that it is sure of; the neighbours of a query give all that were ever wanted for it
(k nearest neighbours, as in kNN-LM, Khandelwal et al. 2020). `LinearArm` mixes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gram_plugin.decode.greatest import greatest
from gram_plugin.decode.likely import Likely
from gram_plugin.decode.spans import places_of

Floats = npt.NDArray[np.float32]

NEIGHBOURS = 30
SHARPNESS = 4
"""A neighbour counts by the cosine to this power: one of 0.5 a sixteenth of the same query."""
DOUBT = 0.3
"""Weight of what is not known beside the neighbours: a query far from all others is given little."""


@dataclass(frozen=True)
class NearestQueries:
    """Asked queries and what they wanted; a query's codes are `codes[offsets[q]:offsets[q + 1]]`, each once.

    Attributes:
        vectors: float32, shape (queries, width), each of length 1.
        offsets: int64, shape (queries + 1,), ascending from 0.
        codes: int32, shape (n,), places in the codebook.
        weights: float32, shape (n,), > 0, sum 1 for each query.
        share: the neighbours' part in the mixture, > 0 to 1.
    """

    vectors: Floats
    offsets: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    weights: Floats
    share: float

    def likely(self, direction: Floats) -> Likely:
        """Σ cos^4 · weights / (Σ cos^4 + doubt) over the nearest, for the codes that they wanted; less than 1 in all.

        Args:
            direction: the query's vector, of length 1, shape (width,).
        """
        cosines = products(self.vectors, direction)  # (queries,)
        nearest = greatest(cosines, NEIGHBOURS)
        nearest = nearest[cosines[nearest] > 0]  # (nearest,)
        closeness = cosines[nearest].astype(np.float64) ** SHARPNESS  # (nearest,)
        parts = closeness / (closeness.sum() + DOUBT)  # (nearest,)
        place = places_of(self.offsets, nearest)  # (codes of all nearest,)
        counts = self.offsets[nearest + 1] - self.offsets[nearest]  # (nearest,)
        return Likely.summed(self.codes[place], self.weights[place] * np.repeat(parts, counts))

    def arrays(self) -> dict[str, Any]:
        """What a file keeps, vectors and weights in half precision."""
        return {
            "nearest_vectors": self.vectors.astype(np.float16),
            "nearest_offsets": self.offsets,
            "nearest_codes": self.codes,
            "nearest_weights": self.weights.astype(np.float16),
            "nearest_share": np.float64(self.share),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> NearestQueries:
        """What `arrays` gave, single precision again.

        Raises:
            KeyError: one is missing.
            ValueError: one is of another type.
        """
        return cls(
            arrays["nearest_vectors"].astype(np.float32),
            arrays["nearest_offsets"].astype(np.int64),
            arrays["nearest_codes"].astype(np.int32),
            arrays["nearest_weights"].astype(np.float32),
            float(arrays["nearest_share"]),
        )

    def fits(self, width: int, codes: int) -> bool:
        """Whether every part belongs to the others, to vectors of this width and to a codebook of `codes` codes."""
        shapes = self.vectors.ndim == 2 and self.vectors.shape[1] == width and self.offsets.ndim == 1
        if not (shapes and self.codes.ndim == 1 and self.codes.shape == self.weights.shape):
            return False
        counted = len(self.offsets) == len(self.vectors) + 1 and self.offsets[0] == 0
        ascending = counted and self.offsets[-1] == len(self.codes) and bool((np.diff(self.offsets) >= 0).all())
        within = bool(((self.codes >= 0) & (self.codes < codes)).all())
        finite = bool(np.isfinite(self.vectors).all() and np.isfinite(self.weights).all() and (self.weights >= 0).all())
        return ascending and within and finite and 0 < self.share <= 1


def products(rows: Floats, vector: Floats) -> Floats:
    """The product of each row of `rows` (n, width) with `vector` (width,), in the calling thread, shape (n,).

    `rows @ vector` starts threads of the linear algebra library for as few as 8,000 rows. For one vector they gain
    nothing, and where other work has the processors each call waits for a time slice of the other one: 8 ms.
    """
    return np.asarray(np.einsum("ij,j->i", rows, vector))
