"""The decoder's cache against the same graph without it; signatures at the door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gram_plugin.contract.bundle import open_bundle
from gram_plugin.decode.generator import OnnxGenerator
from gram_plugin.decode.session import Batch, Seq2SeqSession
from gram_plugin.errors import BundleError, DecodeError

EditManifest = Callable[[Callable[[dict[str, Any]], object]], Path]


def without_cache(session: Seq2SeqSession, batch: Batch, text: int, prefix: list[int]) -> npt.NDArray[np.float32]:
    """Logits after `prefix`, read from its start by the graph's other branch."""
    ids, mask = batch.ids[text : text + 1], batch.mask[text : text + 1]
    hidden = session.encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    feed = {
        "input_ids": np.array([prefix]),
        "encoder_attention_mask": mask,
        "encoder_hidden_states": hidden,
        "use_cache_branch": np.array([False]),
    }
    past = {name: np.zeros((1, tensor.axes[1], 1, tensor.axes[3]), np.float32) for name, tensor in session.past.items()}
    logits: npt.NDArray[np.float32] = session.decoder.run(["logits"], feed | past)[0][0, -1]
    return logits


def test_cached_steps_equal_reading_the_whole_prefix(generator: OnnxGenerator) -> None:
    """After reordering, repeating and dropping beams each row still has the logits of its own prefix and text."""
    batch = Batch.of([[2, 40, 50, 60, 1], [2, 70, 1]], pad=0)
    steps = generator.session.read(batch, start=0)
    first = steps.first()
    second = steps.next(np.array([0, 0, 1]), np.array([261, 262, 263]))
    third = steps.next(np.array([2, 1, 1, 2]), np.array([264, 265, 266, 267]))
    prefixes = [(1, [0, 263, 264]), (0, [0, 262, 265]), (0, [0, 262, 266]), (1, [0, 263, 267])]
    session = generator.session
    expected_first = [without_cache(session, batch, text, [0]) for text in range(2)]
    expected_second = [without_cache(session, batch, t, p) for t, p in [(0, [0, 261]), (0, [0, 262]), (1, [0, 263])]]
    np.testing.assert_allclose(first, expected_first, atol=1e-5)
    np.testing.assert_allclose(second, expected_second, atol=1e-5)
    np.testing.assert_allclose(third, [without_cache(session, batch, t, p) for t, p in prefixes], atol=1e-5)


@pytest.mark.parametrize("beams", [1, 4, 10, 11])
def test_one_text_alone_gets_the_numbers_of_the_graph_of_any_shape(generator: OnnxGenerator, beams: int) -> None:
    """With axes fixed, with rows filled up, and with more beams than were fixed: only speed differs."""
    batch = Batch.of([[2, 40, 50, 60, 1]], pad=0)
    session = generator.session
    steps = session.read(batch, start=0)
    tokens = np.arange(260, 260 + beams)
    found = [
        steps.first(),
        steps.next(np.zeros(beams, np.int64), tokens),
        steps.next(np.array([beams - 1]), tokens[:1]),
    ]
    last = int(tokens[-1])
    prefixes = [[[0]], [[0, int(token)] for token in tokens], [[0, last, 260]]]
    for logits, asked in zip(found, prefixes, strict=True):
        expected = [without_cache(session, batch, 0, prefix) for prefix in asked]
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_batch_is_padded_on_the_right() -> None:
    """Padding has mask 0 and the padding token."""
    batch = Batch.of([[5, 6, 7], [8]], pad=9)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_a_graph_whose_input_has_another_name_than_declared_is_refused(edit_manifest: EditManifest, graph: str) -> None:
    """The message names the graph, the input and both sides."""
    path = edit_manifest(lambda manifest: _rename(manifest["graphs"][graph]["inputs"], "input_ids", "tokens"))
    with pytest.raises(BundleError, match=rf"{graph}\.onnx: decoding needs input 'input_ids'"):
        OnnxGenerator.open(path)


def test_a_renamed_cache_input_is_refused_by_name(edit_manifest: EditManifest) -> None:
    """Names that decoding does not fix are compared with the graph's own."""
    old, new = "past_key_values.0.decoder.key", "past_key_values.0.decoder.keys"

    def rename(manifest: dict[str, Any]) -> None:
        _rename(manifest["graphs"]["decoder"]["inputs"], old, new)
        _rename(manifest["graphs"]["decoder"]["outputs"], "present.0.decoder.key", "present.0.decoder.keys")

    with pytest.raises(BundleError, match=rf"decoder\.onnx: input '{old}' should be nothing of that name"):
        OnnxGenerator.open(edit_manifest(rename))


def test_a_declared_type_that_the_graph_has_not_is_refused(edit_manifest: EditManifest) -> None:
    """Element types are compared too."""
    path = edit_manifest(lambda manifest: manifest["graphs"]["encoder"]["inputs"][0].update(dtype="tensor(int32)"))
    with pytest.raises(BundleError, match=r"should be tensor\(int32\).* the graph has tensor\(int64\)"):
        OnnxGenerator.open(path)


def test_an_undeclared_graph_is_refused(edit_manifest: EditManifest) -> None:
    """A manifest without the decoder cannot be served."""
    path = edit_manifest(lambda manifest: manifest["graphs"].pop("decoder"))
    with pytest.raises(BundleError, match="declares no graph 'decoder'"):
        OnnxGenerator.open(path)


def test_a_logits_axis_without_a_size_is_refused(edit_manifest: EditManifest) -> None:
    """The vocabulary must be known before the first query."""
    path = edit_manifest(lambda manifest: manifest["graphs"]["decoder"]["outputs"][0]["axes"].__setitem__(2, "words"))
    with pytest.raises(BundleError, match="last axis of 'logits' must be a number"):
        OnnxGenerator.open(path)


def test_a_file_that_is_no_graph_is_refused(replace_file: Callable[[str, bytes], Path]) -> None:
    """A right checksum does not make a graph."""
    path = replace_file("encoder.onnx", b"not a graph at all")
    with pytest.raises(BundleError, match=r"encoder\.onnx cannot be opened by onnxruntime"):
        OnnxGenerator.open(path)


def test_a_failing_graph_is_a_decode_error(generator: OnnxGenerator) -> None:
    """What onnxruntime raises never leaves the room as it is."""
    with pytest.raises(DecodeError, match="the model failed"):
        generator.session.read(Batch.of([[10**6]], pad=0), start=0)


def test_more_threads_give_the_same_numbers(bundle_path: Path) -> None:
    """The setting changes speed alone."""
    bundle = open_bundle(bundle_path)
    batch = Batch.of([[2, 40, 50, 60, 1]], pad=0)
    one, two = (Seq2SeqSession.open(bundle, threads=n).read(batch, start=0).first() for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


def _rename(tensors: list[dict[str, Any]], old: str, new: str) -> None:
    for tensor in tensors:
        if tensor["name"] == old:
            tensor["name"] = new
