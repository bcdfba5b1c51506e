"""Operators of one tensor, number by number: activations, roundings and the like."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.errors import ModelError
from rankfold.training.node import Compute, Node, Operator, plain
from rankfold.training.tensors import torch_type

# The schema's float32 defaults, to their last digit.
_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875


def _identity(x: Tensor) -> Tensor:
    return x


def _elu(node: Node) -> Compute:
    alpha = node.number("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def _celu(node: Node) -> Compute:
    alpha = node.number("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


def _selu(node: Node) -> Compute:
    alpha, gamma = node.number("alpha", _SELU_ALPHA), node.number("gamma", _SELU_GAMMA)
    return lambda x: gamma * functional.elu(x, alpha)


def _leaky_relu(node: Node) -> Compute:
    alpha = node.number("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


def _thresholded_relu(node: Node) -> Compute:
    alpha = node.number("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, 0)


def _hard_sigmoid(node: Node) -> Compute:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _gelu(node: Node) -> Compute:
    approximate = node.choice("approximate", "none", ("none", "tanh"))
    return lambda x: functional.gelu(x, approximate=approximate)


def _swish(node: Node) -> Compute:
    alpha = node.number("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


def _shrink(node: Node) -> Compute:
    bias, threshold = node.number("bias", 0.0), node.number("lambd", 0.5)
    return lambda x: torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, 0))


def _is_infinite(node: Node) -> Compute:
    negative, positive = node.flag("detect_negative", default=True), node.flag("detect_positive", default=True)
    return lambda x: (torch.isneginf(x) & negative) | (torch.isposinf(x) & positive)


def _cast(node: Node) -> Compute:
    node.ignore("saturate", "round_mode")  # of the 8-bit floats, which are refused
    kind = torch_type(node.integer("to"))
    return lambda x: x.to(kind)


def _cast_like(node: Node) -> Compute:
    node.ignore("saturate", "round_mode")
    return lambda x, like: x.to(like.dtype)


def _dropout(node: Node) -> Compute:
    """Pass everything: a graph is run as it infers, also while it is trained.

    Raises:
        ModelError: The node drops when it infers, or may.
    """
    node.ignore("seed")
    mode = node.constant(2)
    if node.has(2) and (mode is None or bool(mode)):
        raise ModelError("input training_mode")

    def compute(x: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
        return (x, torch.ones_like(x, dtype=torch.bool)) if node.outputs > 1 else (x,)

    return compute


OPERATORS = {
    ("", "Abs"): plain(torch.abs),
    ("", "Neg"): plain(torch.neg),
    ("", "Sign"): plain(torch.sign),
    ("", "Floor"): plain(torch.floor),
    ("", "Ceil"): plain(torch.ceil),
    ("", "Round"): plain(torch.round),  # halves to even, as torch does
    ("", "Sqrt"): plain(torch.sqrt),
    ("", "Exp"): plain(torch.exp),
    ("", "Log"): plain(torch.log),
    ("", "Reciprocal"): plain(torch.reciprocal),
    ("", "Erf"): plain(torch.erf),
    ("", "Sin"): plain(torch.sin),
    ("", "Cos"): plain(torch.cos),
    ("", "Tan"): plain(torch.tan),
    ("", "Asin"): plain(torch.asin),
    ("", "Acos"): plain(torch.acos),
    ("", "Atan"): plain(torch.atan),
    ("", "Sinh"): plain(torch.sinh),
    ("", "Cosh"): plain(torch.cosh),
    ("", "Tanh"): plain(torch.tanh),
    ("", "Asinh"): plain(torch.asinh),
    ("", "Acosh"): plain(torch.acosh),
    ("", "Atanh"): plain(torch.atanh),
    ("", "Sigmoid"): plain(torch.sigmoid),
    ("", "HardSigmoid"): Operator(_hard_sigmoid),
    ("", "HardSwish"): plain(functional.hardswish),
    ("", "Relu"): plain(torch.relu),
    ("", "LeakyRelu"): Operator(_leaky_relu),
    ("", "ThresholdedRelu"): Operator(_thresholded_relu),
    ("", "Elu"): Operator(_elu),
    ("", "Celu"): Operator(_celu),
    ("", "Selu"): Operator(_selu),
    ("", "Gelu"): Operator(_gelu),
    ("", "Mish"): plain(functional.mish),
    ("", "Swish"): Operator(_swish),
    ("", "Softplus"): plain(functional.softplus),
    ("", "Softsign"): plain(functional.softsign),
    ("", "Shrink"): Operator(_shrink),
    ("", "Not"): plain(torch.logical_not),
    ("", "BitwiseNot"): plain(torch.bitwise_not),
    ("", "IsNaN"): plain(torch.isnan),
    ("", "IsInf"): Operator(_is_infinite),
    ("", "Cast"): Operator(_cast),
    ("", "CastLike"): Operator(_cast_like),
    ("", "Identity"): plain(_identity),
    ("", "Dropout"): Operator(_dropout, outputs=2),
}
