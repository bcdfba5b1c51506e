"""Where the windows of convolutions and poolings lie: strides, dilations and the paddings that ONNX knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from rankfold.training.node import Node

_AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Windows:
    """A node's attributes; None where a list is left out, so that it fits any number of axes.

    Attributes:
        strides, dilations: One per spatial axis.
        pads: Elements before each axis, then elements after each.
        auto_pad: How many there are where `pads` does not say.
        ceil_mode: Whether a last window may reach beyond the padding.
    """

    strides: list[int] | None
    dilations: list[int] | None
    pads: list[int] | None
    auto_pad: str
    ceil_mode: bool = False

    def steps(self, axes: int) -> list[int]:
        """Return the strides of so many axes."""
        return self.strides or [1] * axes

    def spreads(self, axes: int) -> list[int]:
        """Return the dilations of so many axes."""
        return self.dilations or [1] * axes

    def sides(self, lengths: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
        """Return the padding before and after each axis; with `ceil_mode` not yet what a last window needs more."""
        axes = len(lengths)
        if self.auto_pad == "VALID":
            return [(0, 0)] * axes
        if self.auto_pad == "NOTSET":
            pads = self.pads or [0] * (2 * axes)
            return list(zip(pads[:axes], pads[axes:], strict=True))
        reach = extents(kernel, self.spreads(axes))
        missing = [
            max(0, (math.ceil(length / step) - 1) * step + window - length)
            for length, step, window in zip(lengths, self.steps(axes), reach, strict=True)
        ]
        return [halves(amount, upper=self.auto_pad == "SAME_UPPER") for amount in missing]

    def beyond(self, lengths: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """Return how far the last window reaches beyond each axis, which is padded already."""
        axes = len(lengths)
        if not self.ceil_mode:
            return [0] * axes
        reach, steps = extents(kernel, self.spreads(axes)), self.steps(axes)
        after = [side for _, side in self.sides(lengths, kernel)]
        return [
            _overhang(length, window, step, length - side)
            for length, window, step, side in zip(lengths, reach, steps, after, strict=True)
        ]


def read_windows(node: Node) -> Windows:
    """Return a node's strides, dilations, pads and rounding."""
    return Windows(
        node.integers("strides"),
        node.integers("dilations"),
        node.integers("pads"),
        node.choice("auto_pad", "NOTSET", _AUTO_PADS),
        node.flag("ceil_mode"),
    )


def extents(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return how far a dilated kernel reaches along each axis."""
    return [(size - 1) * spread + 1 for size, spread in zip(kernel, dilations, strict=True)]


def halves(amount: int, *, upper: bool) -> tuple[int, int]:
    """Split a padding in two; of an odd one the larger half comes after, or else before."""
    less = amount // 2
    return (less, amount - less) if upper else (amount - less, less)


def padded(x: Tensor, sides: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Return a tensor with its last axes padded, or cut where a number is negative."""
    flat = [amount for side in reversed(sides) for amount in side]
    return functional.pad(x, flat, value=value) if any(flat) else x


def _overhang(length: int, window: int, step: int, start_of_after: int) -> int:
    """Return what a last window lacks; one that would start in the padding after the axis is left out."""
    last = math.ceil((length - window) / step) * step
    if last >= start_of_after:
        last -= step
    return max(0, last + window - length)
