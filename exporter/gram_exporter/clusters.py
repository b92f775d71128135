"""Which codes lie near each other: clusters for the linear arm's shortlist, by k-means in two levels.

Flat k-means with as many clusters would compare every code with every centroid: minutes for millions of codes. Groups
first, and clusters within each group, takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gram_plugin.decode.shortlist import QUERY_LENGTH

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SCORED_CODES = 8192
"""Codes that one query looks at unless export is told otherwise."""
CLUSTERS_PER_ROOT = 8
"""Clusters are so many times the square root of the number of codes."""
_SAMPLED_EACH = 40
"""Codes of each cluster that the centroids are learned from."""
_ROUNDS = 6
_GROUPS_TRIED = 4
"""Groups among whose clusters a code looks for the nearest: the nearest group alone misses it at the border."""
_COMPARED_AT_ONCE = 2**22
"""Products in memory at one time."""
_MOST_OF_MEAN = 4
"""A cluster that holds so many times more than the mean is cut, so that no query looks at much more than it wants."""


def clusters_of(vectors: Floats, bias: Floats, *, scored: int = SCORED_CODES, seed: int = 0) -> Ints:
    """The cluster of every code, shape (codes,), from 0 without gaps; one for all where a query may look at all.

    Args:
        vectors: of the codes, shape (codes, width).
        bias: of the codes, shape (codes,).
        scored: codes that a query looks at; up to twice as many are left together.
        seed: what is drawn follows from it.
    """
    codes = len(vectors)
    if codes <= 2 * scored:
        return np.zeros(codes, np.int64)
    # A logit is QUERY_LENGTH · (vector · direction + bias / QUERY_LENGTH): the bias as one more column of that scale.
    points = np.column_stack([vectors, bias / np.float32(QUERY_LENGTH)]).astype(np.float32)  # (codes, width + 1)
    clusters = round(CLUSTERS_PER_ROOT * codes**0.5)
    rng = np.random.default_rng(seed)
    outer = _centres(points, round(clusters**0.5), rng)  # (groups, width + 1)
    near = _nearest_few(points, outer)  # (codes, tried)
    best = np.full(codes, -np.inf, np.float32)
    found, begun = np.zeros(codes, np.int64), 0
    for group in range(len(outer)):
        own = np.flatnonzero(near[:, 0] == group)
        if not own.size:
            continue
        centres = _centres(points[own], max(1, round(clusters * own.size / codes)), rng)
        tried = np.flatnonzero((near == group).any(axis=1))  # codes near the border of another group may be nearer here
        place, closeness = _nearest(points[tried], centres)
        better = closeness > best[tried]
        found[tried[better]], best[tried[better]] = begun + place[better], closeness[better]
        begun += len(centres)
    return _cut(_without_gaps(found), max(1, _MOST_OF_MEAN * codes // clusters))


def _centres(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Lloyd's centroids of a sample; shape (count, columns), fewer where there are fewer points."""
    sample = points[np.sort(rng.permutation(len(points))[: count * _SAMPLED_EACH])]  # (sampled, columns)
    centres = sample[rng.permutation(len(sample))[:count]]  # (count, columns)
    for _ in range(_ROUNDS if len(centres) > 1 else 1):
        place, _ = _nearest(sample, centres)  # (sampled,)
        counts = np.bincount(place, minlength=len(centres))  # (count,)
        order, held = np.argsort(place, kind="stable"), np.flatnonzero(counts)
        sums = np.add.reduceat(sample[order], (np.cumsum(counts) - counts)[held], axis=0)  # (held, columns)
        centres = sample[rng.integers(len(sample), size=len(centres))]  # an empty one begins anew
        centres[held] = sums / counts[held, np.newaxis]
    return centres


def _nearest(points: Floats, centres: Floats) -> tuple[Ints, Floats]:
    """The nearest centre of every point and how near it is, point · centre - |centre|² / 2, both of shape (points,)."""
    found, closeness = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    for part, compared in _compared(points, centres):
        found[part], closeness[part] = compared.argmax(axis=1), compared.max(axis=1)
    return found, closeness


def _nearest_few(points: Floats, centres: Floats) -> Ints:
    """The `_GROUPS_TRIED` nearest centres of every point, the nearest first; shape (points, at most so many)."""
    few = min(_GROUPS_TRIED, len(centres))
    found = np.empty((len(points), few), np.int64)
    for part, compared in _compared(points, centres):
        found[part] = np.argsort(-compared, axis=1)[:, :few]
    return found


def _compared(points: Floats, centres: Floats) -> Iterator[tuple[slice, Floats]]:
    """Some points at a time: which, and how near they are to every centre, shape (some, centres)."""
    half_squares = (centres * centres).sum(axis=1) / 2  # (centres,)
    rows = max(1, _COMPARED_AT_ONCE // len(centres))
    for low in range(0, len(points), rows):
        part = slice(low, low + rows)
        yield part, points[part] @ centres.T - half_squares


def _cut(cluster: Ints, most: int) -> Ints:
    """Clusters of more than `most` codes in parts of at most so many, neighbours in the codebook together."""
    counts = np.bincount(cluster)
    order = np.argsort(cluster, kind="stable")
    rank = np.empty(len(cluster), np.int64)
    rank[order] = np.arange(len(cluster)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _without_gaps(cluster * (1 + len(cluster) // most) + rank // most)


def _without_gaps(number: Ints) -> Ints:
    """The same numbers as places in their own order."""
    place: Ints = np.unique(number, return_inverse=True)[1].reshape(-1).astype(np.int64)  # (codes,)
    return place
