"""A warm start: embeddings that already know which words go with which attributes.

A small T5 from scratch spends most of a short training on learning that 'couch' has to do with `type=sofa`.
Counting tells that at once: the positive pointwise mutual information between text tokens and attributes of the
training examples, factorised by a truncated SVD (Levy and Goldberg 2014), gives vectors of tokens and of
attributes whose inner product is that association. With the decoder's cross-attention beginning as the identity,
the untrained model is then a linear classifier of attributes, and training starts from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from transformers import T5ForConditionalGeneration

Floats = npt.NDArray[np.float32]

SMOOTHED = 0.75
"""Exponent on attribute frequencies (Levy, Goldberg and Dagan 2015): rare attributes are not over-rated."""
CONFIDENT = 2.0
"""Pseudo-count: an association seen c times counts c / (c + 2)."""
LOGIT_RANGE = 9.0
"""Greatest norm of an attribute vector: the decoder's output has norm 1 against them, so this bounds logits in nats."""
COUNTED_AT_ONCE = 5_000
"""Texts whose pairs of token and attribute are in memory at once: a thousand pairs for a text are 24 kB."""
CROSS_GAIN = 2.0
NOISE = 0.02
RESIDUAL = 0.1
"""What the other sublayers begin with of their usual output: random additions must not drown what is known."""


@dataclass(frozen=True)
class Sighting:
    """Token ids of a text and the attributes (numbers from 0) that go with it, weighted."""

    tokens: Sequence[int]
    attributes: Sequence[int]
    weights: Sequence[float]


def warm_start(
    model: T5ForConditionalGeneration, sightings: Sequence[Sighting], *, first_attribute: int, seed: int
) -> None:
    """Overwrites the embeddings and the decoder's cross-attention values of an untrained model.

    One dimension holds the same number for every text token and nothing for attributes: the encoder's norm makes
    all positions equally long, and without it a word that says nothing would count as much as one that tells all.
    """
    embedding = model.shared.weight
    vocabulary, width = embedding.shape
    matrix = associations(sightings, first_attribute, vocabulary - first_attribute)
    tokens, attributes = factors(matrix, width - 1, seed)
    frequency = np.asarray(matrix.astype(bool).sum(axis=1)).ravel()
    length = float(np.average(np.linalg.norm(tokens, axis=1), weights=frequency + 1e-9))
    known = np.zeros((vocabulary, width), dtype=np.float32)
    known[:first_attribute, 0] = width**0.5
    known[:first_attribute, 1:] = width**0.5 / max(length, 1e-6) * tokens
    known[first_attribute:, 1:] = _in_range(attributes)
    with torch.no_grad():
        embedding.normal_(0.0, NOISE)
        embedding += torch.from_numpy(known @ _rotation(width, seed))
    calm_decoder(model)


def calm_decoder(model: T5ForConditionalGeneration) -> None:
    """Lets the decoder of an untrained T5 hand on what it reads, and all other sublayers of the T5 say little."""
    with torch.no_grad():
        for block in model.decoder.block:
            attention = block.layer[1].EncDecAttention
            attention.v.weight.copy_(_near_identity(attention.v.weight))
            attention.o.weight.copy_(_near_identity(attention.o.weight))
        for name, weight in model.named_parameters():
            if name.endswith(("SelfAttention.o.weight", "DenseReluDense.wo.weight")):
                weight.mul_(RESIDUAL)


def associations(sightings: Sequence[Sighting], tokens: int, attributes: int) -> sparse.csr_array:
    """Positive pointwise mutual information, float64, shape (tokens, attributes), in nats."""
    total: sparse.csr_array = sparse.csr_array((tokens, attributes), dtype=np.float64)
    for start in range(0, len(sightings), COUNTED_AT_ONCE):
        total = total + _counts(sightings[start : start + COUNTED_AT_ONCE], (tokens, attributes))
    counts = total.tocoo()
    of_token = np.asarray(counts.sum(axis=1)).ravel()
    of_attribute = np.asarray(counts.sum(axis=0)).ravel() ** SMOOTHED
    expected = of_token[counts.row] * of_attribute[counts.col] / of_attribute.sum()
    information = np.maximum(np.log(counts.data / expected), 0.0) * counts.data / (counts.data + CONFIDENT)
    found = sparse.csr_array((information, (counts.row, counts.col)), shape=(tokens, attributes))
    found.eliminate_zeros()
    return found


def _counts(sightings: Sequence[Sighting], shape: tuple[int, int]) -> sparse.csr_array:
    """How often, by weight, a token stands in a text of an attribute; float64, shape (tokens, attributes)."""
    rows = np.concatenate([np.repeat(list(set(s.tokens)), len(s.attributes)) for s in sightings])
    columns = np.concatenate([np.tile(s.attributes, len(set(s.tokens))) for s in sightings])
    values = np.concatenate([np.tile(s.weights, len(set(s.tokens))) for s in sightings])
    return sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()


def factors(matrix: sparse.csr_array, width: int, seed: int) -> tuple[Floats, Floats]:
    """Vectors of rows and of columns whose inner products approximate the matrix.

    Float32, shapes (rows, width) and (columns, width); dimensions beyond its rank are zero.
    """
    rank = min(width, *matrix.shape)
    if rank == min(matrix.shape):  # all of it: what svds cannot do, and small by definition
        left, strength, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        start = np.random.default_rng(seed).standard_normal(min(matrix.shape))
        left, strength, right = svds(matrix, k=rank, v0=start)
    root = np.sqrt(strength)
    padding = ((0, 0), (0, width - rank))
    rows, columns = np.pad(left * root, padding), np.pad(right.T * root, padding)
    return rows.astype(np.float32), columns.astype(np.float32)


def _in_range(vectors: Floats) -> Floats:
    """Longer vectors than the median cut to `LOGIT_RANGE`, shorter ones in proportion.

    Uncut, one attribute with a vector fifty times as long as the others would be the answer to every query.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (attributes, 1)
    typical = float(np.median(norms[norms > 0])) if norms.any() else 1.0
    scaled: Floats = (vectors * (LOGIT_RANGE / np.maximum(norms, typical))).astype(np.float32)
    return scaled


def _rotation(width: int, seed: int) -> Floats:
    """A random orthogonal matrix: it changes no inner product, but no dimension stands out to use up int8's range."""
    gaussian = np.random.default_rng(seed).standard_normal((width, width))
    return np.linalg.qr(gaussian)[0].astype(np.float32)


def _near_identity(weight: torch.Tensor) -> torch.Tensor:
    return CROSS_GAIN * torch.eye(*weight.shape) + NOISE * torch.randn_like(weight)
