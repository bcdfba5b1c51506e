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
        down: (in, rank), in the dtype that factors are stored in; (blocks, in, rank) for a stack.
        up: (rank, out), likewise.
        shifts: What each use's bias gains, (out,) float64, in the units of `x W`; None where nothing is to be added.
    """

    down: NDArray[np.generic]
    up: NDArray[np.generic]
    shifts: tuple[FloatArray, ...] | None

    @property
    def rank(self) -> int:
        """Return the inner extent."""
        return int(self.down.shape[-1])


def factorise(weight: FloatArray, basis: Spectrum, rank: int, *, dtype: DTypeLike) -> Factors:
    """Return `down = W V_r`, `up = V_rᵀ`, and the shifts `E[x W] (I - V_r V_rᵀ)`.

    Args:
        weight: `W`, (in, out) float64, or (blocks, in, out).
        basis: The site's spectrum.
        rank: How many directions to keep, 1 to min(in, out).
        dtype: What the factors are narrowed to.
    """
    kept = basis.vectors[..., :rank]
    exact = weight @ kept
    scale = _balance(exact) if np.dtype(dtype) == np.float16 else 1.0
    down, up = (exact / scale).astype(dtype), np.ascontiguousarray(kept.swapaxes(-1, -2) * scale).astype(dtype)
    shifts = tuple(mean - kept @ (kept.T @ mean) for mean in basis.means) if basis.centred else None
    return Factors(np.ascontiguousarray(down), up, shifts)


# float16 ends at 65504. The products of a weight's rows may be larger than the weight, so what exceeds this goes from
# `down` to `up`, whose entries are at most 1.
_LARGEST_HALF = 1024.0


def _balance(down: FloatArray) -> float:
    """Return the power of two that brings `down` into float16's range, 1 where it is there."""
    largest = float(np.abs(down).max(initial=0.0))
    return 1.0 if largest <= _LARGEST_HALF else 2.0 ** np.ceil(np.log2(largest / _LARGEST_HALF))
