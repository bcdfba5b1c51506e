"""Balls about samples, by the largest change of a value or by the length of the change, within valid values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Room:
    """Where examples may lie, in the input's own units; arrays broadcast against a batch of it.

    Attributes:
        low, high: The bounds of valid values.
        unit: How much of the input a radius of 1 stands for.
    """

    low: FloatArray
    high: FloatArray
    unit: FloatArray


@dataclass(frozen=True)
class Limits:
    """A room as tensors, its bounds made wide enough for the samples themselves."""

    low: Tensor
    high: Tensor
    unit: Tensor


@dataclass(frozen=True)
class Ball:
    """The points within a radius about each sample that are valid values too."""

    origin: Tensor
    radius: float
    limits: Limits
    norm: Norm

    def scattered(self, random: np.random.Generator) -> Tensor:
        """Return a point of each sample's ball, evenly drawn before it is held within the limits."""
        shape = tuple(self.origin.shape)
        if self.norm == "linf":
            drawn = random.uniform(-1.0, 1.0, size=shape)
        else:
            # The first d of d + 2 coordinates of an even point of a sphere are an even point of the ball in d
            # dimensions (Voelker et al. 2017, "Efficiently sampling vectors and coordinates from the n-sphere").
            normal = random.standard_normal((shape[0], int(np.prod(shape[1:])) + 2))
            drawn = (normal / np.linalg.norm(normal, axis=1, keepdims=True))[:, :-2].reshape(shape)
        offset = torch.from_numpy(drawn).to(self.origin.device, self.origin.dtype)
        return self.held(self.origin + self.radius * offset * self.limits.unit)

    def stride(self, gradient: Tensor, share: float) -> Tensor:
        """Return the step of a share of the radius that raises a linear loss most; 0 where the gradient is 0."""
        unit = self.limits.unit
        if self.norm == "linf":
            return share * self.radius * gradient.sign() * unit
        inner = gradient * unit  # by the coordinates that the ball is round in
        return share * self.radius * inner / _lengths(inner).clamp_min(_tiny(inner)) * unit

    def held(self, point: Tensor) -> Tensor:
        """Return the nearest point of the ball, then of the limits.

        The second never leads out of the ball: every coordinate comes nearer to the sample's own.
        """
        change, reach = point - self.origin, self.radius * self.limits.unit
        if self.norm == "linf":
            change = torch.minimum(torch.maximum(change, -reach), reach)
        else:
            change = change * (self.radius / _lengths(change / self.limits.unit).clamp_min(_tiny(change))).clamp_max(
                1.0
            )
        return torch.minimum(torch.maximum(self.origin + change, self.limits.low), self.limits.high)


def ball_about(origin: Tensor, radius: float, room: Room, *, norm: Norm) -> Ball:
    """Return the ball about each sample of a batch; its limits are a room's, made wide enough for the samples."""
    low, high, unit = (
        torch.from_numpy(np.array(part)).to(origin.device, origin.dtype) for part in (room.low, room.high, room.unit)
    )
    return Ball(origin, radius, Limits(torch.minimum(low, origin), torch.maximum(high, origin), unit), norm)


def _lengths(changes: Tensor) -> Tensor:
    """Return each sample's L2 norm, in a shape that broadcasts against the batch; safe from underflow in squares."""
    flat = changes.flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp_min(_tiny(flat))
    lengths: Tensor = largest * torch.linalg.vector_norm(flat / largest, dim=1, keepdim=True)
    return lengths.reshape(-1, *(1,) * (changes.ndim - 1))


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny
