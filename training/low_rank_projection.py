"""Projections on the leading directions of activations, renewed batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["exact", "randomized", "nystrom"]
Rows = Literal["positions", "samples"]

OVERSAMPLING = (
    8  # directions beyond the rank that are looked for, and kept between batches: Halko et al. advise 5 to 10
)
_POWERS = 2  # multiplications with B Bᵀ that draw the random range toward the leading directions


@dataclass(frozen=True)
class Projection:
    """The leading directions of the rows seen so far.

    Attributes:
        basis: (features, rank), orthonormal columns.
        mean: (features,), what is taken off each row first: zeros where rows are not centred.
        carried: (rank + `OVERSAMPLING` or fewer, features): `carriedᵀ @ carried` is the leading part of the running
            second moment about the mean, so that no (features, features) matrix is ever formed.
        scale: (), the mean squared norm of the first batch's rows about their mean.
        renewals: Batches that went into it.
    """

    basis: Tensor
    mean: Tensor
    carried: Tensor
    scale: Tensor
    renewals: int


@dataclass(frozen=True)
class Renewal:
    """How a projection is renewed.

    Attributes:
        rank: Columns of the basis.
        method: `exact`: a singular value decomposition; `randomized`: after Halko, Martinsson and Tropp 2011;
            `nystrom`: from sampled columns of the second moment.
        centred: Whether rows are taken about their mean.
        memory: Weight of what was before, from 0 (the newest batch alone) to below 1.
        seed: Of random directions and sampled columns.
    """

    rank: int
    method: Method
    centred: bool
    memory: float
    seed: int


def as_rows(activation: Tensor, rows: Rows) -> Tensor:
    """Return an activation as rows (count, features), float32 or wider.

    `positions`: axis 1 holds the features where there are four axes or more, as convolutions have it, else the last
    one; each place of each sample is a row. `samples`: all numbers of a sample are one row.
    """
    wide = activation if activation.dtype == torch.float64 else activation.float()
    if rows == "samples":
        return wide.flatten(1)
    return (wide.movedim(1, -1) if wide.ndim >= 4 else wide).flatten(0, -2)


@torch.no_grad()
def renewed(before: Projection | None, rows: Tensor, how: Renewal) -> Projection:
    """Return a projection that knows one batch of rows (count, features) more.

    With ρ = `memory`, mean μ and second moment S about it become those of a mixture of ρ parts of what was before and
    1-ρ of the batch: `μ' = ρ μ + (1-ρ) m`, `S' = ρ S + (1-ρ) S_batch + ρ (1-ρ) (m-μ)(m-μ)ᵀ`; the last term is that of
    centred rows alone. All are rows of one matrix B with `S' = Bᵀ B`, whose right singular vectors are looked for.
    The first batch stands for itself.
    """
    mean = rows.mean(0) if how.centred else rows.new_zeros(rows.shape[1])
    stacked = (rows - mean) / len(rows) ** 0.5
    scale = stacked.square().sum()
    renewals = 0
    if before is not None:
        kept, step, scale = how.memory, mean - before.mean, before.scale
        between = (kept * (1 - kept)) ** 0.5 * step[None]
        stacked = torch.cat([kept**0.5 * before.carried, (1 - kept) ** 0.5 * stacked, between])
        mean, renewals = before.mean + (1 - kept) * step, before.renewals
    generator = torch.Generator().manual_seed(how.seed + renewals)
    values, directions = leading_directions(stacked, how.rank + OVERSAMPLING, how.method, generator)
    basis = directions[: how.rank].T.contiguous()
    return Projection(basis, mean, values[:, None] * directions, scale, renewals + 1)


def leading_directions(matrix: Tensor, count: int, method: Method, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the leading singular values (count,) and right singular vectors (count, features) of a matrix.

    A Nyström approximation of `S = Bᵀ B` from its columns J is `S_J (S_JJ)⁺ S_Jᵀ = Bᵀ Π B`, with Π the projection on
    the span of B's own columns J. The randomized method has random mixtures of columns instead, so that both are:
    an orthonormal range Q, then the exact decomposition of the few rows `Qᵀ B`.

    Args:
        matrix: (rows, features).
        count: Fewer are returned where the matrix has fewer rows or features.
        method, generator: As in `Renewal`; the generator is of the CPU.
    """
    count = min(count, *matrix.shape)
    if method == "exact":
        few = torch.linalg.qr(matrix, mode="r").R if matrix.shape[0] > matrix.shape[1] else matrix
    else:
        draw = random_range if method == "randomized" else sampled_range
        few = draw(matrix, count, generator).mT @ matrix
    _, values, directions = torch.linalg.svd(few, full_matrices=False)
    return values[:count], directions[:count]


def random_range(matrix: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return orthonormal columns (rows, count) that span random mixtures of a matrix's columns, after power steps."""
    mixtures = torch.randn(matrix.shape[1], count, generator=generator, dtype=torch.float64).to(matrix)
    found: Tensor = torch.linalg.qr(matrix @ mixtures).Q
    for _ in range(_POWERS):
        found = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ found).Q).Q
    return found


def sampled_range(matrix: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return orthonormal columns (rows, 2 count or fewer) that span columns of a matrix, drawn by their squared norms.

    Twice as many as are looked for: single columns catch the leading directions less well than mixtures of all do.
    """
    columns = sampled_columns(matrix, 2 * count, generator)
    found: Tensor = torch.linalg.qr(matrix[:, columns]).Q
    return found


def sampled_columns(matrix: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the numbers of different columns, each drawn with a chance in proportion to its squared norm."""
    energy = matrix.square().sum(0).double().cpu()
    count = min(count, int((energy > 0).sum()), matrix.shape[0])
    if count == 0:  # nothing but zeros: any column spans them
        return torch.zeros(1, dtype=torch.int64, device=matrix.device)
    return torch.multinomial(energy, count, generator=generator).sort().values.to(matrix.device)
