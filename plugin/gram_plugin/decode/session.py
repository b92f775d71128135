"""The ONNX graphs of an encoder-decoder model behind the steps of a beam search.

The encoder runs once for each text. The decoder keeps its keys and values: cross-attention's are
computed once for each text at the first step, self-attention's follow the beams by a gather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from gram_plugin.contract.bundle import Bundle, Graph, Tensor
from gram_plugin.contract.codes import BEAM_WIDTH
from gram_plugin.decode.trie import IntArray
from gram_plugin.errors import BundleError, DecodeError

ENCODER_GRAPH = "encoder"
DECODER_GRAPH = "decoder"

_ENCODER_INPUTS = ("input_ids", "attention_mask")
_ENCODER_OUTPUTS = ("last_hidden_state",)
_DECODER_INPUTS = ("encoder_attention_mask", "input_ids", "encoder_hidden_states", "use_cache_branch")
_DECODER_OUTPUTS = ("logits",)
_PAST, _PRESENT = "past_key_values.", "present."
_SELF, _CROSS = ".decoder.", ".encoder."
_REMAKE = "make the bundle again with `gram export`"

Float32Array = npt.NDArray[np.float32]
Cache = dict[str, Float32Array]


@dataclass(frozen=True)
class Batch:
    """Token ids of several texts, padded on the right."""

    ids: IntArray  # [texts, tokens]
    mask: IntArray  # [texts, tokens] 1 for a token, 0 for padding

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], pad: int) -> Batch:
        """Pads token ids to the longest text."""
        length = max(map(len, texts))
        ids = np.full((len(texts), length), pad, np.int64)  # [texts, tokens]
        mask = np.zeros_like(ids)  # [texts, tokens]
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return cls(ids, mask)


@dataclass(frozen=True)
class LoneSession:
    """The same graphs for one text alone, with the axes fixed that are then known.

    onnxruntime folds what it can compute of known shapes when it opens a graph, and that is half of all nodes of
    models this small. Longer codes than of two attributes go on in the graph of any shape.

    Attributes:
        encoder: of one text.
        first: the decoder's first step, one row.
        second: the decoder's second step, `rows` rows.
    """

    encoder: ort.InferenceSession
    first: ort.InferenceSession
    second: ort.InferenceSession
    rows: int


@dataclass(frozen=True)
class Seq2SeqSession:
    """An encoder and a merged decoder with key-value cache; safe for one call at a time."""

    encoder: ort.InferenceSession
    decoder: ort.InferenceSession
    lone: LoneSession
    past: Mapping[str, Tensor]
    vocabulary: int

    @classmethod
    def open(cls, bundle: Bundle, *, threads: int, rows: int = BEAM_WIDTH) -> Seq2SeqSession:
        """Opens both graphs with `threads` threads (1 or more) each; `rows` beams of one text run fastest.

        Raises:
            BundleError: a graph cannot be opened, or its inputs and outputs are not those of the manifest.
        """
        encoder = _graph(bundle, ENCODER_GRAPH, _ENCODER_INPUTS, _ENCODER_OUTPUTS)
        decoder = _graph(bundle, DECODER_GRAPH, _DECODER_INPUTS, _DECODER_OUTPUTS)
        past = {tensor.name: tensor for tensor in decoder.inputs if tensor.name.startswith(_PAST)}
        _require([name.replace(_PAST, _PRESENT) for name in past], decoder.outputs, "output", decoder)
        logits = next(tensor for tensor in decoder.outputs if tensor.name == "logits")
        vocabulary = logits.axes[-1]
        if not isinstance(vocabulary, int):
            raise BundleError(f"{decoder.file}: the last axis of 'logits' must be a number", next_step=_REMAKE)
        whole = (_checked(bundle, encoder, threads), _checked(bundle, decoder, threads))
        return cls(*whole, _lone(bundle, encoder, decoder, threads, rows), past, vocabulary)

    @cached_property
    def unread(self) -> Cache:
        """The cache that the first step is given and does not read."""
        return {name: np.zeros(_unused_shape(tensor), np.float32) for name, tensor in self.past.items()}

    def read(self, batch: Batch, *, start: int, offset: int = 0) -> DecoderSteps:
        """Runs the encoder; the decoder will begin with token `start`, and add `offset` to tokens that it is given."""
        feed = {"input_ids": batch.ids, "attention_mask": batch.mask}
        encoder = self.lone.encoder if len(batch.ids) == 1 else self.encoder
        hidden = _run(encoder, ["last_hidden_state"], feed)[0]  # [texts, tokens, width]
        return DecoderSteps(self, batch.mask, hidden, start, offset)


class DecoderSteps:
    """The decoder's state for one batch of texts; the `Steps` of `beam.search`."""

    def __init__(self, session: Seq2SeqSession, mask: IntArray, hidden: Float32Array, start: int, offset: int) -> None:
        self._session = session
        self._mask = mask  # [texts, tokens]
        self._hidden = hidden  # [texts, tokens, width]
        self._start = start
        self._offset = offset
        self._written = 0
        self._text_of_row = np.arange(len(mask))  # [rows]
        self._self_cache: Cache = {}  # each [rows, heads, steps, head width]
        self._cross_cache: Cache = {}  # each [texts, heads, tokens, head width]
        self._self_names = [name for name in session.past if _SELF in name]
        self._cross_names = [name for name in session.past if _CROSS in name]

    def first(self) -> Float32Array:
        """Logits [texts, vocabulary] of the first token."""
        texts = len(self._mask)
        feed = {
            "input_ids": np.full((texts, 1), self._start, np.int64),
            "encoder_attention_mask": self._mask,
            "encoder_hidden_states": self._hidden,
            "use_cache_branch": np.array([False]),
            **self._session.unread,
        }
        decoder = self._session.lone.first if texts == 1 else self._session.decoder
        found = self._step(decoder, feed, [*self._self_names, *self._cross_names])
        self._cross_cache = {name: found.cache[name] for name in self._cross_names}
        self._self_cache = {name: found.cache[name] for name in self._self_names}
        return found.logits

    def next(self, rows: IntArray, tokens: IntArray) -> Float32Array:
        """Logits [beams, vocabulary] after `tokens` [beams]; beam i goes on from row `rows[i]`."""
        beams, lone = len(rows), self._session.lone
        decoder = self._session.decoder
        if self._written == 0 and len(self._mask) == 1 and beams <= lone.rows:
            # A beam that comes again changes nothing for the others, not even the scale of int8 activations.
            decoder, filled = lone.second, np.resize(np.arange(beams), lone.rows)  # [lone.rows]
            rows, tokens = rows[filled], tokens[filled]
        self._text_of_row = self._text_of_row[rows]  # [rows]
        feed = {
            "input_ids": tokens[:, None] + self._offset,  # [rows, 1]
            "encoder_attention_mask": self._mask[self._text_of_row],  # [rows, tokens]
            "encoder_hidden_states": self._hidden[self._text_of_row],  # not read: the cross cache holds what it needs
            "use_cache_branch": np.array([True]),
            **{name: cache[rows] for name, cache in self._self_cache.items()},
            **self._cross_rows(),
        }
        found = self._step(decoder, feed, self._self_names)
        self._self_cache = found.cache
        self._written += 1
        return found.logits[:beams]

    def _cross_rows(self) -> Cache:
        return {name: cache[self._text_of_row] for name, cache in self._cross_cache.items()}

    def _step(self, decoder: ort.InferenceSession, feed: Mapping[str, Any], names: Sequence[str]) -> _Found:
        wanted = ["logits", *(name.replace(_PAST, _PRESENT) for name in names)]
        logits, *present = _run(decoder, wanted, feed)
        return _Found(logits[:, -1, :], dict(zip(names, present, strict=True)))


@dataclass(frozen=True)
class _Found:
    logits: Float32Array  # [rows, vocabulary]
    cache: Cache


def _unused_shape(tensor: Tensor) -> tuple[int, ...]:
    """Any shape that fits: the first step's branch does not read its past."""
    return tuple(axis if isinstance(axis, int) else 1 for axis in tensor.axes)


def _run(session: ort.InferenceSession, names: Sequence[str], feed: Mapping[str, Any]) -> list[Float32Array]:
    try:
        found: list[Float32Array] = session.run(names, feed)
    except Exception as error:  # onnxruntime's errors share no parent but Exception
        raise DecodeError(f"the model failed: {error}", next_step="check memory and the bundle") from error
    return found


def _graph(bundle: Bundle, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    graph = bundle.manifest.graphs.get(name)
    if graph is None:
        raise BundleError(f"{bundle.path}: the manifest declares no graph {name!r}", next_step=_REMAKE)
    _require(inputs, graph.inputs, "input", graph)
    _require(outputs, graph.outputs, "output", graph)
    return graph


def _require(names: Sequence[str], tensors: Sequence[Tensor], kind: str, graph: Graph) -> None:
    missing = sorted(set(names) - {tensor.name for tensor in tensors})
    if missing:
        raise BundleError(f"{graph.file}: decoding needs {kind} {', '.join(map(repr, missing))}", next_step=_REMAKE)


def _lone(bundle: Bundle, encoder: Graph, decoder: Graph, threads: int, rows: int) -> LoneSession:
    texts, steps = _input(decoder, "input_ids").axes[:2]
    own = (tensor for tensor in decoder.inputs if tensor.name.startswith(_PAST) and _SELF in tensor.name)
    past = next(own, None)
    if past is None or len(past.axes) != 4:
        raise BundleError(
            f"{decoder.file}: decoding needs {_PAST}…{_SELF} inputs of four axes, its own keys and values",
            next_step=_REMAKE,
        )
    return LoneSession(
        _open(bundle, encoder, threads, {_input(encoder, "input_ids").axes[0]: 1}),
        _open(bundle, decoder, threads, {texts: 1, steps: 1}),
        _open(bundle, decoder, threads, {texts: rows, steps: 1, past.axes[2]: 1}),
        rows,
    )


def _input(graph: Graph, name: str) -> Tensor:
    return next(tensor for tensor in graph.inputs if tensor.name == name)


def _checked(bundle: Bundle, graph: Graph, threads: int) -> ort.InferenceSession:
    session = _open(bundle, graph, threads, {})
    _compare(graph.inputs, session.get_inputs(), "input", graph)
    _compare(graph.outputs, session.get_outputs(), "output", graph)
    return session


def _open(bundle: Bundle, graph: Graph, threads: int, sizes: Mapping[int | str, int]) -> ort.InferenceSession:
    """Opens a graph; `sizes` fixes axes that it leaves open, by their names."""
    path = bundle.file(graph.file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A pool of threads for each graph: those that have just run must not spin while the next graph wants a processor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for axis, size in sizes.items():
        if isinstance(axis, str):
            options.add_free_dimension_override_by_name(axis, size)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no parent but Exception
        raise BundleError(f"{path} cannot be opened by onnxruntime: {error}", next_step=_REMAKE) from error


def _compare(declared: Sequence[Tensor], found: Sequence[ort.NodeArg], kind: str, graph: Graph) -> None:
    """Declared and real tensors must agree in name, element type and axes."""
    expected = {tensor.name: tensor for tensor in declared}
    real = {arg.name: tensor_of(arg) for arg in found}
    for name in sorted(expected.keys() | real.keys()):
        if expected.get(name) != real.get(name):
            raise BundleError(
                f"{graph.file}: {kind} {name!r} should be {_told(expected.get(name))} by the manifest, "
                f"the graph has {_told(real.get(name))}",
                next_step=_REMAKE,
            )


def tensor_of(arg: ort.NodeArg) -> Tensor:
    """What onnxruntime tells of one input or output, in the manifest's form."""
    return Tensor(arg.name, arg.type, tuple(arg.shape))


def _told(tensor: Tensor | None) -> str:
    return "nothing of that name" if tensor is None else f"{tensor.dtype} {list(tensor.axes)}"
