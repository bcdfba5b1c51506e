"""Recognising a Gemm or FusedGemm as `y = x @ W + b`."""

from __future__ import annotations

import math

from rankfold.passes import reasons
from rankfold.passes.constants import attribute, trace_constant
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.operands import Candidate, constant_operand, per_feature
from rankfold.passes.site import Bias, Centring, Use
from rankfold.values import FeatureAxis


def gemm_candidate(index: GraphIndex, place: int) -> Candidate | str:
    """Return the normal form of a Gemm, or the reason why it is left alone."""
    found = constant_operand(index, place)
    if isinstance(found, str):
        return found
    operand, weight = found
    node = index.nodes[place]
    turned = [bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0))]
    axis: FeatureAxis = -2 if operand == 0 else -1
    activation_axis: FeatureAxis = -1 if (axis == -2) == turned[1 - operand] else -2
    flipped = turned[operand] != (operand == 0)
    rows, columns = weight.shape
    scale = attribute(node, "alpha", 1.0)
    if not scale or not math.isfinite(scale):
        return reasons.ALPHA_IS_NOTHING.format(alpha=scale)
    bias, correction = _gemm_bias(index, place, rows if flipped else columns, axis)
    hidden = correction == "never" or node.op_type == "FusedGemm"  # its activation function stands inside it
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
        sides=("input",) if hidden else ("input", "output"),
    )
    return Candidate(weight, flipped, use)


def _gemm_bias(index: GraphIndex, place: int, features: int, axis: FeatureAxis) -> tuple[Bias | None, Centring]:
    node = index.nodes[place]
    beta = attribute(node, "beta", 1.0)
    if len(node.input) < 3 or not node.input[2]:
        return None, "gemm"
    trace = trace_constant(index, node.input[2])
    if trace is None or beta == 0 or not per_feature(trace.shape, features, axis):
        return None, "never"
    return Bias(place, 2, trace, beta), "bias"
