"""Operators that normalise: by layers, batches, groups and norms, and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from rankfold.training.node import Compute, Node, Operator

_EPSILON = 1e-5  # of every operator here that has one
_SHARED_SCALES = 21  # before this opset a group's channels share one scale
_DEVIATION_FLOOR = 1e-9  # stated in MeanVarianceNormalization's function body


def _layer_normalization(node: Node) -> Compute:
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", _EPSILON)
    node.only("stash_type", TensorProto.FLOAT)

    def compute(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        shape = x.shape[axis:]
        if all(part is None or _fits(part, shape) for part in (scale, bias)):
            shift = None if bias is None else bias.expand(shape)
            return torch.native_layer_norm(x, shape, scale.expand(shape), shift, epsilon)
        plain, *others = torch.native_layer_norm(x, shape, None, None, epsilon)
        return plain * scale if bias is None else plain * scale + bias, *others

    return compute


def _fits(scale: Tensor, shape: Sequence[int]) -> bool:
    """Tell whether a scale has one number for each place of what is normalised, and none for the axes before."""
    return scale.ndim <= len(shape)


def _rms_normalization(node: Node) -> Compute:
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", _EPSILON)
    node.only("stash_type", TensorProto.FLOAT)

    def compute(x: Tensor, scale: Tensor) -> Tensor:
        shape = x.shape[axis:]
        if _fits(scale, shape):
            return functional.rms_norm(x, shape, scale.expand(shape), epsilon)
        return functional.rms_norm(x, shape, None, epsilon) * scale

    return compute


def _batch_normalization(node: Node) -> Compute:
    epsilon = node.number("epsilon", _EPSILON)
    node.only("training_mode", 0)
    node.ignore("momentum")  # of training

    def compute(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        if not (mean.requires_grad or variance.requires_grad):
            return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)
        factor = scale * torch.rsqrt(variance + epsilon)  # torch's own gives the statistics no gradient
        return x * _of_channels(factor, x) + _of_channels(bias - mean * factor, x)

    return compute


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 2))


def _instance_normalization(node: Node) -> Compute:
    epsilon = node.number("epsilon", _EPSILON)
    return lambda x, scale, bias: torch.group_norm(x, x.shape[1], scale, bias, epsilon)


def _group_normalization(node: Node) -> Compute:
    groups, epsilon = node.integer("num_groups"), node.number("epsilon", _EPSILON)
    node.only("stash_type", TensorProto.FLOAT)

    def compute(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if node.opset < _SHARED_SCALES:
            scale, bias = (part.repeat_interleave(x.shape[1] // groups) for part in (scale, bias))
        return torch.group_norm(x, groups, scale, bias, epsilon)

    return compute


def _mean_variance_normalization(node: Node) -> Compute:
    axes = node.integers("axes") or [0, 2, 3]

    def compute(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (variance.sqrt() + _DEVIATION_FLOOR)

    return compute


def _lp_normalization(node: Node) -> Compute:
    axis, power = node.integer("axis", -1), node.integer("p", 2)

    def compute(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, power, axis, keepdim=True)
        return x / torch.where(norm == 0, 1, norm)  # nothing stays nothing

    return compute


def _local_response_normalization(node: Node) -> Compute:
    size, alpha = node.integer("size"), node.number("alpha", 1e-4)
    beta, bias = node.number("beta", 0.75), node.number("bias", 1.0)

    def compute(x: Tensor) -> Tensor:
        squares = functional.pad((x * x).movedim(1, -1), ((size - 1) // 2, size // 2))
        sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
        return x / (bias + alpha / size * sums) ** beta

    return compute


def _softmax(node: Node) -> Compute:
    axis = node.integer("axis", -1)
    return lambda x: functional.softmax(x, axis)


def _log_softmax(node: Node) -> Compute:
    axis = node.integer("axis", -1)
    return lambda x: functional.log_softmax(x, axis)


def _hard_max(node: Node) -> Compute:
    axis = node.integer("axis", -1)
    return lambda x: torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


OPERATORS = {
    ("", "LayerNormalization"): Operator(_layer_normalization, outputs=3),
    ("", "RMSNormalization"): Operator(_rms_normalization),
    ("", "BatchNormalization"): Operator(_batch_normalization),
    ("", "InstanceNormalization"): Operator(_instance_normalization),
    ("", "GroupNormalization"): Operator(_group_normalization),
    ("", "MeanVarianceNormalization"): Operator(_mean_variance_normalization),
    ("", "LpNormalization"): Operator(_lp_normalization),
    ("", "LRN"): Operator(_local_response_normalization),
    ("", "Softmax"): Operator(_softmax),
    ("", "LogSoftmax"): Operator(_log_softmax),
    ("", "Hardmax"): Operator(_hard_max),
}
