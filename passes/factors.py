"""The numbers of a fold: two factors for a weight, and the bias that takes up the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import linalg

from rankfold.passes.pivots import Pivots, orthonormal
from rankfold.passes.spectrum import Spectrum
from rankfold.values import FloatArray


@dataclass(frozen=True)
class Factors:
    """What stands for one weight `W`: `x @ down @ up + bias`, or the pivoted form of that.

    Pivots of the output: `z = x @ down` are its pivot features, `z @ up` the others. Pivots of the input:
    `z = x[pivots] + x[others] @ down`, and `z @ up` is the product.

    Attributes:
        down: (in, rank), in the dtype that factors are stored in; (blocks, in, rank) for a stack; (in - rank, rank)
            with pivots of the input.
        up: (rank, out), likewise; (rank, out - rank) with pivots of the output.
        shifts: What each use's bias gains, (out,) float64, in the units of `x W`; None where nothing is to be added.
        pivots: Those of the pivoted form; None for a pair.
    """

    down: NDArray[np.generic]
    up: NDArray[np.generic]
    shifts: tuple[FloatArray, ...] | None
    pivots: Pivots | None = None

    @property
    def rank(self) -> int:
        """Return the inner extent."""
        return int(self.down.shape[-1])

    def parted(self, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what goes to the output's pivots and to its others, where the pivots' part goes through `up` too."""
        assert self.pivots is not None
        first = bias[self.pivots.chosen]
        return first, bias[self.pivots.others] - first @ self.up.astype(np.float64)

    def product(self, rows: FloatArray) -> FloatArray:
        """Return what stands for `x W` of rows (n, in), worked out in float64 from the factors as stored, (n, out)."""
        down, up = self.down.astype(np.float64), self.up.astype(np.float64)
        if self.pivots is None:
            return rows @ down @ up
        if self.pivots.side == "input":
            return (rows[:, self.pivots.chosen] + rows[:, self.pivots.others] @ down) @ up
        inner = rows @ down
        return np.concatenate([inner, inner @ up], axis=1)[:, self.pivots.order]


def factorise(
    weight: FloatArray, basis: Spectrum, rank: int, *, dtype: DTypeLike, pivots: Pivots | None = None
) -> Factors:
    """Return `down = W D_r`, `up = V_rᵀ`, and the shifts `E[x W] (I - D_r V_rᵀ)`; `D` are the duals of `V`, or `V`.

    Args:
        weight: `W`, (in, out) float64, or (blocks, in, out).
        basis: The site's spectrum.
        rank: How many directions to keep, 1 to min(in, out).
        dtype: What the factors are narrowed to.
        pivots: Of that rank, for the pivoted form.
    """
    kept, duals = basis.vectors[..., :rank], basis.duals[..., :rank]
    shifts = tuple(mean - kept @ (duals.T @ mean) for mean in basis.means) if basis.centred else None
    exact = weight @ duals
    if pivots is not None:
        down, up = _pivoted(exact, kept, pivots)
        return Factors(np.ascontiguousarray(down.astype(dtype)), np.ascontiguousarray(up.astype(dtype)), shifts, pivots)
    return narrowed(exact, kept.swapaxes(-1, -2), shifts, dtype=dtype)


def narrowed(down: FloatArray, up: FloatArray, shifts: tuple[FloatArray, ...] | None, *, dtype: DTypeLike) -> Factors:
    """Return a pair in the type it is stored in."""
    scale = _balance(down) / _balance(up) if np.dtype(dtype) == np.float16 else 1.0
    narrow = [np.ascontiguousarray(part).astype(dtype) for part in (down / scale, up * scale)]
    return Factors(narrow[0], narrow[1], shifts)


def _pivoted(exact: FloatArray, kept: FloatArray, pivots: Pivots) -> tuple[FloatArray, FloatArray]:
    """Return the two factors of `exact keptᵀ` without the identity.

    Solved are systems of orthonormal columns' rows, not of `exact`'s own: a weight that hardly reaches some of its
    directions makes those no worse.
    """
    chosen, others = pivots.chosen, pivots.others
    if pivots.side == "output":
        span = orthonormal(kept)
        return exact @ kept[chosen].T, linalg.solve(span[chosen].T, span[others].T)
    span = orthonormal(exact)
    return linalg.solve(span[chosen].T, span[others].T).T, exact[chosen] @ kept.T


# float16 ends at 65504. The products of a weight's rows may be larger than the weight, so what exceeds this goes from
# one factor to the other, whose entries are at most 1.
_LARGEST_HALF = 1024.0


def _balance(factor: FloatArray) -> float:
    """Return the power of two that brings a factor into float16's range, 1 where it is there."""
    largest = float(np.abs(factor).max(initial=0.0))
    return 1.0 if largest <= _LARGEST_HALF else 2.0 ** np.ceil(np.log2(largest / _LARGEST_HALF))
