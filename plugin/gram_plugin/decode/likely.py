"""Some codes with their probabilities, and the sum of several such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Likely:
    """What something says of some codes; of the others it says nothing.

    Attributes:
        code: int64, shape (n,), places in the codebook, ascending, each once.
        probability: float64, shape (n,), 0 to 1.
    """

    code: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]

    @classmethod
    def summed(cls, code: npt.NDArray[np.integer[Any]], probability: npt.NDArray[np.floating[Any]]) -> Likely:
        """Codes in any order, with repetition, both of shape (n,): the probabilities of equal codes are added."""
        own, place = np.unique(code.astype(np.int64, copy=False), return_inverse=True)
        return cls(own, np.asarray(np.bincount(place, probability, minlength=own.size), np.float64))
