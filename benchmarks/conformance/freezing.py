"""Making a case's weight-like inputs constant, so that there is something to fold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper, version_converter

# Operators that multiply by a weight; all their inputs but the first are frozen.
_FLOAT_LINEAR = "MatMul Gemm Conv FusedMatMul FusedGemm FusedConv Einsum ConvTranspose DeformConv LSTM GRU RNN"
_OTHER = "Attention MatMulInteger QLinearMatMul ConvInteger QLinearConv MatMulNBits"
LINEAR = frozenset(f"{_FLOAT_LINEAR} {_OTHER}".split(" "))
_TWO_SIDED = frozenset({"MatMul", "Gemm", "FusedMatMul"})
_OLDEST_IR_VERSION = 4  # before it, initializers have to be inputs
_OLD_OPSET, _NEWER_OPSET = 9, 13  # what is older is converted
_MOST_BYTES = 40e6  # of constant weights that are written out


@dataclass(frozen=True)
class Case:
    """A model with one set of inputs by name, and the outputs it should have, in the order of the graph."""

    name: str
    model: ModelProto
    inputs: dict[str, Any]
    expected: list[Any]
    rtol: float
    atol: float


def frozen(case: Case, *, left: bool) -> Case | None:
    """Return the case with its weight-like inputs made initializers; None where it has none.

    A model of the time when weights had to be inputs, or of an opset before the first that is folded, is brought
    forward; weights that are made of one number by a node are written out.

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
    _write_out(model)
    inputs = {name: value for name, value in case.inputs.items() if name not in closed}
    return Case(case.name, _newer(model), inputs, case.expected, case.rtol, case.atol)


def _weight_inputs(model: ModelProto, *, left: bool) -> Iterator[str]:
    """Yield the operands of linear nodes that stand where a weight does."""
    for node in model.graph.node:
        if node.op_type in LINEAR and (not left or node.op_type in _TWO_SIDED):
            yield from node.input[:1] if left else node.input[1:]


def _write_out(model: ModelProto) -> None:
    """Put initializers in the place of nodes that fill a known shape with one number, if they are not too large."""
    shapes = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = [n for n in model.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    extents = {node.output[0]: numpy_helper.to_array(shapes[node.input[0]]).tolist() for node in makers}
    if 4 * sum(math.prod(extent) for extent in extents.values()) > _MOST_BYTES:
        return
    for node in makers:
        value = next((helper.get_attribute_value(attribute) for attribute in node.attribute), None)
        number = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
        filled = np.full(extents[node.output[0]], number[0], number.dtype)
        model.graph.initializer.append(numpy_helper.from_array(filled, node.output[0]))
        model.graph.node.remove(node)


def _newer(model: ModelProto) -> ModelProto:
    """Return a model of an old opset in a newer one, where the converter can do that."""
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) >= _OLD_OPSET:
        return model
    try:
        return version_converter.convert_version(model, _NEWER_OPSET)
    except (RuntimeError, ValueError):
        return model
