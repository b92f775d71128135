"""The object `gram` of a product document: what codes look like in the index."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gram_plugin.contract.codes import MAX_STORED_BYTES, ScoredCode, check_generation

PENDING = "pending"
"""Value of `gram.model` in a document that still waits for codes; no generation can be called so."""

WEIGHT_DIGITS = 3
"""Significant digits of a stored weight; the index keeps 9 bits, which is no more."""

_LIKELIEST = 1 - 10.0**-WEIGHT_DIGITS


def gram_object(
    codes: Sequence[ScoredCode], generation: str, source: str, at: datetime, *, weighted: bool = True
) -> dict[str, Any]:
    """The value of `gram` for a document that was coded, most probable code first.

    A code is left out when its weight is not finite and > 0 (OpenSearch would refuse the whole document) or when it is
    longer than 256 bytes with its generation. Of a code that occurs twice the higher probability counts. No codes is a
    valid outcome: the document was read and the model has nothing to say.

    Args:
        codes: what the model wrote for the product.
        generation: model generation of `codes`.
        source: `source_hash` of the text that was read.
        at: when; a time without zone is taken as UTC.
        weighted: whether the index maps `gram.weights`; where it does not, the key would be refused.
    """
    weights = _weights(codes, check_generation(generation))
    coded: dict[str, Any] = {"codes": list(weights), "model": generation, "source": source, "at": _timestamp(at)}
    return {**coded, "weights": weights} if weights and weighted else coded


def pending_object(at: datetime) -> dict[str, Any]:
    """The value of `gram` for a document that could not be coded now and has to be indexed again for its codes."""
    return {"codes": [], "model": PENDING, "at": _timestamp(at)}


def replacing(gram: Mapping[str, Any], *, weighted: bool = True) -> dict[str, Any]:
    """The same object for the `doc` of a partial update, which replaces the old one whole.

    A partial update merges objects key by key, so old weights would stay beside the new ones. An array is replaced,
    and an array of one object means the same to the index. A key that is left out would stay too, so all are named.

    Args:
        gram: what `gram_object` or `pending_object` made.
        weighted: whether the index maps `gram.weights`.
    """
    whole: dict[str, Any] = {"codes": [], "source": None, **gram}
    return {**whole, "weights": [gram["weights"]] if "weights" in gram else []} if weighted else whole


def _weights(codes: Sequence[ScoredCode], generation: str) -> dict[str, float]:
    ranked = sorted(codes, key=lambda scored: (-scored.probability, scored.code.text))
    weights: dict[str, float] = {}
    for scored in ranked:
        stored = scored.code.stored(generation)
        if _is_weight(scored.probability) and len(stored.encode()) <= MAX_STORED_BYTES:
            weights.setdefault(stored, _rounded(min(scored.probability, 1.0)))
    return weights


def _rounded(weight: float) -> float:
    """With the digits that are stored; only what is certain is 1, by which a backfill knows it, and without `.0`."""
    if weight >= 1:
        return 1
    return min(float(f"{weight:.{WEIGHT_DIGITS}g}"), _LIKELIEST)


def _is_weight(probability: float) -> bool:
    """Whether OpenSearch takes it: finite, and at least the smallest normal 32-bit float."""
    return math.isfinite(probability) and probability >= 1.2e-38


def _timestamp(at: datetime) -> str:
    zoned = at if at.tzinfo else at.replace(tzinfo=UTC)
    return zoned.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
