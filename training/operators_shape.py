"""Operators that arrange numbers anew and compute none."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.training.node import Compute, Node, Operator, plain
from rankfold.training.tensors import integers


def _shape(node: Node) -> Compute:
    start, end = node.integer("start", 0), node.value("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _reshape(node: Node) -> Compute:
    literal_zero = node.flag("allowzero")

    def compute(x: Tensor, shape: Tensor) -> Tensor:
        lengths = integers(shape)
        if not literal_zero:  # a zero keeps the axis at its place
            lengths = [length or x.shape[axis] for axis, length in enumerate(lengths)]
        return x.reshape(lengths)

    return compute


def _flatten(node: Node) -> Compute:
    axis = node.integer("axis", 1)
    return lambda x: x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(node: Node) -> Compute:
    order = node.integers("perm")
    return lambda x: x.permute(list(range(x.ndim))[::-1] if order is None else order)


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze(integers(axes)) if axes is not None and axes.numel() else x.squeeze()


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    chosen = integers(axes)
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast both ways: where the shape says 1, the tensor's own length stays."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape))))


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


def _concat(node: Node) -> Compute:
    axis = node.integer("axis")
    return lambda *parts: torch.cat(parts, axis)


def _split(node: Node) -> Compute:
    axis = node.integer("axis", 0)
    parts = node.integer("num_outputs", len(node.proto.output))  # stated since opset 18

    def compute(x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        if lengths is not None:
            return torch.split(x, integers(lengths), axis)
        return torch.split(x, math.ceil(x.shape[axis] / parts), axis)  # the last may be shorter

    return compute


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """Cut as Python does; torch knows no negative steps, so those are cut forward and flipped."""
    firsts, lasts = integers(starts), integers(ends)
    chosen = list(range(len(firsts))) if axes is None else integers(axes)
    strides = [1] * len(firsts) if steps is None else integers(steps)
    cuts = [slice(None)] * x.ndim
    flipped = []
    for axis, first, last, stride in zip(chosen, firsts, lasts, strides, strict=True):
        places = range(*slice(first, last, stride).indices(x.shape[axis]))
        if stride < 0:
            places = places[::-1]
            flipped.append(axis)
        cuts[axis] = slice(places.start, places.stop, places.step) if places else slice(0, 0)
    cut = x[tuple(cuts)]
    return cut.flip(flipped) if flipped else cut


def _pad(node: Node) -> Compute:
    mode = node.choice("mode", "constant", ("constant", "reflect", "edge", "wrap"))

    def compute(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        amounts = integers(pads)
        chosen = range(x.ndim) if axes is None else integers(axes)
        half = len(amounts) // 2
        sides = {axis % x.ndim: (amounts[at], amounts[at + half]) for at, axis in enumerate(chosen)}
        if mode == "constant":
            flat = [amount for axis in reversed(range(x.ndim)) for amount in sides.get(axis, (0, 0))]
            return functional.pad(x, flat, value=0 if value is None else value.item())
        for axis, (before, after) in sides.items():
            if before or after:
                x = x.index_select(axis, _padded_places(x.shape[axis], before, after, mode).to(x.device))
        return x

    return compute


def _padded_places(length: int, before: int, after: int, mode: str) -> Tensor:
    """Return which element stands at each place of a padded axis."""
    places = torch.arange(-before, length + after)
    if mode == "wrap":
        return places % length
    if mode == "edge":
        return places.clamp(0, length - 1)
    period = max(1, 2 * (length - 1))  # there and back again, neither end twice
    places = places % period
    return torch.minimum(places, period - places)


def _depth_to_space(node: Node) -> Compute:
    size = node.integer("blocksize")
    depth_first = node.choice("mode", "DCR", ("DCR", "CRD")) == "DCR"

    def compute(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if not depth_first:
            return functional.pixel_shuffle(x, size)
        left = channels // size**2
        parts = x.reshape(batch, size, size, left, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, left, height * size, width * size)

    return compute


def _space_to_depth(node: Node) -> Compute:
    size = node.integer("blocksize")
    node.choice("mode", "DCR", ("DCR",))  # came with opset 28

    def compute(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, channels, height // size, size, width // size, size)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * size**2, height // size, width // size)

    return compute


def _triangle(node: Node) -> Compute:
    upper = node.flag("upper", default=True)

    def compute(x: Tensor, diagonal: Tensor | None = None) -> Tensor:
        k = 0 if diagonal is None else int(diagonal)
        return x.triu(k) if upper else x.tril(k)

    return compute


_SECOND = (1,)

OPERATORS = {
    ("", "Shape"): Operator(_shape, on_cpu=True),
    ("", "Size"): plain(_size, on_cpu=True),
    ("", "Reshape"): Operator(_reshape, shapes=_SECOND),
    ("", "Flatten"): Operator(_flatten),
    ("", "Transpose"): Operator(_transpose),
    ("", "Squeeze"): plain(_squeeze, shapes=_SECOND),
    ("", "Unsqueeze"): plain(_unsqueeze, shapes=_SECOND),
    ("", "Expand"): plain(_expand, shapes=_SECOND),
    ("", "Tile"): plain(_tile, shapes=_SECOND),
    ("", "Concat"): Operator(_concat),
    ("", "Split"): Operator(_split, shapes=_SECOND, outputs=sys.maxsize),
    ("", "Slice"): plain(_slice, shapes=(1, 2, 3, 4)),
    ("", "Pad"): Operator(_pad, shapes=(1, 2, 3)),
    ("", "DepthToSpace"): Operator(_depth_to_space),
    ("", "SpaceToDepth"): Operator(_space_to_depth),
    ("", "Trilu"): Operator(_triangle, shapes=_SECOND),
}
