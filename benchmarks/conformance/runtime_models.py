"""What onnxruntime's own optimisers and quantisers make of two networks, as jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers import float16, optimizer

from benchmarks.conformance.compressing import Subject, check_made
from benchmarks.conformance.exported import export
from benchmarks.conformance.networks import NETWORKS
from benchmarks.conformance.outcome import Outcome
from benchmarks.conformance.parts import Job
from rankfold.values import Feed

Maker = Callable[[Path, Path, list[Feed]], None]
_LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_NETWORKS = ("encoder block", "classifier", "linear, 2-D", "chunked qkv")


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The feeds as onnxruntime's calibrators want them."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _optimised(level: str) -> Maker:
    def make(source: Path, target: Path, feeds: list[Feed]) -> None:  # noqa: ARG001
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = _LEVELS[level]
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return make


def _transformers(source: Path, target: Path, feeds: list[Feed]) -> None:  # noqa: ARG001
    optimizer.optimize_model(str(source), "bert", num_heads=4, hidden_size=64).save_model_to_file(str(target))


def _halved(*, inside: bool) -> Maker:
    def make(source: Path, target: Path, feeds: list[Feed]) -> None:  # noqa: ARG001
        onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=inside), target)

    return make


def _dynamic(source: Path, target: Path, feeds: list[Feed]) -> None:  # noqa: ARG001
    quantization.quantize_dynamic(source, target)


def _static(form: quantization.QuantFormat) -> Maker:
    def make(source: Path, target: Path, feeds: list[Feed]) -> None:
        quantization.quantize_static(source, target, _Reader(feeds), quant_format=form)

    return make


def _four_bits(source: Path, target: Path, feeds: list[Feed]) -> None:  # noqa: ARG001
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


MAKERS: dict[str, Maker] = {
    **{f"optimised, {level}": _optimised(level) for level in _LEVELS},
    "transformers optimiser": _transformers,
    "converted to float16": _halved(inside=False),
    "converted to float16 between its inputs and outputs": _halved(inside=True),
    "quantised, dynamic": _dynamic,
    "quantised, QDQ": _static(quantization.QuantFormat.QDQ),
    "quantised, QOperator": _static(quantization.QuantFormat.QOperator),
    "quantised, 4 bits": _four_bits,
}


def _as_read(path: Path, feeds: list[Feed]) -> list[Feed]:
    """Return the feeds in the types that a model reads."""
    kinds = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in onnx.load(path, load_external_data=False).graph.input
    }
    return [{name: array.astype(kinds[name]) for name, array in feed.items()} for feed in feeds]


def jobs(part: str) -> Iterator[Job]:  # noqa: ARG001
    """Yield one job per network and tool."""
    for network in _NETWORKS:
        for tool in MAKERS:
            name = f"runtime/{network}, {tool}"
            yield Job(name, lambda folder, name=name, network=network, tool=tool: [_check(name, network, tool, folder)])  # type: ignore[misc]


def _check(name: str, network: str, tool: str, folder: Path) -> Outcome:
    logging.disable(logging.WARNING)  # the tools tell of every step
    source, path = folder / "source.onnx", folder / "model.onnx"
    rounded = tool.startswith(("converted", "quantised"))

    def make() -> Subject:
        feeds = export(NETWORKS[network], "torchscript", source)
        MAKERS[tool](source, path, feeds)
        feeds = _as_read(path, feeds)
        return Subject(name, path, feeds, lowered=not rounded, precision="float16" if "16" in tool else "float32")

    return check_made(name, make)
