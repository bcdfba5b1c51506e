"""How many directions rows or a weight use: rank by share of variance, stable rank, effective rank, distance to a rank.

All go by a spectrum of squared singular values `λ`: of the centred rows, divided by their number (the eigenvalues of
their population covariance), or of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from rankfold.values import FloatArray, Moments

SHARES = (0.9, 0.95, 0.99, 0.999)
# An eigenvalue of a symmetric (d, d) matrix of sums in float64 is known to about d · eps · the largest.
_ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class RankMeasures:
    """Measures of one spectrum `λ_1 ≥ … ≥ λ_d ≥ 0`; all are 0 where the spectrum is.

    Attributes:
        dimension: d, the most that any of them can be.
        share_ranks: Share of `Σ λ` to the fewest leading directions that hold it.
        stable: `Σ λ / λ_1`, the stable rank `‖X‖_F² / ‖X‖_2²` (Rudelson and Vershynin 2007).
        effective: `exp(-Σ p ln p)` with `p = σ / Σ σ`, `σ = √λ` (Roy and Vetterli 2007).
    """

    dimension: int
    share_ranks: dict[float, int]
    stable: float
    effective: float


def covariance_spectrum(moments: Moments) -> FloatArray:
    """Return the eigenvalues of the population covariance of rows, (d,), falling; what is rounding is 0."""
    return without_rounding(linalg.eigvalsh(moments.covariance)[::-1])


def without_rounding(spectrum: FloatArray) -> FloatArray:
    """Return a falling spectrum (d,) with 0 for what does not stand above float64's rounding of its largest value."""
    if not len(spectrum):
        return spectrum
    return np.where(spectrum > len(spectrum) * _ROUNDING * max(spectrum[0], 0.0), spectrum, 0.0)


def rank_measures(spectrum: FloatArray, *, shares: Sequence[float] = SHARES) -> RankMeasures:
    """Return the measures of a spectrum of squared singular values, (d,), falling and ≥ 0.

    Args:
        spectrum: The values.
        shares: For the ranks by share of variance, each in (0, 1].
    """
    whole = float(spectrum.sum())
    if not whole > 0:
        return RankMeasures(len(spectrum), dict.fromkeys(shares, 0), 0.0, 0.0)
    part = spectrum[spectrum > 0] / whole
    singular = np.sqrt(part) / np.sqrt(part).sum()
    return RankMeasures(
        dimension=len(spectrum),
        share_ranks={share: _share_rank(part, share) for share in shares},
        stable=whole / float(spectrum[0]),
        effective=math.exp(-float(singular @ np.log(singular))),
    )


def distance_to_rank(singular: FloatArray, rank: int) -> float:
    """Return `√(Σ_{i > rank} σ_i²)`, the Frobenius distance to the nearest matrix of that rank (Eckart-Young).

    Args:
        singular: Singular values, falling, (k,); (blocks, k) for a stack, of which each matrix gets that rank.
        rank: The rank, 0 or more.
    """
    return float(np.linalg.norm(singular[..., rank:]))


def _share_rank(part: FloatArray, share: float) -> int:
    """Return how many of the shares `part`, falling, hold `share` of their sum, but for rounding."""
    left = np.append(np.cumsum(part[::-1])[::-1][1:], 0.0)
    return int(np.argmax(left <= 1 - share + len(part) * _ROUNDING)) + 1
