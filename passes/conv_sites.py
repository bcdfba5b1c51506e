"""Recognising a convolution of one group as `y = x @ W + b`, a row of `x` being what the kernel covers at one place."""

from __future__ import annotations

import math

from onnx import NodeProto

from rankfold.passes import reasons
from rankfold.passes.constants import ConstantTrace, attribute, ints, reshaped, trace_constant
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.operands import Candidate, refused_type, why_not_constant
from rankfold.passes.site import Bias, Centring, Side, Use
from rankfold.windows import Window

_SMALLEST_KERNEL_AXES = 3  # (out, in, one spatial axis)


def conv_candidate(index: GraphIndex, place: int) -> Candidate | str:
    """Return the normal form of a Conv, or the reason why it is left alone.

    `W` is (in channels · extents of the kernel, out channels). The rows of `x W` are the output's places, and are seen
    there exactly; those of `x` only where the kernel covers one place and skips none.
    """
    node = index.nodes[place]
    weight = trace_constant(index, node.input[1])
    if weight is None:
        return why_not_constant(index, node.input[1:2]) or reasons.KERNEL_NOT_CONSTANT
    refused = refused_type(weight) or _refused(node, weight)
    if refused:
        return refused
    bias = _bias(index, place, weight.shape[0])
    if isinstance(bias, str):
        return bias
    centred: Centring = "gemm" if bias is None else "bias"
    pointwise = _pointwise(node, weight.shape[2:])
    sides: tuple[Side, ...] = ("input", "output") if pointwise else ("output",)
    window = None if pointwise else _window(node, weight.shape[2:])
    use = Use(place, 1, node.input[0], node.output[0], 1, 1, 1.0, bias, centred, sides, window)
    flat = reshaped(weight, (weight.shape[0], math.prod(weight.shape[1:])))
    return Candidate(flat, flipped=True, use=use, kernel=weight.shape[2:])


def _refused(node: NodeProto, weight: ConstantTrace) -> str | None:
    groups = int(attribute(node, "group", 1))
    if groups != 1:
        return reasons.GROUPED.format(groups=groups)
    if len(weight.shape) < _SMALLEST_KERNEL_AXES:
        return reasons.NOT_A_KERNEL.format(root=weight.root, shape=list(weight.shape))
    return None


def _bias(index: GraphIndex, place: int, channels: int) -> Bias | str | None:
    node = index.nodes[place]
    if len(node.input) < 3 or not node.input[2]:
        return None
    trace = trace_constant(index, node.input[2])
    if trace is None or trace.shape != (channels,):
        return reasons.BIAS_NOT_CONSTANT
    return Bias(place, 2, trace, 1.0)


def _window(node: NodeProto, kernel: tuple[int, ...]) -> Window:
    auto_pad = next((found.s.decode() for found in node.attribute if found.name == "auto_pad"), "NOTSET")
    strides, dilations, pads = (ints(node, name) for name in ("strides", "dilations", "pads"))
    return Window(kernel, strides, dilations, pads if auto_pad == "NOTSET" else (), auto_pad)


def _pointwise(node: NodeProto, kernel: tuple[int, ...]) -> bool:
    moved = [*ints(node, "pads"), *(stride - 1 for stride in ints(node, "strides"))]
    return math.prod(kernel) == 1 and not any(moved)
