"""Operators that multiply by weights: products of matrices, and convolutions of one to three axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.training.node import Compute, Node, Operator, plain
from rankfold.training.windows import Windows, extents, halves, padded, read_windows

Convolution = Callable[..., Tensor]

_CONVOLUTIONS: tuple[Convolution, ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED: tuple[Convolution, ...] = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


def _gemm(node: Node) -> Compute:
    left, right = node.flag("transA"), node.flag("transB")
    alpha, beta = (_whole(node.number(name, 1.0)) for name in ("alpha", "beta"))

    def compute(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        first, second = (a.T if left else a), (b.T if right else b)
        if c is not None:
            return torch.addmm(c, first, second, beta=beta, alpha=alpha)
        product = first @ second
        return product if alpha == 1 else alpha * product

    return compute


def _whole(number: float) -> float:
    """Return a whole number as an int: torch scales integers by nothing else."""
    return int(number) if number.is_integer() else number


def _einsum(node: Node) -> Compute:
    equation = node.value("equation").decode()
    return lambda *operands: torch.einsum(equation, *operands)


def _conv(node: Node) -> Compute:
    windows, group = read_windows(node), node.integer("group", 1)
    node.ignore("kernel_shape")  # the weight's own

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        kernel = weight.shape[2:]
        axes = len(kernel)
        sides = windows.sides(x.shape[2:], kernel)
        padding = [before for before, _ in sides]
        if any(before != after for before, after in sides):
            x, padding = padded(x, sides), [0] * axes
        convolve = _CONVOLUTIONS[axes - 1]
        return convolve(x, weight, bias, windows.steps(axes), padding, windows.spreads(axes), group)

    return compute


def _conv_transpose(node: Node) -> Compute:
    windows, group = read_windows(node), node.integer("group", 1)
    more, wanted = node.integers("output_padding"), node.integers("output_shape")
    node.ignore("kernel_shape")  # the weight's own

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = weight.ndim - 2
        steps, spreads, extra = windows.steps(axes), windows.spreads(axes), more or [0] * axes
        goal = wanted[-axes:] if wanted else None
        if goal is None and windows.auto_pad.startswith("SAME"):
            goal = [length * step for length, step in zip(x.shape[2:], steps, strict=True)]
        if goal is None:
            sides = windows.sides(x.shape[2:], weight.shape[2:])
        else:
            surplus = _surplus(x, weight, windows, [end - more for end, more in zip(goal, extra, strict=True)])
            sides = [halves(max(0, n), upper=windows.auto_pad == "SAME_UPPER") for n in surplus]
            extra = [more + max(0, -n) for more, n in zip(extra, surplus, strict=True)]
        full = _TRANSPOSED[axes - 1](x, weight, bias, steps, 0, extra, group, spreads)
        return padded(full, [(-before, -after) for before, after in sides])

    return compute


def _surplus(x: Tensor, weight: Tensor, windows: Windows, goal: list[int]) -> list[int]:
    """Return by how much a transposed convolution without padding is longer than wanted, axis by axis."""
    steps, spreads = windows.steps(len(goal)), windows.spreads(len(goal))
    lengths = zip(x.shape[2:], steps, extents(weight.shape[2:], spreads), goal, strict=True)
    return [(length - 1) * step + reach - end for length, step, reach, end in lengths]


OPERATORS = {
    ("", "MatMul"): plain(torch.matmul),
    ("", "Gemm"): Operator(_gemm),
    ("", "Einsum"): Operator(_einsum),
    ("", "Conv"): Operator(_conv),
    ("", "ConvTranspose"): Operator(_conv_transpose),
}
