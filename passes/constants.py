"""Weights that stand behind Constant, Identity, Transpose, Cast and Reshape nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper

from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.model_file import Model

Step = tuple[str, tuple[int, ...]]
"""What one node does to a constant: ("Transpose", perm), ("Cast", (onnx type,)) or ("Reshape", shape)."""


@dataclass(frozen=True)
class ConstantTrace:
    """A tensor whose value is known before the model runs.

    Attributes:
        root: The initializer's name, or the output of the Constant node it comes from.
        steps: What happens on the way from the root to the tensor.
        shape, onnx_type: Of the tensor itself.
    """

    root: str
    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    onnx_type: int


def trace_constant(index: GraphIndex, name: str) -> ConstantTrace | None:
    """Return how a tensor's value comes about, or None where it is not known before the model runs."""
    if name in index.initializers:
        tensor = index.initializers[name]
        return ConstantTrace(name, (), tuple(tensor.dims), tensor.data_type)
    place = index.producer.get(name)
    if place is None:
        return None
    node = index.nodes[place]
    if node.op_type == "Constant" and node.domain == "":
        value = _constant_tensor(node)
        return value and ConstantTrace(name, (), tuple(value.dims), value.data_type)
    if node.op_type in ("Identity", "Transpose", "Cast", "Reshape") and node.domain == "":
        before = trace_constant(index, node.input[0])
        return before and _after(index, node, before)
    return None


def evaluate(model: Model, index: GraphIndex, trace: ConstantTrace) -> NDArray[np.generic]:
    """Return the traced tensor's values in its own dtype, without a copy where none is needed."""
    if trace.root in index.initializers:
        value = model.tensor(index.initializers[trace.root])
    else:
        constant = _constant_tensor(index.nodes[index.producer[trace.root]])
        assert constant is not None  # trace_constant saw it
        value = model.tensor(constant)
    for operation, argument in trace.steps:
        if operation == "Transpose":
            value = value.transpose(argument)
        elif operation == "Reshape":
            value = value.reshape(argument)
        else:
            value = value.astype(helper.tensor_dtype_to_np_dtype(argument[0]))
    return value


def attribute(node: NodeProto, name: str, default: int | float) -> float:
    """Return a number attribute of a node."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)  # type: ignore[no-any-return]
    return default


def _after(index: GraphIndex, node: NodeProto, before: ConstantTrace) -> ConstantTrace | None:
    if node.op_type == "Identity":
        return before
    if node.op_type == "Cast":
        kind = int(attribute(node, "to", TensorProto.UNDEFINED))
        same = kind == before.onnx_type
        return before if same else ConstantTrace(before.root, (*before.steps, ("Cast", (kind,))), before.shape, kind)
    if node.op_type == "Transpose":
        order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), tuple(range(len(before.shape)))[::-1])
        shape = tuple(before.shape[axis] for axis in order)
        return ConstantTrace(before.root, _compose(before.steps, order), shape, before.onnx_type)
    wanted = _small_ints(index, node.input[1]) if len(node.input) > 1 else None
    if wanted is None:
        return None
    reached = _reshaped(before.shape, wanted, allow_zero=bool(attribute(node, "allowzero", 0)))
    if reached is None:
        return None
    return ConstantTrace(before.root, (*before.steps, ("Reshape", reached)), reached, before.onnx_type)


def _compose(steps: tuple[Step, ...], order: tuple[int, ...]) -> tuple[Step, ...]:
    if steps and steps[-1][0] == "Transpose":
        order = tuple(steps[-1][1][axis] for axis in order)
        steps = steps[:-1]
    return steps if order == tuple(range(len(order))) else (*steps, ("Transpose", order))


def _reshaped(shape: tuple[int, ...], wanted: tuple[int, ...], *, allow_zero: bool) -> tuple[int, ...] | None:
    sizes = [
        shape[axis] if extent == 0 and not allow_zero and axis < len(shape) else extent
        for axis, extent in enumerate(wanted)
    ]
    known = math.prod(extent for extent in sizes if extent != -1)
    if -1 in sizes and known:
        sizes[sizes.index(-1)] = math.prod(shape) // known
    return tuple(sizes) if math.prod(sizes) == math.prod(shape) and min(sizes, default=0) >= 0 else None


def _small_ints(index: GraphIndex, name: str) -> tuple[int, ...] | None:
    tensor = index.initializers.get(name)
    place = index.producer.get(name)
    if tensor is None and place is not None and index.nodes[place].op_type == "Constant":
        tensor = _constant_tensor(index.nodes[place])
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    return tuple(int(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1))


def _constant_tensor(node: NodeProto) -> TensorProto | None:
    for found in node.attribute:
        if found.name == "value" and found.type == AttributeProto.TENSOR:
            tensor: TensorProto = found.t
            return tensor
        if found.name in ("value_float", "value_floats"):
            return onnx.numpy_helper.from_array(np.asarray(helper.get_attribute_value(found), np.float32))
        if found.name in ("value_int", "value_ints"):
            return onnx.numpy_helper.from_array(np.asarray(helper.get_attribute_value(found), np.int64))
    return None
