"""Recognising a MatMul, alone or with the Add that follows it, and a Gemm, as `y = x @ W + b`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import TensorProto

from rankfold.passes.constants import ConstantTrace, attribute, trace_constant
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.site import Bias, Centring, Use
from rankfold.values import FeatureAxis

FOLDABLE_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
}


@dataclass(frozen=True)
class Candidate:
    """One node with a constant matrix, in normal form."""

    weight: ConstantTrace
    flipped: bool
    use: Use

    @property
    def shape(self) -> tuple[int, int]:
        """Return (in_features, out_features)."""
        rows, columns = self.weight.shape
        return (columns, rows) if self.flipped else (rows, columns)


def matmul_candidate(index: GraphIndex, place: int) -> Candidate | str:
    """Return the normal form of a MatMul, or the reason why it is left alone."""
    found = _constant_operand(index, place)
    if isinstance(found, str):
        return found
    operand, weight = found
    node = index.nodes[place]
    activation = node.input[1 - operand]
    axis: FeatureAxis = -1
    if operand == 0:
        rank = index.ranks.get(activation)
        if rank is None:
            return f"weight on the left of an activation of unknown rank ({activation!r}); run shape inference first"
        axis = -1 if rank == 1 else -2
    features = weight.shape[0] if operand == 0 else weight.shape[1]
    bias = _following_bias(index, node.output[0], features, axis)
    output = node.output[0] if bias is None else index.nodes[bias.node].output[0]
    use = Use(place, operand, activation, output, axis, axis, 1.0, bias, "add" if bias is None else "bias")
    return Candidate(weight, operand == 0, use)


def gemm_candidate(index: GraphIndex, place: int) -> Candidate | str:
    """Return the normal form of a Gemm, or the reason why it is left alone."""
    found = _constant_operand(index, place)
    if isinstance(found, str):
        return found
    operand, weight = found
    node = index.nodes[place]
    transposed = [bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0))]
    axis: FeatureAxis = -2 if operand == 0 else -1
    activation_axis: FeatureAxis = -1 if (axis == -2) == transposed[1 - operand] else -2
    flipped = transposed[operand] if operand == 1 else not transposed[operand]
    rows, columns = weight.shape
    features = rows if flipped else columns
    scale = attribute(node, "alpha", 1.0)
    if not scale or not math.isfinite(scale):
        return f"alpha is {scale}, so the weight does not matter"
    bias, correction = _gemm_bias(index, place, features, axis)
    use = Use(
        node=place,
        weight_operand=operand,
        activation=node.input[1 - operand],
        output=node.output[0],
        feature_axis=axis,
        activation_axis=activation_axis,
        scale=scale,
        bias=bias,
        centred=correction,
    )
    return Candidate(weight, flipped, use)


def _constant_operand(index: GraphIndex, place: int) -> tuple[int, ConstantTrace] | str:
    node = index.nodes[place]
    traces = [trace_constant(index, name) for name in node.input[:2]]
    if all(traces):
        return "both operands are constant; fold constants first"
    for operand, trace in enumerate(traces):
        if trace is not None:
            return _refused(trace) or (operand, trace)
    return _why_not_constant(index, place)


def _refused(trace: ConstantTrace) -> str | None:
    if trace.onnx_type not in FOLDABLE_TYPES:
        return f"weight {trace.root!r} is {TensorProto.DataType.Name(trace.onnx_type)}, not a float type that is folded"
    if len(trace.shape) != 2:
        return f"weight {trace.root!r} has shape {list(trace.shape)}; only matrices are folded"
    if 0 in trace.shape:
        return f"weight {trace.root!r} is empty, shape {list(trace.shape)}"
    return None


def _why_not_constant(index: GraphIndex, place: int) -> str:
    for name in index.nodes[place].input[:2]:
        if name in index.overridable:
            return f"weight {name!r} is also a graph input, so a caller may override it"
        maker = index.producer.get(name)
        if maker is not None and index.nodes[maker].op_type == "DequantizeLinear":
            return "operand is dequantised; fold before quantising"
    return "neither operand is constant"


def _following_bias(index: GraphIndex, product: str, features: int, axis: FeatureAxis) -> Bias | None:
    place = index.only_reader(product)
    if place is None or index.nodes[place].op_type != "Add" or index.nodes[place].domain:
        return None
    node = index.nodes[place]
    operand = 1 if node.input[0] == product else 0
    trace = trace_constant(index, node.input[operand])
    if trace is None or not _per_feature(trace.shape, features, axis):
        return None
    grows = len(trace.shape) > index.ranks.get(product, math.inf)  # broadcasting would add axes to the output
    return None if grows and len(trace.shape) > 1 else Bias(place, operand, trace, 1.0)


def _gemm_bias(index: GraphIndex, place: int, features: int, axis: FeatureAxis) -> tuple[Bias | None, Centring]:
    node = index.nodes[place]
    beta = attribute(node, "beta", 1.0)
    if len(node.input) < 3 or not node.input[2]:
        return None, "gemm"
    trace = trace_constant(index, node.input[2])
    if trace is None or beta == 0 or not _per_feature(trace.shape, features, axis):
        return None, "never"
    return Bias(place, 2, trace, beta), "bias"


def _per_feature(shape: tuple[int, ...], features: int, axis: FeatureAxis) -> bool:
    """Return whether a constant of this shape adds one value per output feature, and widens no axis."""
    if math.prod(shape) == 1:
        return len(shape) <= 1 or axis == -1
    return len(shape) >= -axis and shape[axis] == features and math.prod(shape) == features
