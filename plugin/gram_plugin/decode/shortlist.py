"""Vectors of codes in clusters of near ones: a query looks at the best clusters and estimates the others.

An inverted file as in similarity search (Jégou et al. 2011), for inner products: the vectors of a cluster lie beside
each other in memory, eight bits a number. A query is compared with all centroids, then with the codes of the best
clusters, until it has seen enough. What the others add to the softmax is estimated from their centroids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gram_plugin.decode.greatest import greatest
from gram_plugin.decode.nearest import products
from gram_plugin.decode.spans import places_of

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]

QUERY_LENGTH = 8.0
"""Length of every query's vector: bounds the logits, so that a long query is no surer than a short one."""
_LEVELS = 127
_LEAST_SCALE = np.float16(2.0**-14)
"""The least that half precision writes with all of its digits."""
_ROWS_AT_ONCE = 65_536
_ROWS_IN_CACHE = 2048
_SPARE = 2
"""So many times more clusters are put in order than would do if all were of mean size."""
_TYPES = {
    "vectors": np.int8,
    "scale": np.float16,
    "bias": np.float16,
    "code_order": np.int32,
    "cluster_offsets": np.int64,
    "centroids": np.float32,
    "centroid_bias": np.float32,
    "cluster_mass": np.float32,
}


@dataclass(frozen=True)
class Shortlist:
    """The codes that a query looked at.

    Attributes:
        rows: int64, shape (n,), where they stand in `ClusteredCodes`.
        scores: float32, shape (n,), logits.
        log_total: log Σ exp(logit) over all codes, those of other clusters estimated; nats.
    """

    rows: Ints
    scores: Floats
    log_total: float


@dataclass(frozen=True)
class ClusteredCodes:
    """Vectors and biases of all codes, sorted by cluster; the logit of a code is its vector · query + bias.

    Attributes:
        vectors: int8, shape (codes, width), in units of `scale`.
        scale: float16, shape (codes,), > 0.
        bias: float16, shape (codes,).
        order: int32, shape (codes,), the place in the codebook of every row.
        offsets: int64, shape (clusters + 1,); a cluster's rows are `offsets[c]` to `offsets[c + 1]`, at least one.
        centroids: float32, shape (clusters, width), mean vectors.
        centroid_bias: float32, shape (clusters,), mean biases.
        mass: float32, shape (clusters,): with centroid · query it is the estimate of log Σ exp(logit) over the cluster.
        rows: int32, shape (codes,), the row of every code.
    """

    vectors: npt.NDArray[np.int8]
    scale: Halves
    bias: Halves
    order: npt.NDArray[np.int32]
    offsets: Ints
    centroids: Floats
    centroid_bias: Floats
    mass: Floats
    rows: npt.NDArray[np.int32]

    @classmethod
    def of(cls, vectors: Floats, bias: Floats, cluster: npt.NDArray[np.integer[Any]]) -> ClusteredCodes:
        """Sorts and rounds.

        Args:
            vectors: shape (codes, width), in order of the codebook.
            bias: shape (codes,).
            cluster: shape (codes,), from 0 without gaps.
        """
        order = np.argsort(cluster, kind="stable").astype(np.int32)  # (codes,)
        counts = np.bincount(cluster)  # (clusters,)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        codes, width = vectors.shape
        rounded, scale = np.empty((codes, width), np.int8), np.empty(codes, np.float16)
        for low in range(0, codes, _ROWS_AT_ONCE):
            part = slice(low, low + _ROWS_AT_ONCE)
            rounded[part], scale[part] = _rounded(vectors[order[part]])
        found = _moments(vectors, bias, order, offsets)
        sorted_bias = bias[order].astype(np.float16)
        means = (found.centroids, found.bias, found.mass)
        return cls(rounded, scale, sorted_bias, order, offsets, *means, _inverse(order))

    def shortlist(self, query: Floats, least: int) -> Shortlist:
        """Logits of the codes of the best clusters, at least `least` codes where there are as many.

        Args:
            query: float32, shape (width,), of length `QUERY_LENGTH`.
            least: codes to look at, > 0.
        """
        if len(self.centroids) == 1:
            vectors, bias = self._widened
            scores = products(vectors, query) + bias  # (codes,)
            return Shortlist(np.arange(len(scores)), scores, _log_total(scores, self.mass, np.zeros(1, np.int64)))
        near = products(self.centroids, query)  # (clusters,)
        looked_at = self._best_clusters(near + self.centroid_bias, least)  # (looked at,)
        rows = places_of(self.offsets, looked_at)  # (n,)
        scores = self._scores(rows, query)  # (n,)
        return Shortlist(rows, scores, _log_total(scores, near + self.mass, looked_at))

    @cached_property
    def _widened(self) -> tuple[Floats, Floats]:
        """Vectors and biases in single precision, (codes, width) and (codes,): of one cluster each query needs all."""
        unit = self.scale.astype(np.float32)[:, np.newaxis]  # (codes, 1)
        return self.vectors * unit, self.bias.astype(np.float32)

    def logits(self, codes: Ints, query: Floats) -> Floats:
        """Of these places in the codebook, shape (n,), exactly; float32, shape (n,)."""
        return self._scores(self.rows.take(codes), query)

    def _scores(self, rows: npt.NDArray[np.integer[Any]], query: Floats) -> Floats:
        """Logits of rows (n,), which alone are copied and widened, as many as a cache holds; shape (n,)."""
        found = np.empty(len(rows), np.float32)
        for low in range(0, len(rows), _ROWS_IN_CACHE):
            part = slice(low, low + _ROWS_IN_CACHE)
            found[part] = products(self.vectors.take(rows[part], axis=0).astype(np.float32), query)
        return found * self.scale.take(rows) + self.bias.take(rows)

    def best(self, found: Shortlist, limit: int) -> Ints:
        """Places in the codebook of at most `limit` codes of a shortlist, the greatest logit first."""
        return self.order[found.rows[greatest(found.scores, limit)]].astype(np.int64)

    def _best_clusters(self, scores: Floats, least: int) -> Ints:
        """As few of the clusters, best first, as hold `least` codes; shape (<= clusters,)."""
        clusters = len(scores)
        for count in (min(clusters, 1 + _SPARE * least * clusters // len(self.order)), clusters):
            likely = greatest(scores, count)  # (count,)
            held = (self.offsets[likely + 1] - self.offsets[likely]).cumsum()  # (count,)
            if held[-1] >= least:
                break  # nearly always, as clusters are of about one size
        return likely[: 1 + int(held.searchsorted(least))]

    def arrays(self) -> dict[str, Any]:
        """What a file keeps."""
        return dict(zip(_TYPES, self._parts(), strict=True))

    @classmethod
    def read(cls, arrays: Mapping[str, Any]) -> ClusteredCodes:
        """What `arrays` gave, as it is: nothing is widened.

        Raises:
            KeyError: one is missing.
            ValueError: one is of another type, or `code_order` is not every code once.
        """
        parts = [_typed(arrays, name, np.dtype(wanted)) for name, wanted in _TYPES.items()]
        return cls(*[*parts, _inverse(parts[3])])

    def flaw(self, codes: int) -> str | None:
        """Why the parts do not belong together or to a codebook of `codes` codes; None where they do."""
        clusters, width = len(self.offsets) - 1, self.vectors.shape[1:]
        wanted = [(codes, *width), (codes,), (codes,), (codes,), (clusters + 1,), (clusters, *width)]
        shapes = dict(zip(_TYPES, [*wanted, (clusters,), (clusters,)], strict=True))
        for (name, shape), part in zip(shapes.items(), self._parts(), strict=True):
            if len(width) != 1 or part.shape != shape:
                return f"the shape of {name} is {part.shape}"
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                return f"{name} holds a number that is not finite"
        if self.offsets[0] != 0 or self.offsets[-1] != codes or (np.diff(self.offsets) <= 0).any():
            return f"cluster_offsets do not rise from 0 to {codes}"
        return None if (self.scale > 0).all() else "scale holds a number that is not above 0"

    def _parts(self) -> tuple[npt.NDArray[Any], ...]:
        """In order of `_TYPES`."""
        bounds = self.offsets, self.centroids, self.centroid_bias, self.mass
        return (self.vectors, self.scale, self.bias, self.order, *bounds)


def _log_total(scores: Floats, estimates: Floats, looked_at: Ints) -> float:
    """log(Σ exp(scores) + Σ exp(estimates of the clusters that were not looked at)); nats."""
    others = estimates.copy()  # (clusters,)
    others[looked_at] = -np.inf
    highest = max(scores.max(), others.max())
    total = np.exp(scores - highest).sum(dtype=np.float64) + np.exp(others - highest).sum(dtype=np.float64)
    return float(highest) + math.log(total)


def _rounded(vectors: Floats) -> tuple[npt.NDArray[np.int8], Halves]:
    """Each row in whole units of a scale of its own; the scale is rounded first, so that it adds no error."""
    exact = np.abs(vectors).max(axis=1) / _LEVELS  # (rows,)
    scale = np.maximum(exact.astype(np.float16), _LEAST_SCALE)  # (rows,)
    units = np.rint(vectors / scale.astype(np.float32)[:, np.newaxis])  # (rows, width)
    return np.clip(units, -_LEVELS, _LEVELS).astype(np.int8), scale


@dataclass(frozen=True)
class _Moments:
    """Mean vector (clusters, width), mean bias (clusters,) and `mass` (clusters,) of clusters."""

    centroids: Floats
    bias: Floats
    mass: Floats


def _moments(vectors: Floats, bias: Floats, order: npt.NDArray[np.int32], offsets: Ints) -> _Moments:
    centroids = np.empty((len(offsets) - 1, vectors.shape[1]), np.float32)
    means, masses = np.empty(len(centroids), np.float32), np.empty(len(centroids), np.float32)
    for cluster, (low, high) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        own = order[low:high]
        centroids[cluster], means[cluster] = vectors[own].mean(axis=0), bias[own].mean()
        variance = QUERY_LENGTH**2 * float(vectors[own].var(axis=0).mean())
        highest = bias[own].max()
        masses[cluster] = highest + math.log(np.exp(bias[own] - highest).sum()) + _gain(variance, high - low)
    return _Moments(centroids, means, masses)


def _gain(variance: float, count: int) -> float:
    """Log of the mean of exp over `count` normal logits with this variance and mean 0; nats.

    That is half the variance, as long as so few reach where most of the sum would lie; then the greatest one alone
    counts (the random energy model, Derrida 1981).
    """
    reach = 2 * math.log(count)
    return variance / 2 if variance <= reach else math.sqrt(variance * reach) - reach / 2


def _inverse(order: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The row of every code; raises ValueError where `order` (codes,) is not every code once."""
    rows = np.full(order.shape, -1, np.int32)
    if order.ndim == 1 and order.size and order.min() >= 0 and order.max() < order.size:
        rows[order] = np.arange(order.size, dtype=np.int32)
    if order.ndim != 1 or (rows < 0).any():
        raise ValueError("code_order does not hold every code once")
    return rows


def _typed(arrays: Mapping[str, Any], name: str, wanted: np.dtype[Any]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = arrays[name]
    if found.dtype != wanted:
        raise ValueError(f"{name} is of type {found.dtype}, not {wanted}")
    return found
