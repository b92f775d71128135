"""Graphs as they leave export: signatures, size of weights, silence."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path

import onnx
import pytest
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertModel

from gram_exporter.graphs import export_graphs, quiet, signatures
from gram_exporter.record import MODEL
from gram_plugin.contract.bundle import DECODER, ENCODER, Bundle, Tensor
from gram_plugin.contract.codebook import attributes_of
from gram_plugin.errors import ExportError


def test_graphs_declare_what_serving_feeds(exact_bundle: Bundle) -> None:
    """Names, types and axes of the whole encoder and of the decoder's first inputs and outputs."""
    ids = Tensor("input_ids", "tensor(int64)", ("batch_size", "encoder_sequence_length"))
    mask = Tensor("attention_mask", "tensor(int64)", ("batch_size", "encoder_sequence_length"))
    hidden = Tensor("last_hidden_state", "tensor(float)", ("batch_size", "encoder_sequence_length", 16))
    encoder, decoder = exact_bundle.manifest.graphs["encoder"], exact_bundle.manifest.graphs["decoder"]
    assert (encoder.file, encoder.inputs, encoder.outputs) == (ENCODER, (ids, mask), (hidden,))
    assert decoder.file == DECODER
    assert {tensor.name for tensor in decoder.inputs} == {
        "input_ids",
        "encoder_attention_mask",
        "encoder_hidden_states",
        "use_cache_branch",
        *(f"past_key_values.0.{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")),
    }
    assert decoder.outputs[0].axes[-1] == 1 + len(attributes_of(exact_bundle.codebook))


def test_quantised_graphs_have_the_same_signature(exact_bundle: Bundle, small_bundle: Bundle) -> None:
    """Serving feeds both in the same way."""
    assert small_bundle.manifest.graphs == exact_bundle.manifest.graphs
    assert signatures(small_bundle.path) == small_bundle.manifest.graphs


@pytest.mark.parametrize("file", [ENCODER, DECODER])
def test_quantised_graphs_keep_no_large_float_weight(small_bundle: Bundle, file: str) -> None:
    """Embeddings, projections and the output layer are all int8, in the branches too."""
    sizes = _float_weights(onnx.load(small_bundle.file(file)).graph)
    assert max(sizes.values()) <= 64, sizes


def test_exact_graphs_keep_the_embedding_as_float(exact_bundle: Bundle) -> None:
    """The check above would see a weight that was left out."""
    assert max(_float_weights(onnx.load(exact_bundle.file(ENCODER)).graph).values()) > 16 * 300


def _float_weights(graph: onnx.GraphProto) -> dict[str, int]:
    """Number of elements of each float initializer, subgraphs included."""
    found = {item.name: math.prod(item.dims) for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _float_weights(attribute.g)
    return found


def test_export_says_nothing(tiny_training: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No library prints or warns, and the loggers are as they were."""
    before = [(name, logging.getLogger(name).level) for name in ("optimum", "transformers")]
    handlers = list(logging.getLogger().handlers)
    export_graphs(tiny_training / MODEL, tmp_path, [1, 300])
    assert capfd.readouterr() == ("", "")
    assert [(name, logging.getLogger(name).level) for name, _ in before] == before
    assert logging.getLogger().handlers == handlers
    assert sorted(item.name for item in tmp_path.iterdir()) == [DECODER, ENCODER]


def test_a_bart_model_is_exported_too(tmp_path: Path) -> None:
    """Its output layer has a bias of its own, which is narrowed with it."""
    config = BartConfig(
        vocab_size=40, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    graphs = export_graphs(tmp_path / "model", tmp_path / "graphs", [1, 30, 31])
    assert graphs["decoder"].outputs[0] == Tensor(
        "logits", "tensor(float)", ("batch_size", "decoder_sequence_length", 3)
    )


def test_other_warnings_are_still_heard() -> None:
    """Only what is known and harmless is kept out."""
    with pytest.warns(UserWarning, match="something new"), quiet():
        warnings.warn("something new", stacklevel=1)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """The next step is to train, and no name is looked up in the network."""
    with pytest.raises(ExportError, match="holds no encoder-decoder model") as caught:
        export_graphs(tmp_path / "model", tmp_path, [1])
    assert caught.value.next_step == "run `gram train` first"


def test_a_model_that_only_encodes_is_refused(tmp_path: Path) -> None:
    """BERT alone writes no codes."""
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ExportError, match="holds no encoder-decoder model"):
        export_graphs(tmp_path / "model", tmp_path, [1])
