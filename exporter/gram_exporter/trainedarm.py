"""The linear arm as training makes it: every number in single precision, every code looked at.

What serves is made of it at export, `for_serving`: rounded and sorted, so that a query looks at a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gram_exporter.clusters import SCORED_CODES, clusters_of
from gram_plugin.contract.features import BUCKETS, FEATURES_VERSION
from gram_plugin.decode.linear import UNREADABLE, LinearArm, check_version, direction_of, write_arrays
from gram_plugin.decode.nearest import NearestQueries
from gram_plugin.decode.shortlist import QUERY_LENGTH, ClusteredCodes
from gram_plugin.errors import ExportError

Floats = npt.NDArray[np.float32]

_RETRAIN = "run `gram train` again"


@dataclass(frozen=True)
class TrainedArm:
    """P(code | query) = softmax(codes · q + bias), as `gram_plugin.decode.linear.LinearArm` has it, but exact.

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

    def probabilities(self, text: str) -> npt.NDArray[np.float64] | None:
        """Of every code, shape (codes,); None for a text without features that training saw.

        They sum to one; to less where nearest queries are mixed in, for what those do not know.
        """
        direction = self.direction(text)
        if direction is None:
            return None
        logits = self.codes @ (direction * np.float32(QUERY_LENGTH)) + self.bias  # (codes,)
        found: npt.NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max())  # (codes,)
        found /= found.sum()
        if self.nearest is not None:
            near = self.nearest.likely(direction)
            found *= 1 - self.nearest.share
            found[near.code] += self.nearest.share * near.probability
        return found

    def direction(self, text: str) -> Floats | None:
        """The query's vector, of length 1, shape (width,); None for a text without a feature that training saw."""
        return direction_of(self.features, text)

    def for_serving(self, scored_codes: int = SCORED_CODES) -> LinearArm:
        """The same in the form that serves, in which a query looks at `scored_codes` codes."""
        clustered = ClusteredCodes.of(self.codes, self.bias, clusters_of(self.codes, self.bias, scored=scored_codes))
        return LinearArm(self.features.astype(np.float16), clustered, scored_codes, self.nearest)

    def save(self, path: Path) -> None:
        """Writes the arm in half precision; no pickle."""
        write_arrays(
            path,
            features=self.features.astype(np.float16),
            codes=self.codes.astype(np.float16),
            bias=self.bias,
            version=np.int64(FEATURES_VERSION),
            **(self.nearest.arrays() if self.nearest else {}),
        )

    @classmethod
    def load(cls, path: Path, codes: int) -> TrainedArm:
        """Reads what `save` wrote, for a codebook of `codes` codes.

        Raises:
            ExportError: the file is malformed, or of another codebook.
            BundleError: it is of another version.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                check_version(path, int(stored["version"]))
                features, vectors, bias = (stored[name].astype(np.float32) for name in ("features", "codes", "bias"))
                arm = cls(features, vectors, bias, NearestQueries.of(stored) if "nearest_share" in stored else None)
        except UNREADABLE as error:
            raise ExportError(f"{path} is no linear arm: {error!r}", next_step=_RETRAIN) from error
        arm._check(path, codes)
        return arm

    def _check(self, path: Path, codes: int) -> None:
        width = self.features.shape[1:]
        wanted = ((BUCKETS, *width), (codes, *width), (codes,))
        found = (self.features.shape, self.codes.shape, self.bias.shape)
        finite = all(bool(np.isfinite(part).all()) for part in (self.features, self.codes, self.bias))
        if len(width) != 1 or found != wanted or not finite:
            raise ExportError(
                f"{path} does not fit the codebook of {codes} codes: its shapes are {found}", next_step=_RETRAIN
            )
        if self.nearest is not None and not self.nearest.fits(width[0], codes):
            raise ExportError(f"{path}: its nearest queries do not fit its {codes} codes", next_step=_RETRAIN)
