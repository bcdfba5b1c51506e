"""Operators that reduce axes: sums, norms, extremes, and where extremes lie."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rankfold.training.node import Compute, Node, Operator
from rankfold.training.tensors import integers

Reduction = Callable[[Tensor, list[int], bool], Tensor]
"""Takes a tensor, the axes that go, and whether they stay with length 1."""

_AXES_AS_INPUT = 18  # since this opset; before it an attribute, but for ReduceSum, where it came with opset 13


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)  # small integers would be widened


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.mean(axes, keepdim=keep)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=keep)
    return norm  # unlike √Σx², with a gradient at 0


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x, axes, keep).log()


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


def _max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.amax(_never_empty(x, axes, largest=False), axes, keepdim=keep)


def _min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.amin(_never_empty(x, axes, largest=True), axes, keepdim=keep)


def _never_empty(x: Tensor, axes: list[int], *, largest: bool) -> Tensor:
    """Give empty axes that are reduced one element, the type's extreme: the extreme of nothing."""
    shape = list(x.shape)
    empty = [axis for axis in axes if shape[axis] == 0]
    if not empty:
        return x
    for axis in empty:
        shape[axis] = 1
    if x.dtype == torch.bool:
        return x.new_full(shape, largest)
    if x.is_floating_point():
        return x.new_full(shape, math.inf if largest else -math.inf)
    limits = torch.iinfo(x.dtype)
    return x.new_full(shape, limits.max if largest else limits.min)


def _of_floats(function: Reduction) -> Reduction:
    """Return a function that torch has for floating point alone, of integers too: its result is cut off to one."""

    def of_any(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.is_floating_point():
            return function(x, axes, keep)
        return function(x.to(torch.float64), axes, keep).to(x.dtype)

    return of_any


def _reduction(function: Reduction, *, axes_as_input: int = _AXES_AS_INPUT) -> Operator:
    def bind(node: Node) -> Compute:
        keep = node.flag("keepdims", default=True)
        given = node.opset >= axes_as_input
        fixed = None if given else node.integers("axes")
        noop = given and node.flag("noop_with_empty_axes")

        def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
            chosen = fixed if axes is None else integers(axes)
            if not chosen and not noop:
                chosen = list(range(x.ndim))
            return function(x, chosen, keep) if chosen else _of_nothing(function, x)

        return compute

    return Operator(bind, shapes=(1,))


def _of_nothing(function: Reduction, x: Tensor) -> Tensor:
    """Return what is left when no axis goes: each number reduced by itself."""
    return function(x[..., None], [-1], False) if x.dtype != torch.bool else x


def _extreme(*, largest: bool) -> Operator:
    def bind(node: Node) -> Compute:
        axis = node.integer("axis", 0)
        keep = node.flag("keepdims", default=True)
        last = node.flag("select_last_index")
        function = torch.argmax if largest else torch.argmin

        def compute(x: Tensor) -> Tensor:
            if not last:
                return function(x, axis, keepdim=keep)
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)

        return compute

    return Operator(bind)


def _top_k(node: Node) -> Compute:
    axis = node.integer("axis", -1)
    largest = node.flag("largest", default=True)
    node.ignore("sorted")  # unsorted is any order

    def compute(x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        values, places = torch.sort(x, dim=axis, descending=largest, stable=True)  # of equals the first, unlike topk
        (k,) = integers(count)
        return values.narrow(axis, 0, k), places.narrow(axis, 0, k)

    return compute


def _cum_sum(node: Node) -> Compute:
    exclusive, reverse = node.flag("exclusive"), node.flag("reverse")

    def compute(x: Tensor, place: Tensor) -> Tensor:
        (axis,) = integers(place)
        ordered = x.flip(axis) if reverse else x
        if exclusive:
            length = x.shape[axis]
            first = torch.zeros_like(ordered.narrow(axis, 0, min(1, length)))
            ordered = torch.cat([first, ordered.narrow(axis, 0, max(0, length - 1))], axis)
        summed = ordered.cumsum(axis, dtype=x.dtype)
        return summed.flip(axis) if reverse else summed

    return compute


OPERATORS = {
    ("", "ReduceSum"): _reduction(_sum, axes_as_input=13),
    ("", "ReduceMean"): _reduction(_of_floats(_mean)),
    ("", "ReduceProd"): _reduction(_prod),
    ("", "ReduceMax"): _reduction(_max),
    ("", "ReduceMin"): _reduction(_min),
    ("", "ReduceL1"): _reduction(_l1),
    ("", "ReduceL2"): _reduction(_of_floats(_l2)),
    ("", "ReduceSumSquare"): _reduction(_sum_square),
    ("", "ReduceLogSum"): _reduction(_log_sum),
    ("", "ReduceLogSumExp"): _reduction(_log_sum_exp),
    ("", "ArgMax"): _extreme(largest=True),
    ("", "ArgMin"): _extreme(largest=False),
    ("", "TopK"): Operator(_top_k, shapes=(1,), outputs=2),
    ("", "CumSum"): Operator(_cum_sum, shapes=(1,)),
}
