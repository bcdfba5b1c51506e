"""What an attacker may do: which attacks, how far an example may lie from its sample, and what values are valid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.options import is_number
from rankfold.values import FloatArray

Array = NDArray[np.generic]
AttackName = Literal["fgsm", "pgd"]
Norm = Literal["linf", "l2"]

# Radii by default, as shares of the range of valid values: what is usual for images of 8 bits. Under the L2 norm times
# the root of the number of values: the length of a change by that much everywhere.
DEFAULT_SHARES = (2 / 255, 4 / 255, 8 / 255, 16 / 255)
# All steps together lead 2.5 times as far as the radius (Madry et al. 2018, section 5): from any start to any end of
# the ball, with room to turn.
_WAY = 2.5
_ROUNDING = 1e-5  # of the range: how far float32 values may lie outside of bounds that were computed elsewhere


@dataclass(frozen=True)
class Threat:
    """What an attacker may do. Radii and bounds are in units before normalisation; without one, the input's own.

    Attributes:
        attacks: `fgsm`: one step along the gradient; `pgd`: several, from random starts, projected back to the ball.
        norm: `linf`: each value changes by at most ε; `l2`: the length of the change is at most ε.
        eps: The radii; empty for four shares of the range of valid values.
        steps: Of each walk of `pgd`.
        step_size: Of `pgd`, as a share of ε; None: all steps together lead 2.5 times as far as ε.
        restarts: Walks of `pgd` per sample.
        clip: Lowest and highest valid value; None takes those that the samples hold.
        mean, std: How the input was normalised, (value - mean) / std: one number, or one per channel (axis 1).
        input: The input that is changed; None where it is the only one of floats.
        output: The output of class scores; None where only one looks like that.
        samples: How many samples are attacked at most, the first ones; None for all.
    """

    attacks: tuple[AttackName, ...] = ("fgsm", "pgd")
    norm: Norm = "linf"
    eps: tuple[float, ...] = ()
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    clip: tuple[float, float] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    input: str | None = None
    output: str | None = None
    samples: int | None = None

    @property
    def share(self) -> float:
        """Return the length of a step of `pgd` as a share of ε."""
        return _WAY / self.steps if self.step_size is None else self.step_size


@dataclass(frozen=True)
class Bounds:
    """Valid values and radii, before normalisation.

    Attributes:
        low, high: The valid values.
        observed: Whether they are those that the samples hold.
        eps: The radii, from the smallest on.
    """

    low: float
    high: float
    observed: bool
    eps: tuple[float, ...]


def check_threat(threat: Threat) -> None:
    """Check what an attacker may do by itself, before any work.

    Raises:
        OptionsError: Something makes no sense.
    """
    counts = {
        "steps": threat.steps,
        "restarts": threat.restarts,
        "samples": 1 if threat.samples is None else threat.samples,
    }
    lengths = () if threat.step_size is None else (threat.step_size,)
    clip = threat.clip or (0.0, 1.0)
    known, norms = get_args(AttackName), get_args(Norm)
    _demand("attacks", threat.attacks, bool(threat.attacks) and set(threat.attacks) <= set(known), " or ".join(known))
    _demand("norm", threat.norm, threat.norm in norms, " or ".join(norms))
    _demand("eps", threat.eps, all(_is_finite(part) and part >= 0 for part in threat.eps), "finite numbers from 0 on")
    for name, value in counts.items():
        _demand(name, value, _is_count(value), "a whole number from 1 on")
    _demand("step_size", threat.step_size, all(map(_is_positive, lengths)), "a finite number above 0, a share of ε")
    _demand("clip", clip, len(clip) == 2 and all(map(_is_finite, clip)), "two finite numbers")
    _demand("clip", clip, clip[0] < clip[1], "a lowest valid value below the highest")
    _demand("mean", threat.mean, bool(threat.mean) and all(map(_is_finite, threat.mean)), "finite numbers")
    _demand("std", threat.std, bool(threat.std) and all(map(_is_positive, threat.std)), "finite numbers above 0")


def per_channel(numbers: tuple[float, ...], shape: tuple[int, ...], name: str) -> FloatArray:
    """Return one number, or one per channel (axis 1), in a shape that broadcasts against a batch of this shape.

    Raises:
        OptionsError: There are as many numbers as neither one nor the channels.
    """
    channels = shape[1] if len(shape) > 1 else 1
    if len(numbers) not in (1, channels):
        raise OptionsError(
            f"{name} has {len(numbers)} numbers for an input of shape {list(shape)}; give one, or one for each of its"
            f" {channels} channels"
        )
    return np.asarray(numbers, np.float64).reshape((-1,) if len(shape) < 2 else (1, -1, *(1,) * (len(shape) - 2)))


def room_of(
    threat: Threat, clip: tuple[float, float], shape: tuple[int, ...]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the lowest and highest valid values and what a radius of 1 stands for, in the input's own units.

    Args:
        threat: How the input was normalised.
        clip: The valid values before that.
        shape: Of a batch of the input, which the arrays broadcast against.
    """
    mean, std = per_channel(threat.mean, shape, "mean"), per_channel(threat.std, shape, "std")
    return (clip[0] - mean) / std, (clip[1] - mean) / std, 1.0 / std


def bounds_of(threat: Threat, extremes: tuple[float, float], values: int, where: str) -> Bounds:
    """Return the bounds and radii for samples whose extremes, before normalisation, are known.

    Args:
        threat: What an attacker may do.
        extremes: The lowest and the highest value of all samples.
        values: How many one sample has.
        where: The data and its input, for messages.

    Raises:
        CalibrationDataError: Samples lie outside of the bounds stated, or show none.
    """
    lowest, highest = extremes
    low, high = threat.clip or extremes
    if not low < high:
        raise CalibrationDataError(f"{where}: all values are {low:g}, which tells no range of valid values; state it")
    slack = _ROUNDING * (high - low)
    if lowest < low - slack or highest > high + slack:
        raise CalibrationDataError(
            f"{where}: values run from {lowest:g} to {highest:g}, outside of the valid {low:g} to {high:g}; give the"
            " range of the data, in units before normalisation where mean and std are given"
        )
    reach = (high - low) * (math.sqrt(values) if threat.norm == "l2" else 1.0)
    radii = threat.eps or tuple(share * reach for share in DEFAULT_SHARES)
    return Bounds(low, high, threat.clip is None, tuple(sorted({float(radius) for radius in radii})))


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(float(value))  # type: ignore[arg-type]


def _is_positive(value: object) -> bool:
    return _is_finite(value) and float(value) > 0  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _demand(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise OptionsError(f"option {name} is {value!r}; expected {expected}")
