"""The numbers of a fold: two factors for a weight, and the bias that takes up the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rankfold.passes.spectrum import Spectrum
from rankfold.values import FloatArray


@dataclass(frozen=True)
class Factors:
    """What stands for one weight `W`: `x @ down @ up + bias`.

    Attributes:
        down: (in, rank), in the weight's dtype.
        up: (rank, out), in the weight's dtype.
        shifts: What each use's bias gains, (out,) float64, in the units of `x W`; None where nothing is to be added.
    """

    down: NDArray[np.generic]
    up: NDArray[np.generic]
    shifts: tuple[FloatArray, ...] | None

    @property
    def rank(self) -> int:
        """Return the inner extent."""
        return int(self.down.shape[1])


def factorise(weight: FloatArray, basis: Spectrum, rank: int, *, dtype: DTypeLike) -> Factors:
    """Return `down = W V_r`, `up = V_rᵀ`, and the shifts `E[x W] (I - V_r V_rᵀ)`.

    Args:
        weight: `W`, (in, out) float64.
        basis: The site's spectrum.
        rank: How many directions to keep, 1 to min(in, out).
        dtype: What the factors are narrowed to.
    """
    kept = basis.vectors[:, :rank]
    down, up = (weight @ kept).astype(dtype), np.ascontiguousarray(kept.T).astype(dtype)
    shifts = tuple(mean - kept @ (kept.T @ mean) for mean in basis.means) if basis.centred else None
    return Factors(np.ascontiguousarray(down), up, shifts)
