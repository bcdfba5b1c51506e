"""Utilized rank (Garg et al. 2024, arXiv 2407.04797): the directions of a weight that its inputs and outputs use.

With rows `x`, `C` their covariance (or second moment) and `S = Wᵀ C W` that of the outputs: `k_S` is the fewest leading
eigenvectors of `C` that hold a share of its trace, `k_T` the same of `S`, the utilized rank `min(k_S, k_T)`, and
`P_S W P_T` the weight between the projections on both. `P_S` commutes with `C`, so what `P_S W P_T` loses is the sum of
`λ_i (u_iᵀ W v_j)²` over all pairs of directions that are not both kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike
from scipy import linalg

from rankfold.passes.factors import Factors, narrowed
from rankfold.passes.side_moments import SideMoments, about
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import FLOAT32_NOISE
from rankfold.projections import Losses, Projection, WeightRanks
from rankfold.values import FloatArray, read_only

STACKED = "a stack of matrices; its inputs are not looked at, so it has no utilized rank"


@dataclass(frozen=True)
class Directions:
    """The directions of a weight's inputs and outputs, each in falling order of the variance along it.

    Attributes:
        inputs, outputs: That variance, (in,) and (out,); 0 where it does not stand above the rounding of the sums.
        input_vectors, output_vectors: The directions, orthonormal columns, (in, in) and (out, out).
        energy: What the weight carries from each input direction to each output direction, (in, out); its sum is the
            trace of `S`.
        centred: Whether all of it is about the mean.
    """

    inputs: FloatArray
    outputs: FloatArray
    input_vectors: FloatArray
    output_vectors: FloatArray
    energy: FloatArray
    centred: bool

    def __post_init__(self) -> None:
        for array in (self.inputs, self.outputs, self.input_vectors, self.output_vectors, self.energy):
            read_only(array)

    def projection(self, share: float) -> Projection:
        """Return the fewest directions of either side that hold a share of its variance, in (0, 1]."""
        return Projection(fewest(self.inputs, share), fewest(self.outputs, share), self.centred)

    def losses(self, projection: Projection) -> Losses:
        """Return the shares of the output energy that the projections lose, each alone and both."""
        whole = float(self.energy.sum())
        if not whole:
            return Losses(0.0, 0.0, 0.0)
        rows, columns = projection.inputs, projection.outputs
        by_input = float(self.energy[rows:].sum())
        beside = float(self.energy[:rows, columns:].sum())
        by_output = beside + float(self.energy[rows:, columns:].sum())
        return Losses(by_input / whole, by_output / whole, (by_input + beside) / whole)


def seen_from_input(scan: Scan) -> Scan:
    """Return the sites with the moments of their inputs asked for, a convolution's those of its patches.

    They tell the outputs' too. Stacks of matrices stay as they are.
    """
    return replace(scan, sites=tuple(replace(site, side="input") if has_inputs(site) else site for site in scan.sites))


def has_inputs(site: Site) -> bool:
    """Return whether a site's inputs can be seen."""
    return all("input" in use.sides or use.window is not None for use in site.uses)


def takes_mean(site: Site) -> bool:
    """Return whether every use's bias can take up what the mean gives."""
    return all(use.centred != "never" for use in site.uses)


def directions(weight: FloatArray, moments: SideMoments, *, centred: bool) -> Directions:
    """Return the directions of a weight's inputs and outputs.

    Args:
        weight: `W`, (in, out).
        moments: Of its inputs.
        centred: Whether variances are about each use's mean, else about zero.
    """
    assert moments.of_input  # outputs do not tell the inputs
    inputs, input_vectors = _falling(moments.covariance if centred else moments.second)
    reached = np.sqrt(inputs)[:, None] * (input_vectors.T @ weight)
    outputs, output_vectors = _falling(reached.T @ reached)
    return Directions(inputs, outputs, input_vectors, output_vectors, (reached @ output_vectors) ** 2, centred)


def fewest(variances: FloatArray, share: float) -> int:
    """Return how many of the variances, which fall, are the fewest that hold a share of their sum; 0 of no variance."""
    lost = np.append(np.cumsum(variances[::-1])[::-1], 0.0)
    rounding = len(variances) * np.finfo(float).eps * lost[0]
    return int(np.argmax(lost <= (1 - share) * lost[0] + rounding))


def product(weight: FloatArray, found: Directions, projection: Projection) -> tuple[FloatArray, FloatArray]:
    """Return `P_S W P_T` as two factors of the smaller side's rank, (in, rank) and (rank, out)."""
    inputs, outputs = found.input_vectors[:, : projection.inputs], found.output_vectors[:, : projection.outputs]
    if projection.inputs <= projection.outputs:
        return inputs, inputs.T @ weight @ outputs @ outputs.T
    return inputs @ (inputs.T @ weight @ outputs), outputs.T


def projected_factors(weight: FloatArray, moments: SideMoments, projection: Projection, *, dtype: DTypeLike) -> Factors:
    """Return the factors of a projection, and what each use's bias gains: its mean passes through the whole weight."""
    found = directions(weight, moments, centred=projection.centred)
    down, up = product(weight, found, projection)
    shifts = tuple(mean @ weight - mean @ down @ up for mean in moments.means) if projection.centred else None
    return narrowed(down, up, shifts, dtype=dtype)


def measured_loss(
    weight: FloatArray, found: Directions, projection: Projection, moments: tuple[SideMoments, SideMoments]
) -> float:
    """Return the share of the output energy that both projections lose on other rows than they were made from.

    Where centred, energies are about the calibration's mean, since that is what the bias makes up for; `moments` are
    the calibration's and the others'.
    """
    calibration, other = moments
    down, up = product(weight, found, projection)
    left = weight - down @ up
    matrix = about(other, calibration.means) if found.centred else other.second
    whole = float(np.einsum("ij,ij->", weight, matrix @ weight))
    return max(float(np.einsum("ij,ij->", left, matrix @ left)) / whole, 0.0) if whole > 0 else 0.0


def weight_ranks(weight: FloatArray, *, dtype: DTypeLike) -> tuple[WeightRanks, FloatArray]:
    """Return how full of rank a weight looks, and its squared singular values over their sum, falling.

    Args:
        weight: `W`, (in, out).
        dtype: The type it is stored in; singular values below its rounding, max(in, out) · eps · the largest, are 0 to
            the numerical rank.
    """
    values = linalg.svdvals(weight)
    if not values[0]:
        return WeightRanks(0, 0.0, 0.0), np.zeros_like(values)
    rounding = max(weight.shape) * max(float(_eps(dtype)), float(np.finfo(np.float64).eps)) * values[0]
    shares = values[values > 0] / values.sum()
    energy = float((values**2).sum())
    effective = float(np.exp(-(shares * np.log(shares)).sum()))
    return WeightRanks(int((values > rounding).sum()), energy / float(values[0]) ** 2, effective), values**2 / energy


_BFLOAT16_EPS = 2.0**-7


def _eps(dtype: DTypeLike) -> float:
    kind = np.dtype(dtype)
    return float(np.finfo(kind).eps) if kind.kind == "f" else _BFLOAT16_EPS  # numpy knows no bfloat16


def _falling(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return eigenvalues, those in the rounding of float32 sums as 0, and eigenvectors with fixed signs."""
    values, vectors = linalg.eigh(matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = len(matrix) * FLOAT32_NOISE * max(float(values[0]), 0.0)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return np.where(values > noise, values, 0.0), vectors * np.where(largest < 0, -1.0, 1.0)
