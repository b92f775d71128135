"""The linear arm: hashed n-grams of a query → codes, by one low-rank matrix, in a millisecond for 56,000 codes.

With 50,000 asked queries beside it (`NearestQueries`) it takes two more. It knows nothing of word order beyond pairs
and nothing of how the attributes of a code depend on each other, but by the end of its training, the shorter one, it
has seen nearly twenty times as many queries as the generator. Its answer is blended with the generator's, see
`OnnxGenerator`.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gram_plugin.contract.features import BUCKETS, FEATURES_VERSION, features_of
from gram_plugin.decode.nearest import NearestQueries, products
from gram_plugin.errors import BundleError

Floats = npt.NDArray[np.float32]

_REMAKE = "make the bundle again with `gram train` and `gram export`"
_UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, zlib.error, zipfile.BadZipFile)
"""All that numpy and zipfile raise for a damaged file."""
QUERY_LENGTH = 8.0
"""Length of every query's vector: bounds the logits, so that a long query is no surer than a short one."""


@dataclass(frozen=True)
class LinearArm:
    """log P(code | query) = log softmax(codes · q + bias), q the features' weighted sum, scaled to one length.

    Where there was feedback, the codes of the nearest asked queries are mixed in.

    Attributes:
        features: float32, shape (buckets, width).
        codes: float32, shape (codes, width), in order of the codebook.
        bias: float32, shape (codes,).
        nearest: asked queries as these features see them.
    """

    features: Floats
    codes: Floats
    bias: Floats
    nearest: NearestQueries | None = None

    def log_probabilities(self, text: str) -> npt.NDArray[np.float64] | None:
        """Nats for every code of the codebook, shape (codes,); None for a text without features that training saw.

        Their probabilities sum to one; to less where nearest queries are mixed in, for what those do not know.
        """
        direction = self.direction(text)
        if direction is None:
            return None
        logits = products(self.codes, direction * np.float32(QUERY_LENGTH)) + self.bias  # (codes,)
        shifted = logits - logits.max()
        # Single precision, but for the sum: twice as fast, and a ten-millionth is nothing to a probability.
        alone = shifted.astype(np.float64) - np.log(np.exp(shifted).sum(dtype=np.float64))
        return alone if self.nearest is None else self.nearest.mixed(alone, direction)

    def direction(self, text: str) -> Floats | None:
        """The query's vector, of length 1, shape (width,); None for a text without a feature that training saw."""
        found = features_of(text)
        if not found.buckets:
            return None
        rows = self.features[list(found.buckets)]  # (features, width)
        vector = np.asarray(found.weights, dtype=np.float32) @ rows  # (width,)
        norm = np.linalg.norm(vector)
        return vector / norm if norm else None

    def save(self, path: Path) -> None:
        """Writes the arm in half precision; no pickle."""
        with path.open("wb") as stream:
            np.savez(
                stream,
                features=self.features.astype(np.float16),
                codes=self.codes.astype(np.float16),
                bias=self.bias,
                version=np.int64(FEATURES_VERSION),
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
                features, vectors, bias = (stored[name].astype(np.float32) for name in ("features", "codes", "bias"))
                nearest = NearestQueries.of(stored) if "nearest_share" in stored else None
                arm = cls(features, vectors, bias, nearest)
                version = int(stored["version"])
        except _UNREADABLE as error:
            raise BundleError(f"{path} is no linear arm: {error!r}", next_step=_REMAKE) from error
        if version != FEATURES_VERSION:
            raise BundleError(
                f"{path} reads features of version {version}, this program makes version {FEATURES_VERSION}",
                next_step=_REMAKE,
            )
        arm._check(path, codes)
        return arm

    def _check(self, path: Path, codes: int) -> None:
        width = self.features.shape[1:]
        wanted = ((BUCKETS, *width), (codes, *width), (codes,))
        found = (self.features.shape, self.codes.shape, self.bias.shape)
        finite = all(bool(np.isfinite(part).all()) for part in (self.features, self.codes, self.bias))
        if len(width) != 1 or found != wanted or not finite:
            raise BundleError(
                f"{path} does not fit the codebook of {codes} codes: its shapes are {found}", next_step=_REMAKE
            )
        if self.nearest is not None and not self.nearest.fits(width[0], codes):
            raise BundleError(f"{path}: its nearest queries do not fit its {codes} codes", next_step=_REMAKE)
