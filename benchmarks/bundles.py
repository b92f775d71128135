"""Bundles of random weights, and queries to ask them: the speed of a trained model without its training."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gram_exporter.shop.shop import make_shop
from gram_exporter.trainedarm import TrainedArm
from gram_plugin.contract.bundle import CODEBOOK, LINEAR
from gram_plugin.contract.codebook import read_codebook
from gram_plugin.contract.features import BUCKETS
from gram_plugin.decode.nearest import NearestQueries

if TYPE_CHECKING:
    from gram_exporter.untrained import Shape

LINEAR_SHARE = 0.6
"""The linear arm's part: between 0 and 1, so that both models are asked, as trained bundles mostly are."""
LINEAR_WIDTH = 96
"""What `gram train` takes."""
ASKED_QUERIES = 2000
"""Nearest queries: about what the sample shop's click log has."""
CODES_OF_QUERY = 24


def make_bundle(target: Path, shape: Shape | None = None, precision: str = "int8", *, with_linear: bool = True) -> Path:
    """Writes a bundle of random weights, with a linear arm and nearest queries unless told otherwise."""
    from gram_exporter.package import export_bundle  # loads torch: seconds that who brings a bundle need not wait
    from gram_exporter.parity import Tolerance
    from gram_exporter.untrained import Shape, write_untrained

    anything = Tolerance(logits=1.0, same_best_code=0.0, common_codes=0.0)
    with tempfile.TemporaryDirectory() as room:
        write_untrained(Path(room), shape or Shape())
        if with_linear:
            codes = len(read_codebook(Path(room) / CODEBOOK))
            random_linear(codes, queries=ASKED_QUERIES).save(Path(room) / LINEAR)
        share = LINEAR_SHARE if with_linear else 0.0
        return export_bundle(Path(room), target, precision=precision, tolerance=anything, share=share).path


def random_linear(codes: int, *, queries: int = 0) -> TrainedArm:
    """A linear arm that learned nothing, of the size that training would make it."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((BUCKETS, LINEAR_WIDTH), dtype=np.float32)
    vectors = rng.standard_normal((codes, LINEAR_WIDTH), dtype=np.float32)
    vectors *= np.float32(0.1)  # in place: at millions of codes a second copy is a gigabyte
    nearest = _random_nearest(rng, codes, queries) if queries else None
    return TrainedArm(features, vectors, np.zeros(codes, np.float32), nearest)


def _random_nearest(rng: np.random.Generator, codes: int, queries: int) -> NearestQueries:
    vectors = rng.standard_normal((queries, LINEAR_WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return NearestQueries(
        vectors=vectors,
        offsets=np.arange(queries + 1, dtype=np.int64) * CODES_OF_QUERY,
        codes=rng.integers(codes, size=queries * CODES_OF_QUERY).astype(np.int32),
        weights=np.full(queries * CODES_OF_QUERY, 1 / CODES_OF_QUERY, np.float32),
        share=0.5,
    )


@cache
def shop_queries() -> list[str]:
    """Distinct queries of the sample shop, all kinds mixed, in an order that is always the same."""
    shop = make_shop(1, 4000)
    found = list(dict.fromkeys(query.text for split in ("test", "dev", "train") for query in shop.queries[split]))
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]
