"""The cases that come with the onnx package, as they are and with their weight-like inputs frozen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from onnx.backend.test import loader

from benchmarks.conformance.check import Example, check
from benchmarks.conformance.outcome import Outcome

VARIANTS = ("as it is", "frozen", "frozen left")
# Operators that multiply by a weight, and which of their inputs may be one when everything but the activation is frozen.
LINEAR = frozenset(
    "MatMul Gemm Conv FusedMatMul FusedGemm FusedConv Einsum ConvTranspose LSTM GRU RNN MatMulInteger QLinearMatMul"
    " ConvInteger QLinearConv MatMulNBits Attention DeformConv".split()
)
_TWO_SIDED = frozenset({"MatMul", "Gemm", "FusedMatMul"})
_OLDEST_IR_VERSION = 4  # before it, initializers have to be inputs
_KINDS = ("simple", "pytorch-converted", "pytorch-operator")
_LIGHT = Path(loader.DATA_DIR) / "light"


@dataclass(frozen=True)
class Case:
    """A model with one set of inputs by name, and the outputs it should have, in the order of the graph."""

    name: str
    model: ModelProto
    inputs: dict[str, Any]
    expected: list[Any]
    rtol: float
    atol: float


def node_cases() -> Iterator[Case]:
    """Yield the cases made for single operators."""
    with warnings.catch_warnings():  # some overflow on purpose
        warnings.simplefilter("ignore")
        found = loader.load_model_tests(kind="node")
    for case in sorted(found, key=lambda case: case.name):
        for number, (inputs, outputs) in enumerate(case.data_sets):
            name = case.name if len(case.data_sets) == 1 else f"{case.name}/{number}"
            fed = zip((value.name for value in case.model.graph.input), map(_plain, inputs), strict=False)
            yield Case(f"node/{name}", case.model, dict(fed), [_plain(value) for value in outputs], case.rtol, case.atol)


def model_cases() -> Iterator[Case]:
    """Yield the cases whose models and data lie in the package."""
    for kind in _KINDS:
        for case in sorted(loader.load_model_tests(kind=kind), key=lambda case: case.name):
            model = onnx.load(Path(case.model_dir) / "model.onnx")
            for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
                fed = enumerate(list(model.graph.input)[: len(list(folder.glob("input_*.pb")))])
                inputs = {value.name: _read(folder / f"input_{n}.pb", value) for n, value in fed}
                outputs = [_read(folder / f"output_{n}.pb", value) for n, value in enumerate(model.graph.output)]
                name = f"{kind}/{case.name}/{folder.name.rpartition('_')[2]}"
                yield Case(name, model, inputs, outputs, case.rtol, case.atol)


def light_cases() -> Iterator[Case]:
    """Yield the large networks with constant weights, fed as onnx's own runner feeds them."""
    for path in sorted(_LIGHT.glob("light_*.onnx")):
        model = onnx.load(path)
        known = {tensor.name for tensor in model.graph.initializer}
        value = next(value for value in model.graph.input if value.name not in known)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        size = int(np.prod(shape))
        expected = numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb")))
        ramp = (np.arange(size).reshape(shape) / size).astype(np.float32)
        yield Case(f"light/{path.stem}", model, {value.name: ramp}, [expected], 1e-3, 1e-6)


def _plain(value: Any) -> Any:
    """Return an array for a tensor message or a number, and everything else as it is."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    content, kind = path.read_bytes(), value.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def frozen(case: Case, *, left: bool) -> Case | None:
    """Return the case with its weight-like inputs made initializers; None where it has none.

    Args:
        case: The case.
        left: Whether the left operands of products are frozen in place of the right ones.
    """
    model = ModelProto()
    model.CopyFrom(case.model)
    arrays = {name for name, value in case.inputs.items() if isinstance(value, np.ndarray)}
    wanted = set(_weight_inputs(model, left=left)) & arrays
    known = {tensor.name for tensor in model.graph.initializer}
    old = model.ir_version < _OLDEST_IR_VERSION
    closed = wanted | (known - case.inputs.keys() if old else set())
    if not wanted and (left or not closed):
        return None
    model.ir_version = max(model.ir_version, _OLDEST_IR_VERSION)
    for name in sorted(wanted - known):
        model.graph.initializer.append(numpy_helper.from_array(case.inputs[name], name))
    kept = [value for value in model.graph.input if value.name not in closed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    inputs = {name: value for name, value in case.inputs.items() if name not in closed}
    return Case(case.name, model, inputs, case.expected, case.rtol, case.atol)


def _weight_inputs(model: ModelProto, *, left: bool) -> Iterator[str]:
    """Yield the operands of linear nodes that stand where a weight does."""
    for node in model.graph.node:
        if node.op_type in LINEAR and (not left or node.op_type in _TWO_SIDED):
            yield from node.input[:1] if left else node.input[1:]


def check_case(case: Case, variant: str, folder: Path) -> Outcome | None:
    """Send one variant of a case through the library; None where there is no such variant."""
    chosen = case if variant == VARIANTS[0] else frozen(case, left=variant == VARIANTS[2])
    if chosen is None:
        return None
    path = folder / "model.onnx"
    onnx.save(chosen.model, path)
    example = Example(path, chosen.inputs, chosen.expected, chosen.rtol, chosen.atol)
    return check(example, Outcome(f"{case.name}, {variant}"))
