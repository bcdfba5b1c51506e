"""Operators of several tensors, number by number, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from rankfold.training.node import Compute, Node, Operator, plain


def _div(x: Tensor, y: Tensor) -> Tensor:
    """Divide; integers toward zero."""
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _pow(x: Tensor, exponent: Tensor) -> Tensor:
    """Raise to a power that may have another type; the base's is the result's.

    A square is by far the most frequent, as a part of norms, and a product takes a third of the time.
    """
    constant = exponent.numel() == 1 and exponent.ndim <= x.ndim and not exponent.requires_grad
    if constant and exponent.device.type == "cpu" and x.is_floating_point() and float(exponent) == 2:
        return x * x  # on a GPU, reading the exponent would wait for all that is under way
    return torch.pow(x, exponent).to(x.dtype)


def _mod(node: Node) -> Compute:
    return torch.fmod if node.flag("fmod") else torch.remainder  # the sign of the first, or of the second


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _mean(*parts: Tensor) -> Tensor:
    return reduce(torch.add, parts) / len(parts)


def _over_all(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return plain(lambda *parts: reduce(function, parts))


OPERATORS = {
    ("", "Add"): plain(torch.add),
    ("", "Sub"): plain(torch.sub),
    ("", "Mul"): plain(torch.mul),
    ("", "Div"): plain(_div),
    ("", "Pow"): plain(_pow),
    ("", "Mod"): Operator(_mod),
    ("", "PRelu"): plain(_prelu),
    ("", "Clip"): plain(_clip),
    ("", "Min"): _over_all(torch.minimum),
    ("", "Max"): _over_all(torch.maximum),
    ("", "Sum"): _over_all(torch.add),
    ("", "Mean"): plain(_mean),
    ("", "Where"): plain(torch.where),
    ("", "Equal"): plain(torch.eq),
    ("", "Less"): plain(torch.lt),
    ("", "LessOrEqual"): plain(torch.le),
    ("", "Greater"): plain(torch.gt),
    ("", "GreaterOrEqual"): plain(torch.ge),
    ("", "And"): plain(torch.logical_and),
    ("", "Or"): plain(torch.logical_or),
    ("", "Xor"): plain(torch.logical_xor),
    ("", "BitwiseAnd"): plain(torch.bitwise_and),
    ("", "BitwiseOr"): plain(torch.bitwise_or),
    ("", "BitwiseXor"): plain(torch.bitwise_xor),
}
