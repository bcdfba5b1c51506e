"""Weights that stand behind Constant, Identity, Transpose, Cast, Split and reshaping nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper

from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.model_file import Model

Step = tuple[str, tuple[int, ...]]
"""What one node does to a constant: ("Transpose", perm), ("Cast", (onnx type,)), ("Reshape", shape) or
("Split", (axis, start, end))."""

_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
TRACED = frozenset({"Identity", "Cast", "Transpose", "Split", *_RESHAPING})
_NARROWER: dict[int, tuple[int, ...]] = {
    TensorProto.FLOAT: (TensorProto.FLOAT16, TensorProto.BFLOAT16),
    TensorProto.DOUBLE: (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16),
}


@dataclass(frozen=True)
class ConstantTrace:
    """A tensor whose value is known before the model runs.

    Attributes:
        root: The initializer's name, or the output of the Constant node it comes from.
        steps: What happens on the way from the root to the tensor.
        shape, onnx_type: Of the tensor itself.
        root_type: Of the root.
    """

    root: str
    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    onnx_type: int
    root_type: int

    @property
    def stored_type(self) -> int:
        """Return the type a replacement is stored in: the root's, where that is the narrower float type."""
        return self.root_type if self.root_type in _NARROWER.get(self.onnx_type, ()) else self.onnx_type


def trace_constant(index: GraphIndex, name: str) -> ConstantTrace | None:
    """Return how a tensor's value comes about, or None where it is not known before the model runs."""
    way: list[tuple[int, str]] = []
    while name not in index.initializers:
        place = index.producer.get(name)
        if place is None or index.nodes[place].domain not in ("", "ai.onnx"):
            return None
        node = index.nodes[place]
        if node.op_type == "Constant":
            break
        if node.op_type not in TRACED or not node.input:
            return None
        way.append((place, name))
        name = node.input[0]
    trace = _root(index, name)
    for place, reached in reversed(way):
        trace = trace and _after(index, place, reached, trace)
    return trace


def _root(index: GraphIndex, name: str) -> ConstantTrace | None:
    tensor = index.initializers.get(name) or _constant_tensor(index.nodes[index.producer[name]])
    return tensor and ConstantTrace(name, (), tuple(tensor.dims), tensor.data_type, tensor.data_type)


def reshaped(trace: ConstantTrace, shape: tuple[int, ...]) -> ConstantTrace:
    """Return the trace of a constant seen in another shape of as many elements."""
    if shape == trace.shape:
        return trace
    return replace(trace, steps=(*trace.steps, ("Reshape", shape)), shape=shape)


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
        elif operation == "Split":
            axis, start, end = argument
            value = value[(slice(None),) * axis + (slice(start, end),)]
        else:
            value = value.astype(helper.tensor_dtype_to_np_dtype(argument[0]))
    return value


def attribute(node: NodeProto, name: str, default: int | float) -> float:
    """Return a number attribute of a node."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)  # type: ignore[no-any-return]
    return default


def ints(node: NodeProto, name: str) -> tuple[int, ...]:
    """Return a list attribute of whole numbers, empty where the node has none."""
    return next((tuple(found.ints) for found in node.attribute if found.name == name), ())


def _after(index: GraphIndex, place: int, name: str, before: ConstantTrace) -> ConstantTrace | None:
    node = index.nodes[place]
    if node.op_type == "Identity":
        return before
    if node.op_type == "Cast":
        kind = int(attribute(node, "to", TensorProto.UNDEFINED))
        same = kind == before.onnx_type
        return before if same else replace(before, steps=(*before.steps, ("Cast", (kind,))), onnx_type=kind)
    if node.op_type == "Transpose":
        order = ints(node, "perm") or tuple(range(len(before.shape)))[::-1]
        if sorted(order) != list(range(len(before.shape))):
            return None
        shape = tuple(before.shape[axis] for axis in order)
        return replace(before, steps=_compose(before.steps, order), shape=shape)
    if node.op_type == "Split":
        return _part(index, node, list(node.output).index(name), before)
    new_shape = _new_shape(index, node, before.shape)
    return None if new_shape is None else reshaped(before, new_shape)


def _part(index: GraphIndex, node: NodeProto, number: int, before: ConstantTrace) -> ConstantTrace | None:
    rank = len(before.shape)
    axis = int(attribute(node, "axis", 0))
    if not -rank <= axis < rank:
        return None
    axis %= rank
    whole, parts = before.shape[axis], len(node.output)
    second = len(node.input) > 1 and bool(node.input[1])
    given = _small_ints(index, node.input[1]) if second else ints(node, "split")
    if given is None:
        return None
    even = -(-whole // parts)
    sizes = given or tuple(max(min(even, whole - even * place), 0) for place in range(parts))
    if len(sizes) != parts or sum(sizes) != whole or min(sizes) < 0:
        return None
    start = sum(sizes[:number])
    end = start + sizes[number]
    shape = (*before.shape[:axis], end - start, *before.shape[axis + 1 :])
    return replace(before, steps=(*before.steps, ("Split", (axis, start, end))), shape=shape)


def _new_shape(index: GraphIndex, node: NodeProto, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return what a reshaping node makes of a shape, or None where that is not known."""
    if node.op_type == "Flatten":
        axis = int(attribute(node, "axis", 1))
        axis += len(shape) if axis < 0 else 0
        return (math.prod(shape[:axis]), math.prod(shape[axis:])) if 0 <= axis <= len(shape) else None
    second = len(node.input) > 1 and bool(node.input[1])
    numbers = _small_ints(index, node.input[1]) if second else ints(node, "axes")
    if node.op_type == "Reshape":
        return numbers and _reshaped(shape, numbers, allow_zero=bool(attribute(node, "allowzero", 0)))
    if numbers is None:
        return None
    if node.op_type == "Squeeze":
        gone = {axis % max(len(shape), 1) for axis in numbers} or {a for a, extent in enumerate(shape) if extent == 1}
        kept = tuple(extent for axis, extent in enumerate(shape) if axis not in gone)
        return kept if math.prod(kept) == math.prod(shape) else None
    rank = len(shape) + len(numbers)
    new, rest = {axis % rank for axis in numbers}, iter(shape)
    return tuple(1 if axis in new else next(rest) for axis in range(rank)) if len(new) == len(numbers) else None


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
