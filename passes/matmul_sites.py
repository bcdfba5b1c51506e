"""Recognising a MatMul or FusedMatMul, alone or with the Add that follows it, as `y = x @ W + b`."""

from __future__ import annotations

import math

from onnx import NodeProto

from rankfold.passes import reasons
from rankfold.passes.constants import attribute
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.operands import Candidate, constant_operand, following_bias
from rankfold.passes.site import Use
from rankfold.values import FeatureAxis


def matmul_candidate(index: GraphIndex, place: int) -> Candidate | str:
    """Return the normal form of a MatMul or FusedMatMul, or the reason why it is left alone."""
    found = constant_operand(index, place)
    if isinstance(found, str):
        return found
    operand, weight = found
    node = index.nodes[place]
    turned = _turned(node)
    if isinstance(turned, str):
        return turned
    axis = _feature_axis(index, node.input[1 - operand], operand, weight.shape)
    if isinstance(axis, str):
        return axis
    vector = index.ranks.get(node.input[1 - operand]) in (None, 1)
    if vector and (turned[1 - operand] or (operand == 0 and any(turned))):
        return reasons.TURNED_VECTOR.format(tensor=node.input[1 - operand])
    scale = attribute(node, "alpha", 1.0)
    if not scale or not math.isfinite(scale):
        return reasons.ALPHA_IS_NOTHING.format(alpha=scale)
    flipped = turned[operand] != (operand == 0)
    features = weight.shape[-2] if flipped else weight.shape[-1]
    bias = following_bias(index, node.output[0], features, axis)
    stacked = math.prod(weight.shape[:-2]) > 1
    use = Use(
        node=place,
        weight_operand=operand,
        activation=node.input[1 - operand],
        output=node.output[0] if bias is None else index.nodes[bias.node].output[0],
        feature_axis=axis,
        activation_axis=_other(axis) if turned[1 - operand] else axis,
        scale=scale,
        bias=bias,
        centred="never" if stacked else "add" if bias is None else "bias",
        sides=("output",) if stacked else ("input", "output"),
    )
    return Candidate(weight, flipped, use)


def _turned(node: NodeProto) -> tuple[bool, bool] | str:
    """Return which operands a FusedMatMul transposes; a MatMul has no such attributes."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        return reasons.BATCH_TRANSPOSED
    return bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0))


def _feature_axis(index: GraphIndex, activation: str, operand: int, shape: tuple[int, ...]) -> FeatureAxis | str:
    rank = index.ranks.get(activation)
    if math.prod(shape[:-2]) > 1 and (rank is None or rank == 1):
        return reasons.STACK_OF_UNKNOWN_RANK.format(tensor=activation)
    if operand == 1:
        return -1
    if rank is None:
        return reasons.LEFT_OF_UNKNOWN_RANK.format(tensor=activation)
    return -1 if rank == 1 else -2


def _other(axis: FeatureAxis) -> FeatureAxis:
    return -2 if axis == -1 else -1
