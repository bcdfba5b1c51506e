"""The best low-rank replacement of a weight, from the moments of its input or of its output.

`min rank(W') ≤ r of E‖x (W - W')‖²` is solved by `W' = W V_r V_rᵀ` with `V_r` the top-r eigenvectors of
`S = Wᵀ C W`, and what it loses is the sum of the discarded eigenvalues (Eckart-Young on `C^½ W`). Centred, `C` is the
covariance and the bias takes up the mean: `b' = b + (E[y] - b)(I - V_r V_rᵀ)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from rankfold.passes.side_moments import SideMoments, about
from rankfold.values import FloatArray, read_only

FEW_ROWS = 1  # rows per feature below which the second moment is rank-deficient, and damped
# A relative floor under the input's eigenvalues. With dead features `C` is singular, and its eigenbasis alone leaves
# out directions that calibration never saw: at full rank the fold would not be the identity. With the floor those
# directions come last, ordered by the weight itself. Its square root stays far above float64's rounding.
_FLOOR = 1e-13
# Sums of one batch are made in float32; eigenvalues below about d · 6e-8 · the largest are its rounding.
FLOAT32_NOISE = 6e-8


@dataclass(frozen=True)
class Spectrum:
    """The basis of one site, in falling order of the output energy that each direction carries.

    Attributes:
        values: Energy per direction, ≥ 0, (k,), k = min(in, out); about the mean where centred. Falling, but where
            damping put directions in another order.
        vectors: Columns `V`, (out, k): `z` becomes `z duals_r V_rᵀ`. Orthonormal without a metric, each with its
            largest component positive; (blocks, out, k) for a stack of matrices.
        means: E[x W] of each use, (out,); zeros where not centred.
        centred: Whether the mean was taken out.
        damping: λ added to the input's second moment; 0 where rows sufficed.
        rows: Number of calibration rows.
        skew: Under a metric, the columns that read the outputs' coordinates along `vectors`, (out, k); None where
            these are `vectors` themselves.
    """

    values: FloatArray
    vectors: FloatArray
    means: tuple[FloatArray, ...]
    centred: bool
    damping: float
    rows: float
    skew: FloatArray | None = None

    def __post_init__(self) -> None:
        for array in (self.values, self.vectors, *self.means, *([] if self.skew is None else [self.skew])):
            read_only(array)

    @property
    def duals(self) -> FloatArray:
        """Return the columns that read the coordinates along `vectors`, (out, k); `vectorsᵀ duals` is the identity."""
        return self.vectors if self.skew is None else self.skew

    @property
    def without_vectors(self) -> Spectrum:
        """Return what is known of the basis but its vectors."""
        empty = np.empty((*self.vectors.shape[:-1], 0))
        return replace(self, vectors=empty, skew=None if self.skew is None else empty.copy())

    @property
    def energy(self) -> float:
        """Return the whole output energy per row."""
        return float(self.values.sum())

    @property
    def numerical_rank(self) -> int:
        """Return how many directions stand above the rounding of the sums; nothing below is known to be lossless."""
        if not self.energy:
            return 0
        return int((self.values > self.vectors.shape[-2] * FLOAT32_NOISE * self.values.max()).sum())

    def tails(self) -> FloatArray:
        """Return the share of the energy that each rank 0..k loses, (k + 1,), falling from 1 to 0."""
        lost = np.concatenate([np.cumsum(self.values[::-1])[::-1], [0.0]])
        return lost / self.energy if self.energy else np.zeros_like(lost)


def spectrum(weight: FloatArray, moments: SideMoments, *, centred: bool) -> Spectrum:
    """Return the basis of one site.

    Args:
        weight: `W`, (in, out).
        moments: Of its calibration rows.
        centred: Whether the mean is taken out, to be made up for by the bias.
    """
    matrix = moments.covariance if centred else moments.second
    features = len(matrix)
    trace = max(float(np.trace(matrix)), 0.0)  # rounding can leave it below 0 where the rows do not vary
    shrink = _shrinkage(matrix, moments.count) if moments.count < FEW_ROWS * features else 0.0
    ratio = shrink / (1 - shrink)
    if moments.of_input:
        damping = ratio * trace / features
        values, vectors = _from_input(weight, matrix, damping)
    else:
        damping = ratio * trace / max(float((weight**2).sum()), np.finfo(float).tiny)
        values, vectors = _from_output(weight, matrix, damping)
    if damping:  # it shapes the basis; what each direction carries is still what the rows say
        values = _carried(weight, vectors, matrix, of_input=moments.of_input)
    means = moments.product_means(weight)
    return Spectrum(
        values=np.maximum(values, 0.0),
        vectors=_with_fixed_signs(vectors),
        means=means if centred else tuple(np.zeros_like(mean) for mean in means),
        centred=centred,
        damping=damping,
        rows=moments.count,
    )


def stacked(parts: Sequence[Spectrum]) -> Spectrum:
    """Return the bases of stacked matrices as one: each keeps its own directions, and all keep as many."""
    return Spectrum(
        values=np.sum([part.values for part in parts], axis=0),
        vectors=np.stack([part.vectors for part in parts]),
        means=(),
        centred=False,
        damping=max(part.damping for part in parts),
        rows=min(part.rows for part in parts),
    )


def measured_tails(weight: FloatArray, basis: Spectrum, calibration: SideMoments, other: SideMoments) -> FloatArray:
    """Return the share of the output energy that each rank 0..k loses on other rows than the basis was made from.

    The energy is taken about the calibration's mean where the basis is centred, since that is what the bias makes up
    for. Shape (k + 1,).
    """
    means = calibration.means if basis.centred else None
    lost, whole = lost_energy(weight, basis.duals, means, other, complete=basis.skew is not None)
    return np.clip(lost / whole, 0.0, None) if whole > 0 else np.zeros_like(lost)


def lost_energy(
    weight: FloatArray,
    vectors: FloatArray,
    means: tuple[FloatArray, ...] | None,
    other: SideMoments,
    *,
    complete: bool = False,
) -> tuple[FloatArray, float]:
    """Return the output energy that each rank 0..k loses, (k + 1,), and the whole, about `means` or about zero.

    Where the columns are `complete`, all energy lies along them, as it does in a metric.
    """
    matrix = other.second if means is None else about(other, means)
    carried = _carried(weight, vectors, matrix, of_input=other.of_input)
    if complete:
        return np.append(np.cumsum(carried[::-1])[::-1], 0.0), float(carried.sum())
    whole = float(np.einsum("ij,ij->", weight, matrix @ weight) if other.of_input else np.trace(matrix))
    return whole - np.concatenate([[0.0], np.cumsum(carried)]), whole


def _carried(weight: FloatArray, vectors: FloatArray, matrix: FloatArray, *, of_input: bool) -> FloatArray:
    """Return the output energy along each column of `vectors` (out, k), by a second moment of either side, (k,)."""
    projected = weight @ vectors if of_input else vectors
    energy: FloatArray = np.einsum("ij,ij->j", projected, matrix @ projected)
    return energy


def _from_input(weight: FloatArray, matrix: FloatArray, damping: float) -> tuple[FloatArray, FloatArray]:
    """Return squared singular values and right singular vectors of the thin SVD of `Λ^½ Uᵀ W`.

    A wide `W` is first written as `L Qᵀ` with orthonormal `Q` (out, in): the vectors then span `W`'s row space to
    rounding, however small the singular values become.
    """
    values, basis = linalg.eigh(matrix)
    top = float(values[-1])
    floor = _FLOOR * top if top > 0 else 1.0
    scale = np.sqrt(np.maximum(values, 0.0) + damping + floor)[:, None]
    if weight.shape[0] < weight.shape[1]:
        rows, lower = linalg.qr(weight.T, mode="economic")
        _, singular, right = linalg.svd(scale * (basis.T @ lower.T))
        vectors = rows @ right.T
    else:
        _, singular, right = linalg.svd(scale * (basis.T @ weight), full_matrices=False)
        vectors = right.T
    return singular**2 if top > 0 else np.zeros_like(singular), vectors


def _from_output(weight: FloatArray, matrix: FloatArray, damping: float) -> tuple[FloatArray, FloatArray]:
    """Return eigenvalues and eigenvectors of the output's moment; where `W` is wide, within its row space."""
    damped = matrix + damping * (weight.T @ weight) if damping else matrix
    if weight.shape[0] >= weight.shape[1]:
        values, vectors = linalg.eigh(damped)
        return values[::-1], vectors[:, ::-1]
    rows, _ = linalg.qr(weight.T, mode="economic")
    values, inner = linalg.eigh(rows.T @ damped @ rows)
    return values[::-1], rows @ inner[:, ::-1]


def _with_fixed_signs(vectors: FloatArray) -> FloatArray:
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def _shrinkage(matrix: FloatArray, rows: float) -> float:
    """Return the share by which a covariance of few rows is drawn toward a multiple of the identity, in [0, 1).

    The oracle-approximating estimate of Chen, Wiesel, Eldar and Hero (2010), IEEE TSP 58(10), equation 23.
    """
    features = len(matrix)
    square, trace = float((matrix**2).sum()), float(np.trace(matrix)) ** 2
    below = (rows + 1 - 2 / features) * (square - trace / features)
    share = ((1 - 2 / features) * square + trace) / below if below > 0 else 1.0
    return min(share, 0.99)
