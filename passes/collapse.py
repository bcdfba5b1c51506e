"""Neural collapse of labelled rows: how little rows vary within their classes, beside how far the classes are apart.

With `n_k` of N rows in class k, `μ_k` their mean and `μ` the mean of all: `Σ_B = Σ_k n_k/N (μ_k - μ)(μ_k - μ)ᵀ`,
`Σ_W = Σ_T - Σ_B` with `Σ_T` the population covariance of all rows. NC1 is from Papyan, Han and Donoho 2020 (arXiv
2008.08186), the total cluster variation from Zangrando et al. 2024 (arXiv 2402.03991). That classes count by their
numbers of rows, and what the total cluster variation is divided by, are choices made here: with classes of one size
the first changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from rankfold.values import FloatArray, Moments, read_only

# Activations are float32: class means that differ by less than this, relative to the root of the total variance, differ
# by rounding alone, and `Σ_B⁺` would blow that up.
_FLOAT32_ROUNDING = 6e-8


@dataclass(frozen=True)
class Classes:
    """Rows of d features by their class; sums are about `pilot`, any row near the mean.

    Attributes:
        rows: Sums over all rows.
        counts: Rows of each class, (K,).
        totals: Sum of the rows of each class, (K, d).
        pilot: The row taken off every row before it was summed, (d,).
    """

    rows: Moments
    counts: FloatArray
    totals: FloatArray
    pilot: FloatArray

    def __post_init__(self) -> None:
        for array in (self.counts, self.totals, self.pilot):
            read_only(array)


@dataclass(frozen=True)
class Collapse:
    """Collapse measures of one embedding.

    Attributes:
        classes: K, those with at least one row.
        nc1: `tr(Σ_W Σ_B⁺) / K`; None where the classes' means do not differ.
        within_share: `tr Σ_W / tr Σ_T`, in [0, 1]; None where the rows do not vary.
        within: `tr Σ_W`, the mean squared distance of a row to its class's mean, in the embedding's unit squared.
        cluster_variation: `tr Σ_W / Σ_k n_k/N ‖μ_k‖²`: total cluster variation relative to the class means, the means
            taken about zero; None where they are all 0.
        between: Eigenvalues of `Σ_B` above rounding, falling, at most K - 1.
    """

    classes: int
    nc1: float | None
    within_share: float | None
    within: float
    cluster_variation: float | None
    between: tuple[float, ...]


def collapse_measures(classes: Classes) -> Collapse:
    """Return the measures of rows by their class."""
    there = classes.counts > 0
    counts = classes.counts[there]
    about_pilot = classes.totals[there] / counts[:, None]
    weights = counts / classes.rows.count
    covariance = classes.rows.covariance
    total = max(float(np.trace(covariance)), 0.0)
    # (K, d) with Σ_B = Mᵀ M: a thin SVD is exact where the (d, d) matrix would square its rounding.
    scaled = np.sqrt(weights)[:, None] * (about_pilot - classes.rows.mean)
    _, singular, directions = linalg.svd(scaled, full_matrices=False)
    apart = singular > _FLOAT32_ROUNDING * np.sqrt(total)
    spectrum = singular[apart] ** 2
    within = max(total - float((singular**2).sum()), 0.0)
    along = np.einsum("id,de,ie->i", directions[apart], covariance, directions[apart], optimize=True) - spectrum
    energy = float(weights @ ((about_pilot + classes.pilot) ** 2).sum(axis=1))
    return Collapse(
        classes=len(counts),
        nc1=float((np.maximum(along, 0.0) / spectrum).sum()) / len(counts) if len(spectrum) else None,
        within_share=within / total if total > 0 else None,
        within=within,
        cluster_variation=within / energy if energy > 0 else None,
        between=tuple(map(float, spectrum)),
    )
