"""Projections on leading directions: their methods against the exact one, and what they know of earlier batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankfold.training.low_rank_projection import (
    OVERSAMPLING,
    Method,
    Renewal,
    as_rows,
    leading_directions,
    random_range,
    renewed,
    sampled_columns,
    sampled_range,
)

METHODS: tuple[Method, ...] = ("exact", "randomized", "nystrom")
FLOAT64 = 2.3e-16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def decaying(rows: int, features: int) -> Tensor:
    """Return a matrix (rows, features) with singular values 1, .8, .64, …"""
    few = min(rows, features)
    left, right = torch.linalg.qr(draw(rows, few)).Q, torch.linalg.qr(draw(features, few, seed=1)).Q
    return left * 0.8 ** torch.arange(few, dtype=torch.float64) @ right.T


def outside(matrix: Tensor, directions: Tensor) -> float:
    """Return the squared norm of what lies outside of the span of orthonormal rows."""
    return float((matrix - matrix @ directions.T @ directions).square().sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(200, 24), (16, 40)])
def test_rows_of_a_known_rank_are_reproduced(method: Method, shape: tuple[int, int]) -> None:
    rows = draw(shape[0], 5) @ draw(5, shape[1], seed=1) + 3
    projection = renewed(None, rows, Renewal(5, method, centred=True, memory=0.0, seed=0))
    about = rows - projection.mean
    # Some products of numbers up to ‖rows‖, each rounded: a hundred units of it is far above, and far below any loss.
    assert outside(about, projection.basis.T) <= (100 * FLOAT64 * float(rows.norm())) ** 2
    assert projection.basis.shape == (shape[1], 5)
    torch.testing.assert_close(
        projection.basis.T @ projection.basis, torch.eye(5, dtype=torch.float64), rtol=0, atol=100 * FLOAT64
    )


@pytest.mark.parametrize("shape", [(120, 30), (30, 120)])
def test_the_exact_method_has_the_eigenvectors(shape: tuple[int, int]) -> None:
    matrix = decaying(*shape)
    values, directions = leading_directions(matrix, 4, "exact", generator())
    eigenvalues, vectors = torch.linalg.eigh(matrix.T @ matrix)
    torch.testing.assert_close(values.square(), eigenvalues.flip(0)[:4], rtol=0, atol=100 * FLOAT64)
    largest = vectors.flip(1)[:, :4]
    # Rounding of S, some units of ‖S‖ = 1, turns an eigenvector by as much over its gap, .1 at least here.
    torch.testing.assert_close(directions.T @ directions, largest @ largest.T, rtol=0, atol=1000 * FLOAT64)


@pytest.mark.parametrize("shape", [(120, 60), (50, 90)])
@pytest.mark.parametrize("method", ["randomized", "nystrom"])
def test_other_methods_lose_no_more_than_their_law_allows(method: Method, shape: tuple[int, int]) -> None:
    """Halko et al. 2011, theorem 9.1, with q power steps: the best of rank k in the range that Ω gives loses at most

    `‖Σ₂‖² + ‖Σ₂^(2q+1) Ω₂ Ω₁⁺ Σ₁^(-2q)‖²`, whatever Ω; Σ₁ are the k leading singular values, Σ₂ the others, Ω₁ and Ω₂
    the rows of `Vᵀ Ω` that belong to them. For the range holds that of `(B Bᵀ)^q B Ω Ω₁⁺ Σ₁^-(2q+1)`, of rank k.
    """
    rank, matrix = 6, decaying(*shape)
    count = rank + OVERSAMPLING
    _, directions = leading_directions(matrix, count, method, generator())
    if method == "randomized":
        mixing, power = torch.randn(shape[1], count, generator=generator(), dtype=torch.float64), 2
    else:
        columns = sampled_columns(matrix, 2 * count, generator())
        mixing, power = torch.eye(shape[1], dtype=torch.float64)[:, columns], 0
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    mixed = right @ mixing
    more = values[rank:, None] ** (2 * power + 1) * (mixed[rank:] @ torch.linalg.pinv(mixed[:rank]))
    more = float((more * values[:rank] ** (-2 * power)).square().sum())
    tail = float(values[rank:].square().sum())
    rounding = 1e-12  # some thousand units of 2.2e-16, for products of matrices of norm 1 and sides up to 120
    assert tail - rounding <= outside(matrix, directions[:rank]) <= tail + more + rounding


def test_all_columns_give_the_exact_directions() -> None:
    """Nyström's approximation from all columns is the matrix itself."""
    matrix = decaying(120, 12)
    exact, sampled = (leading_directions(matrix, 6, method, generator())[1] for method in ("exact", "nystrom"))
    assert len(sampled_columns(matrix, 12, generator())) == 12
    torch.testing.assert_close(exact.T @ exact, sampled.T @ sampled, rtol=0, atol=1000 * FLOAT64)  # as above


def test_dead_columns_are_not_drawn() -> None:
    matrix = draw(30, 10)
    matrix[:, [2, 5, 7]] = 0
    assert sampled_columns(matrix, 10, generator()).tolist() == [0, 1, 3, 4, 6, 8, 9]
    assert sampled_range(torch.zeros(30, 10), 4, generator()).shape == (30, 1)


def test_ranges_are_orthonormal_where_columns_repeat() -> None:
    repeated = draw(30, 3).repeat(1, 4)
    for found in (random_range(repeated, 8, generator()), sampled_range(repeated, 8, generator())):
        unit = torch.eye(found.shape[1], dtype=torch.float64)
        torch.testing.assert_close(found.T @ found, unit, rtol=0, atol=100 * FLOAT64)


@pytest.mark.parametrize("centred", [True, False])
def test_the_carried_rows_are_the_moments_of_the_mixture(centred: bool) -> None:
    """With as many directions kept as there are features, nothing of the running moments is lost."""
    how = Renewal(4, "exact", centred, memory=0.7, seed=0)
    batches = [draw(40, 10, seed=seed) + seed for seed in range(3)]
    projection, shares = None, [0.7 * 0.7, 0.3 * 0.7, 0.3]
    for batch in batches:
        projection = renewed(projection, batch, how)
    mean = sum(share * batch.mean(0) for share, batch in zip(shares, batches, strict=True)) * centred
    moment = sum(share * (batch - mean).T @ (batch - mean) / 40 for share, batch in zip(shares, batches, strict=True))
    # Moments up to 10 here, rounded some tens of times.
    torch.testing.assert_close(projection.carried.T @ projection.carried, moment, rtol=0, atol=1000 * FLOAT64)
    assert projection.renewals == 3
    first = batches[0] - batches[0].mean(0) * centred
    torch.testing.assert_close(projection.scale, first.square().sum(1).mean(), rtol=100 * FLOAT64, atol=0)


def test_without_memory_the_newest_batch_alone_counts() -> None:
    how = Renewal(4, "exact", centred=True, memory=0.0, seed=0)
    alone = renewed(None, draw(40, 10, seed=1), how)
    after = renewed(renewed(None, draw(40, 10), how), draw(40, 10, seed=1), how)
    torch.testing.assert_close(after.carried.T @ after.carried, alone.carried.T @ alone.carried, rtol=0, atol=1e-14)


def test_rows_are_places_or_samples() -> None:
    images = draw(2, 3, 4, 5)
    assert torch.equal(as_rows(images, "positions")[7], images[0, :, 1, 2])
    assert torch.equal(as_rows(images, "samples")[1], images[1].flatten())
    tokens = draw(2, 4, 3)
    assert torch.equal(as_rows(tokens, "positions")[5], tokens[1, 1])
    assert as_rows(images.bfloat16(), "positions").dtype == torch.float32
