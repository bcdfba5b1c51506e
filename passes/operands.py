"""The constant operand of a linear node, the constant added behind it, and the normal form they make up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from rankfold.passes import reasons
from rankfold.passes.constants import ConstantTrace, trace_constant
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.site import Bias, Use
from rankfold.values import FeatureAxis

FOLDABLE_TYPES = frozenset([TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])


@dataclass(frozen=True)
class Candidate:
    """One node with a constant matrix, in normal form.

    Attributes:
        weight: Of two axes, or of more where matrices are stacked.
        flipped: Whether `W` is that matrix transposed.
        use: How the node uses it.
        kernel: The extents of a convolution's kernel.
    """

    weight: ConstantTrace
    flipped: bool
    use: Use
    kernel: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Return (in_features, out_features)."""
        rows, columns = self.weight.shape[-2:]
        return (columns, rows) if self.flipped else (rows, columns)

    @property
    def stack(self) -> tuple[int, ...]:
        """Return the axes along which matrices are stacked."""
        return self.weight.shape[:-2]


def constant_operand(index: GraphIndex, place: int) -> tuple[int, ConstantTrace] | str:
    """Return which of a product's two operands is constant, and its trace, or why it cannot be folded."""
    node = index.nodes[place]
    traces = [trace_constant(index, name) for name in node.input[:2]]
    if all(traces):
        return reasons.BOTH_CONSTANT
    for operand, trace in enumerate(traces):
        if trace is not None:
            return _refused(trace) or (operand, trace)
    return why_not_constant(index, node.input[:2]) or reasons.NOT_CONSTANT


def refused_type(trace: ConstantTrace) -> str | None:
    """Return why a weight of this type or without elements is left alone, or None."""
    if trace.onnx_type not in FOLDABLE_TYPES:
        return reasons.NOT_A_FOLDED_TYPE.format(root=trace.root, type=TensorProto.DataType.Name(trace.onnx_type))
    if trace.root_type not in FOLDABLE_TYPES:
        return reasons.STORED_NARROW.format(root=trace.root, type=TensorProto.DataType.Name(trace.root_type))
    if 0 in trace.shape:
        return reasons.EMPTY.format(root=trace.root, shape=list(trace.shape))
    return None


def why_not_constant(index: GraphIndex, names: Sequence[str]) -> str | None:
    """Return what makes an operand variable that looks like a weight, or None."""
    for name in names:
        if name in index.overridable:
            return reasons.OVERRIDABLE.format(name=name)
        maker = index.producer.get(name)
        if maker is not None and index.nodes[maker].op_type == "DequantizeLinear":
            return reasons.DEQUANTISED
    return None


def following_bias(index: GraphIndex, product: str, features: int, axis: FeatureAxis) -> Bias | None:
    """Return the constant, one value per feature, that an Add behind a product adds to it, or None."""
    place = index.only_reader(product)
    if place is None or index.nodes[place].op_type != "Add" or index.nodes[place].domain:
        return None
    node = index.nodes[place]
    operand = 1 if node.input[0] == product else 0
    trace = trace_constant(index, node.input[operand])
    if trace is None or not per_feature(trace.shape, features, axis):
        return None
    grows = len(trace.shape) > index.ranks.get(product, math.inf)  # broadcasting would add axes to the output
    return None if grows and len(trace.shape) > 1 else Bias(place, operand, trace, 1.0)


def per_feature(shape: tuple[int, ...], features: int, axis: FeatureAxis) -> bool:
    """Return whether a constant of this shape adds one value per output feature, and widens no axis."""
    if math.prod(shape) == 1:
        return len(shape) <= 1 or axis == -1
    return len(shape) >= -axis and shape[axis] == features and math.prod(shape) == features


def _refused(trace: ConstantTrace) -> str | None:
    stacked = [extent for extent in trace.shape[:-2] if extent != 1]
    along_one_axis = not stacked or (len(stacked) == 1 and trace.shape[-3] != 1)
    if len(trace.shape) < 2 or not along_one_axis:
        return refused_type(trace) or reasons.NOT_A_MATRIX.format(root=trace.root, shape=list(trace.shape))
    return refused_type(trace)
