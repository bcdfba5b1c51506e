"""How far the matrices and kernels of a trained network are from low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 0.99  # of a matrix's energy, whose fewest directions are counted


@dataclass(frozen=True)
class WeightRank:
    """The ranks of one matrix W (out_features, in_features); a kernel's input channels and places are one axis.

    With its singular values σ:

    Attributes:
        layer: Its name in the network, without `.weight`.
        out_features, in_features: Its extents.
        stable_rank: `Σσ²/σ₁²`.
        effective_rank: `exp(-Σ p ln p)`, `p = σ/Σσ` (Roy and Vetterli 2007).
        share_rank: The fewest directions that hold `SHARE` of Σσ².
        distance_to_classes: The distance to the nearest matrix of rank K, the number of classes, relative to W:
            `√(Σ_{i>K} σ_i² / Σσ²)`, Frobenius norms (Zangrando et al. 2024, arXiv 2402.03991, of W itself).
    """

    layer: str
    out_features: int
    in_features: int
    stable_rank: float
    effective_rank: float
    share_rank: int
    distance_to_classes: float


def weight_ranks(state: Mapping[str, Tensor], classes: int) -> tuple[WeightRank, ...]:
    """Return the ranks of all matrices and kernels of a state dict, in its order: entries `….weight` of two axes on."""
    return tuple(
        _ranks(name.removesuffix(".weight"), weight.flatten(1).double(), classes)
        for name, weight in state.items()
        if name.endswith(".weight") and weight.ndim >= 2
    )


def _ranks(layer: str, matrix: Tensor, classes: int) -> WeightRank:
    singular = torch.linalg.svdvals(matrix)
    energies = singular.square()
    total = float(energies.sum())
    if total == 0:
        return WeightRank(layer, matrix.shape[0], matrix.shape[1], 0.0, 0.0, 0, 0.0)
    shares = energies / total
    kept = torch.cumsum(shares, 0)
    return WeightRank(
        layer=layer,
        out_features=matrix.shape[0],
        in_features=matrix.shape[1],
        stable_rank=total / float(energies[0]),
        effective_rank=float(torch.special.entr(singular / singular.sum()).sum().exp()),
        share_rank=min(len(kept), int((kept < SHARE).sum()) + 1),
        distance_to_classes=float(shares[classes:].sum()) ** 0.5,
    )
