"""Fitting a fold's second factor, and its bias, to what the original gives: closed forms over rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from rankfold.values import FloatArray

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges to try, relative to the mean square of the inner activations: from next to none to a half of the way back."""
ROWS_PER_DIMENSION = 10
"""Fewer rows than this per inner dimension fit their own noise: of 384 dimensions under 30 % of noise in the input, a
fit on 4 rows per dimension was worse than none, and one on 10 better."""

_ONE_ROW = 1e-9  # rows that differ by less of their energy are the same row, and rounding


@dataclass(frozen=True)
class Rows:
    """Rows of one use of a factor.

    Attributes:
        inner: What `up` multiplies, (rows, rank), times the product's alpha.
        missing: Original minus compressed model at the target, at the features that the product makes, (rows, out).
        biased: Whether a bias takes up the mean of what is missing.
    """

    inner: FloatArray
    missing: FloatArray
    biased: bool


@dataclass(frozen=True)
class Fit:
    """What changes in one factor and in the biases behind it.

    Attributes:
        change: What is added to `up`, (rank, out).
        strength: The ridge; None where only biases change.
        error: Share of the original's missing part on held-out rows that still is missing, 1 for no change.
    """

    change: FloatArray
    strength: float | None
    error: float


@dataclass
class Normal:
    """The sums that a least-squares fit needs, over the rows of several uses of one factor; it grows with each batch.

    A use whose bias takes up the mean counts centred: its own mean row is taken off at the end.
    """

    gram: list[FloatArray]
    cross: list[FloatArray]
    inner: list[FloatArray]
    missing: list[FloatArray]
    rows: list[int]
    biased: list[bool]

    @classmethod
    def empty(cls, uses: int) -> Normal:
        """Return sums over no rows."""
        nothing = np.zeros(())
        gram, cross, inner, missing = ([nothing] * uses for _ in range(4))
        return cls(gram, cross, inner, missing, [0] * uses, [False] * uses)

    def add(self, use: int, rows: Rows) -> None:
        """Add the rows of one batch of one use."""
        self.gram[use] = self.gram[use] + rows.inner.T @ rows.inner
        self.cross[use] = self.cross[use] + rows.inner.T @ rows.missing
        self.inner[use] = self.inner[use] + rows.inner.sum(axis=0)
        self.missing[use] = self.missing[use] + rows.missing.sum(axis=0)
        self.rows[use] += len(rows.inner)
        self.biased[use] = rows.biased

    def solve(self, strength: float) -> FloatArray:
        """Return the change of `up` that takes away most of what is missing, shrunk toward none.

        With `G = E[z zᵀ]`, `C = E[z eᵀ]` it is `(G + λ tr(G)/r I)⁻¹ C`, λ the strength.
        """
        gram, cross = np.zeros_like(self.gram[0]), np.zeros_like(self.cross[0])
        for use, count in enumerate(self.rows):
            gram += self.gram[use]
            cross += self.cross[use]
            if self.biased[use]:
                gram -= np.outer(self.inner[use], self.inner[use]) / count
                cross -= np.outer(self.inner[use], self.missing[use]) / count
        spread, whole = float(np.trace(gram)), sum(float(np.trace(part)) for part in self.gram)
        if spread <= _ONE_ROW * whole:
            return np.zeros_like(cross)
        ridge = strength * spread / len(gram)
        return np.asarray(linalg.solve(gram + ridge * np.eye(len(gram)), cross, assume_a="pos"))

    def shift(self, use: int, change: FloatArray) -> FloatArray:
        """Return the mean of what is missing once `up` has changed, (out,)."""
        return (self.missing[use] - self.inner[use] @ change) / self.rows[use]


def best_fits(normal: Normal, held_out: Sequence[Iterable[Rows]], strengths: Sequence[float]) -> tuple[Fit, Fit]:
    """Return the fit that leaves least missing on held-out rows, and the one that changes biases alone.

    Args:
        normal: Sums over the rows to fit on.
        held_out: Rows of each use that only judge.
        strengths: Ridges to choose from; with none the two fits are the same.
    """
    rows = [list(parts) for parts in held_out]
    still = np.zeros_like(normal.cross[0])
    biases = Fit(still, None, _left(normal, rows, still))
    fits = [biases]
    for strength in strengths:
        change = normal.solve(strength)
        fits.append(Fit(change, strength, _left(normal, rows, change)))
    return min(fits, key=lambda fit: fit.error), biases


def _left(normal: Normal, held_out: Sequence[Sequence[Rows]], change: FloatArray) -> float:
    """Return the share of what is missing that a change, with the biases that go with it, leaves on held-out rows."""
    left = whole = 0.0
    for use, parts in enumerate(held_out):
        shift = normal.shift(use, change) if normal.biased[use] else 0.0
        for rows in parts:
            left += float(((rows.missing - rows.inner @ change - shift) ** 2).sum())
            whole += float((rows.missing**2).sum())
    return left / whole if whole > 0 else 1.0
