"""The linear arm: hashed n-grams of a query → codes, by one low-rank matrix of which a query reads a part.

It knows nothing of word order beyond pairs and nothing of how the attributes of a code depend on each other, but by the
end of its training, the shorter one, it has seen nearly twenty times as many queries as the generator. Its answer is
blended with the generator's, see `OnnxGenerator`.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gram_plugin.contract.features import BUCKETS, FEATURES_VERSION, features_of
from gram_plugin.decode.likely import Likely
from gram_plugin.decode.nearest import NearestQueries
from gram_plugin.decode.shortlist import QUERY_LENGTH, ClusteredCodes
from gram_plugin.errors import BundleError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_REMAKE = "make the bundle again with `gram export`"
UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, zlib.error, zipfile.BadZipFile)
"""All that numpy and zipfile raise for a damaged file."""


@dataclass(frozen=True)
class LinearArm:
    """P(code | query) = softmax(codes · q + bias), q the features' weighted sum, scaled to `QUERY_LENGTH`.

    Where there was feedback, the codes of the nearest asked queries are mixed in. A query looks at a part of the codes,
    and the sum over the others is an estimate.

    Attributes:
        features: float16, shape (buckets, width).
        codes: vectors and biases.
        scored_codes: how many codes a query looks at, at least.
        nearest: asked queries as these features see them.
    """

    features: npt.NDArray[np.float16]
    codes: ClusteredCodes
    scored_codes: int
    nearest: NearestQueries | None = None

    def likely(self, text: str, limit: int, also: Ints) -> Likely | None:
        """The likeliest codes of a query and some others, with their probabilities.

        Args:
            text: a rendered query.
            limit: the likeliest so many codes are among the answer.
            also: places in the codebook of codes that must be among it, shape (n,).

        Returns:
            None for a text without a feature that training saw.
        """
        direction = direction_of(self.features, text)
        if direction is None:
            return None
        query = direction * np.float32(QUERY_LENGTH)
        found = self.codes.shortlist(query, max(self.scored_codes, limit))
        near = None if self.nearest is None else self.nearest.likely(direction)
        asked = [self.codes.best(found, limit), also, *([] if near is None else [near.code])]
        code = np.unique(np.concatenate(asked))  # (told,)
        probability = _exp(self.codes.logits(code, query), found.log_total)  # (told,)
        if self.nearest is not None and near is not None:
            probability *= 1 - self.nearest.share
            probability[code.searchsorted(near.code)] += self.nearest.share * near.probability
        return Likely(code, probability)

    def save(self, path: Path) -> None:
        """Writes the arm as it is; no pickle."""
        write_arrays(
            path,
            features=self.features,
            scored_codes=np.int64(self.scored_codes),
            version=np.int64(FEATURES_VERSION),
            **self.codes.arrays(),
            **(self.nearest.arrays() if self.nearest else {}),
        )

    @classmethod
    def load(cls, path: Path, codes: int) -> LinearArm:
        """Reads what `save` wrote, for a codebook of `codes` codes.

        Raises:
            BundleError: the file is malformed, of another version, or of another codebook.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                check_version(path, int(stored["version"]))
                nearest = NearestQueries.of(stored) if "nearest_share" in stored else None
                clustered, scored = ClusteredCodes.read(stored), int(stored["scored_codes"])
                arm = cls(stored["features"].astype(np.float16, copy=False), clustered, scored, nearest)
        except UNREADABLE as error:
            raise BundleError(f"{path} is no linear arm: {error!r}", next_step=_REMAKE) from error
        flaw = arm._flaw(codes)
        if flaw:
            raise BundleError(f"{path} does not fit the codebook of {codes} codes: {flaw}", next_step=_REMAKE)
        return arm

    def _flaw(self, codes: int) -> str | None:
        width = self.codes.vectors.shape[1:]
        if self.features.shape != (BUCKETS, *width):
            return f"the shape of features is {self.features.shape}, that of vectors {self.codes.vectors.shape}"
        if not np.isfinite(self.features).all():
            return "features holds a number that is not finite"
        if self.scored_codes < 1:
            return f"scored_codes is {self.scored_codes}"
        if self.nearest is not None and not self.nearest.fits(width[0], codes):
            return "its nearest queries have other codes, or are of another width"
        return self.codes.flaw(codes)


def direction_of(features: npt.NDArray[np.floating[Any]], text: str) -> Floats | None:
    """The query's vector, of length 1, shape (width,); None for a text without a feature that training saw."""
    found = features_of(text)
    if not found.buckets:
        return None
    rows = features.take(found.buckets, axis=0).astype(np.float32, copy=False)  # (features, width)
    vector = np.asarray(found.weights, dtype=np.float32) @ rows  # (width,)
    norm = np.linalg.norm(vector)
    return vector / norm if norm else None


def write_arrays(path: Path, **arrays: Any) -> None:
    """Writes arrays to a file of exactly this name."""
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def check_version(path: Path, found: int) -> None:
    """Raises BundleError where an arm reads other features than this program makes."""
    if found != FEATURES_VERSION:
        raise BundleError(
            f"{path} reads features of version {found}, this program makes version {FEATURES_VERSION}",
            next_step=_REMAKE,
        )


def _exp(logits: Floats, log_total: float) -> npt.NDArray[np.float64]:
    """exp(logits - log_total), scaled down where an estimate made their sum more than one; shape of `logits` (n,)."""
    probability = np.exp(logits.astype(np.float64) - log_total)  # (n,)
    total = float(probability.sum())
    return probability / total if total > 1 else probability
