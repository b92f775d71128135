"""The trained model as ONNX graphs: export through optimum, int8 quantisation, signatures.

Quantisation is dynamic: weights of matrix products and embeddings become int8 once, activations at
each run with one scale for the whole run. That is the fastest form on processors, and the reason
why serving decodes int8 texts one by one (see `Manifest.precision`).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch.jit._trace import TracerWarning

from gram_exporter.pretrained import load_writer
from gram_plugin.contract.bundle import DECODER, ENCODER, Graph
from gram_plugin.decode.session import DECODER_GRAPH, ENCODER_GRAPH, tensor_of
from gram_plugin.errors import ExportError

TASK = "text2text-generation-with-past"
_FILES = {ENCODER_GRAPH: ENCODER, DECODER_GRAPH: DECODER}
_WRITTEN_AS = {"encoder_model.onnx": ENCODER, "decoder_model_merged.onnx": DECODER}
_NOISY_LOGGERS = ("optimum", "transformers", "onnxruntime", "torch.onnx")


def load_model(model_folder: Path) -> Any:
    """The trained Hugging Face seq2seq model, in fp32, ready to be asked; never from the network.

    Raises:
        ExportError: the folder holds no model that can be loaded.
    """
    try:
        model = load_writer(model_folder)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"{model_folder} holds no encoder-decoder model: {error}", next_step="run `gram train` first"
        ) from error
    return model.float().eval()


def export_graphs(model_folder: Path, staging: Path, columns: Sequence[int]) -> dict[str, Graph]:
    """Writes `encoder.onnx` and the merged `decoder.onnx` (fp32, with cache) and reads their signatures.

    The decoder answers only for the tokens `columns`, in their order: decoding reads no others.

    Raises:
        ExportError: the model cannot be loaded, or optimum cannot export it.
    """
    # Takes seconds to import; it sets log levels of its own, so before `quiet`.
    from optimum.exporters.onnx import onnx_export_from_model

    staging.mkdir(parents=True, exist_ok=True)
    model = load_model(model_folder)
    narrow_output(model, columns)
    with tempfile.TemporaryDirectory(dir=staging) as written, quiet():
        _export(onnx_export_from_model, model, Path(written))
        for source, target in _WRITTEN_AS.items():
            shutil.move(Path(written) / source, staging / target)
    return signatures(staging)


def quantise_graphs(source: Path, staging: Path) -> dict[str, Graph]:
    """Writes int8 copies of both graphs of `source` to `staging` and reads their signatures."""
    staging.mkdir(parents=True, exist_ok=True)
    with quiet():
        for file in _FILES.values():
            _quantise(source / file, staging / file)
    return signatures(staging)


def signatures(folder: Path) -> dict[str, Graph]:
    """Inputs and outputs of both graphs, as onnxruntime reads them."""
    return {name: _signature(folder / file) for name, file in _FILES.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps out what exporting libraries say of themselves; everything else is still heard."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    root, silence = logging.getLogger(), logging.NullHandler()
    root.addHandler(silence)  # without a handler, a library's `logging.warning` would install one
    root.addFilter(_not_about_preprocessing)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            _ignore_tracing_warnings()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.removeFilter(_not_about_preprocessing)
        root.removeHandler(silence)


def _ignore_tracing_warnings() -> None:
    # optimum exports through torch's older exporter, which has no successor for merged decoders yet.
    warnings.filterwarnings("ignore", message="You are using the legacy TorchScript", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
    # Branches on shapes are traced once by design: each graph serves one branch. Parity proves them right.
    warnings.filterwarnings("ignore", category=TracerWarning)


def _not_about_preprocessing(record: logging.LogRecord) -> bool:
    # Our graphs have their constants folded already; onnxruntime recommends it on every call.
    return "pre-processing" not in record.getMessage()


def narrow_output(model: Any, columns: Sequence[int]) -> None:
    """Leaves the output layer only the rows of `columns`; it is no longer tied to the embedding.

    Raises:
        ExportError: the model's output layer is not linear.
    """
    output = model.get_output_embeddings()
    if not isinstance(output, torch.nn.Linear):
        raise ExportError(
            f"the output layer {type(output).__name__} is not linear", next_step="train a T5 or BART model"
        )
    chosen = torch.tensor(columns)
    narrow = torch.nn.Linear(output.in_features, len(columns), bias=output.bias is not None)
    with torch.no_grad():
        narrow.weight.copy_(output.weight[chosen])  # [columns, width]
        if output.bias is not None:
            narrow.bias.copy_(output.bias[chosen])  # [columns]
    model.set_output_embeddings(narrow)
    if hasattr(model, "final_logits_bias"):  # BART adds one after its output layer
        model.final_logits_bias = model.final_logits_bias[:, chosen]  # [1, columns]


def _export(export: Callable[..., None], model: Any, target: Path) -> None:
    try:
        export(model, target, task=TASK, do_validation=False, device="cpu")
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        kind = model.config.model_type
        raise ExportError(
            f"optimum cannot export a model of type {kind!r}: {error}", next_step="train a T5, mT5 or BART model"
        ) from error
    missing = [name for name in _WRITTEN_AS if not (target / name).is_file()]
    if missing:
        raise ExportError(f"optimum wrote no {', '.join(missing)}", next_step="install the extra: [exporter]")


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # needs onnx, which this step alone needs

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Only products with constant weights: attention's own products stay exact. The merged decoder's
        # branches are subgraphs.
        extra_options={"MatMulConstBOnly": True, "EnableSubgraph": True},
    )


def _signature(path: Path) -> Graph:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return Graph(path.name, tuple(map(tensor_of, inputs)), tuple(map(tensor_of, outputs)))
