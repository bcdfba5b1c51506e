"""Operators that pool windows, or whole channels, of one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.errors import ModelError
from rankfold.training.node import Compute, Node, Operator, plain
from rankfold.training.windows import Windows, extents, padded, read_windows

Pooling = Callable[..., Tensor]

_MAXIMA: tuple[Pooling, ...] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGES: tuple[Pooling, ...] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _max_pool(node: Node) -> Compute:
    windows, kernel = read_windows(node), _kernel(node)
    node.ignore("storage_order")  # of the indices, which are refused
    axes = len(kernel)

    def compute(x: Tensor) -> Tensor:
        sides = _all_sides(windows, x, kernel)
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        ready = padded(x, sides, lowest)
        return _MAXIMA[axes - 1](ready, kernel, windows.steps(axes), 0, windows.spreads(axes))

    return compute


def _average_pool(node: Node) -> Compute:
    windows, kernel = read_windows(node), _kernel(node)
    counts_padding = node.flag("count_include_pad")

    def compute(x: Tensor) -> Tensor:
        sides = _sides(windows, x, kernel)
        counted = padded(torch.ones_like(x[:1, :1]), sides, float(counts_padding))
        beyond = [(0, more) for more in windows.beyond(counted.shape[2:], kernel)]
        sums = _window_sums(padded(padded(x, sides), beyond), windows, kernel)
        return sums / _window_sums(padded(counted, beyond), windows, kernel)

    return compute


def _lp_pool(node: Node) -> Compute:
    windows, kernel, power = read_windows(node), _kernel(node), node.integer("p", 2)

    def compute(x: Tensor) -> Tensor:
        ready = padded(x.abs() ** power, _all_sides(windows, x, kernel))
        return _window_sums(ready, windows, kernel) ** (1 / power)

    return compute


def _kernel(node: Node) -> list[int]:
    kernel = node.integers("kernel_shape")
    if not kernel or len(kernel) > len(_MAXIMA):
        raise ModelError(f"attribute kernel_shape={kernel}")
    return kernel


def _sides(windows: Windows, x: Tensor, kernel: list[int]) -> list[tuple[int, int]]:
    """Return the padding; to the same length onnxruntime pads for a kernel without dilations."""
    return replace(windows, dilations=None).sides(x.shape[2:], kernel)


def _all_sides(windows: Windows, x: Tensor, kernel: list[int]) -> list[tuple[int, int]]:
    sides = _sides(windows, x, kernel)
    lengths = [length + sum(side) for length, side in zip(x.shape[2:], sides, strict=True)]
    return [(b, a + more) for (b, a), more in zip(sides, windows.beyond(lengths, kernel), strict=True)]


def _window_sums(x: Tensor, windows: Windows, kernel: list[int]) -> Tensor:
    """Return the sum over each window of a tensor that is padded already."""
    axes = len(kernel)
    steps, spreads = windows.steps(axes), windows.spreads(axes)
    if max(spreads) == 1:
        return _AVERAGES[axes - 1](x, kernel, steps) * math.prod(kernel)
    for axis, (reach, step, spread) in enumerate(zip(extents(kernel, spreads), steps, spreads, strict=True), start=2):
        x = x.unfold(axis, reach, step)[..., ::spread]
    return x.sum(list(range(2 + axes, 2 + 2 * axes)))


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _global_average(x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


def _global_lp(node: Node) -> Compute:
    power = node.integer("p", 2)
    return lambda x: torch.linalg.vector_norm(x, power, _spatial(x), keepdim=True)


OPERATORS = {
    ("", "MaxPool"): Operator(_max_pool),
    ("", "AveragePool"): Operator(_average_pool),
    ("", "LpPool"): Operator(_lp_pool),
    ("", "GlobalAveragePool"): plain(_global_average),
    ("", "GlobalMaxPool"): plain(_global_max),
    ("", "GlobalLpPool"): Operator(_global_lp),
}
