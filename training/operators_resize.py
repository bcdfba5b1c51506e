"""Resize and GridSample: reading an image between its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.training.node import Compute, Node, Operator
from rankfold.training.tensors import integers

Kernel = Callable[[Tensor], Tensor]
"""How much a pixel counts by its distance from the place that is read."""

_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROUNDINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}
_POLICIES = ("stretch", "not_larger", "not_smaller")


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized: `scale` is what was asked for, which `after` / `before` only comes near."""

    before: int
    after: int
    scale: float


@dataclass(frozen=True)
class _Reading:
    """How a node reads between pixels; `kernel` None takes the nearest, by `rounding`."""

    coordinates: str
    kernel: Kernel | None
    support: int
    rounding: str
    antialias: bool
    exclude_outside: bool


def _resize(node: Node) -> Compute:
    mode = node.choice("mode", "nearest", ("nearest", "linear", "cubic"))
    node.ignore("extrapolation_value")  # of the one way to count coordinates that is refused
    cubic = node.number("cubic_coeff_a", -0.75)
    kernels: dict[str, tuple[Kernel | None, int]] = {
        "nearest": (None, 0),
        "linear": (_linear, 1),
        "cubic": (lambda distance: _cubic(distance, cubic), 2),
    }
    reading = _Reading(
        node.choice("coordinate_transformation_mode", "half_pixel", _COORDINATES),
        *kernels[mode],
        node.choice("nearest_mode", "round_prefer_floor", _ROUNDINGS),
        node.flag("antialias"),
        node.flag("exclude_outside"),
    )
    policy = node.choice("keep_aspect_ratio_policy", "stretch", _POLICIES)
    chosen = node.integers("axes")

    def compute(
        x: Tensor, _: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
    ) -> Tensor:
        axes = list(range(x.ndim)) if chosen is None else chosen
        lengths = [x.shape[axis] for axis in axes]
        if scales is not None and scales.numel():
            ends = torch.floor(torch.tensor(lengths, dtype=torch.float32) * scales)
            asked = [_Axis(*line) for line in zip(lengths, integers(ends), scales.tolist(), strict=True)]
        elif sizes is not None:
            asked = _to_sizes(lengths, integers(sizes), policy)
        else:
            raise ValueError("Resize has neither scales nor sizes")
        made = x if reading.kernel is None or x.is_floating_point() else x.to(torch.float32)
        for axis, goal in zip(axes, asked, strict=True):
            if goal.before != goal.after or goal.scale != 1:
                made = _resized(made, axis, goal, reading)
        return made.to(x.dtype)

    return compute


def _to_sizes(lengths: list[int], sizes: list[int], policy: str) -> list[_Axis]:
    ratios = [size / length for size, length in zip(sizes, lengths, strict=True)]
    if policy == "stretch":
        return [_Axis(*line) for line in zip(lengths, sizes, ratios, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [_Axis(length, math.floor(ratio * length + 0.5), ratio) for length in lengths]


def _resized(x: Tensor, axis: int, goal: _Axis, reading: _Reading) -> Tensor:
    places = _places(goal, reading.coordinates)
    if reading.kernel is None:
        nearest = _ROUNDINGS[reading.rounding](places).clamp(0, goal.before - 1)
        return x.index_select(axis, nearest.to(x.device, torch.int64))
    weights = _weights(places, goal, reading, reading.kernel).to(x)
    return (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)


def _places(goal: _Axis, coordinates: str) -> Tensor:
    """Return where on the old axis each element of the new one is read, float64.

    They are computed in float32, as onnxruntime does: where one falls on the middle between two elements, or on the
    edge of one, the rounding decides which is the nearest.
    """
    return _narrow_places(goal, torch.tensor(goal.scale, dtype=torch.float32), coordinates).to(torch.float64)


def _narrow_places(goal: _Axis, scale: Tensor, coordinates: str) -> Tensor:
    new = torch.arange(goal.after, dtype=torch.float32)
    match coordinates:
        case "asymmetric":
            return new / scale
        case "align_corners":
            return new * (goal.before - 1) / max(1, goal.after - 1)
        case "pytorch_half_pixel" if goal.after == 1:
            return torch.zeros_like(new)
        case "half_pixel_symmetric":  # centred also where the length was rounded
            offset = goal.before / 2 * (1 - goal.after / (scale * goal.before))
            return offset + (new + 0.5) / scale - 0.5
        case _:
            return (new + 0.5) / scale - 0.5


def _weights(places: Tensor, goal: _Axis, reading: _Reading, kernel: Kernel) -> Tensor:
    """Return what each element of the new axis takes of each of the old one, (after, before), float64.

    Few of them are not zero, but a product with a matrix is simple, has its gradient, and is quick enough.
    """
    stretch = max(1.0, 1 / goal.scale) if reading.antialias else 1.0
    reach = math.ceil(reading.support * stretch)
    near = places.floor()[:, None] + torch.arange(1 - reach, reach + 1)
    shares = kernel(((near - places[:, None]) / stretch).abs())
    if reading.exclude_outside:
        shares = torch.where((near >= 0) & (near < goal.before), shares, 0)
    shares = shares / shares.sum(1, keepdim=True)
    weights = torch.zeros(goal.after, goal.before, dtype=torch.float64)
    return weights.scatter_add(1, near.clamp(0, goal.before - 1).to(torch.int64), shares)


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Return Keys' kernel (1981): a piece for distances up to 1, one up to 2, nothing beyond."""
    inner = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    outer = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, inner, torch.where(distance < 2, outer, 0))


_SAMPLINGS = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic",
              "bicubic": "bicubic"}  # fmt: skip # opset 20 renamed them


def _grid_sample(node: Node) -> Compute:
    mode = _SAMPLINGS[node.choice("mode", "linear", _SAMPLINGS)]
    padding = node.choice("padding_mode", "zeros", ("zeros", "border", "reflection"))
    aligned = node.flag("align_corners")
    return lambda x, grid: functional.grid_sample(x, grid, mode, padding, aligned)


OPERATORS = {
    ("", "Resize"): Operator(_resize, shapes=(1, 2, 3)),
    ("", "GridSample"): Operator(_grid_sample),
}
