"""The other bases of the benchmark: projections, and the best of their kind."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.other_bases import loss_aware, orthogonal
from benchmarks.weighed import RowSums
from onnx_examples import gaussian

OUT, RANK = 12, 4
ROUNDING = 1e-10  # products of float64 matrices of condition below 1e3


def second(seed: int) -> np.ndarray:
    rows = gaussian(40, OUT, seed=seed).astype(np.float64)
    return rows.T @ rows


def error(basis: np.ndarray, moment: np.ndarray, metric: np.ndarray) -> float:
    left = np.eye(OUT) - basis
    return float(np.trace(left.T @ moment @ left @ metric))


def test_both_are_projections_of_the_rank() -> None:
    mean = np.zeros(OUT)
    for found in (orthogonal(second(0), mean, RANK), loss_aware(second(0), mean, second(1), RANK)):
        product = found.down @ found.up
        np.testing.assert_allclose(product @ product, product, atol=ROUNDING)
        assert np.linalg.matrix_rank(product) == RANK


def test_with_even_gradients_the_loss_changes_nothing() -> None:
    mean = np.zeros(OUT)
    plain, even = orthogonal(second(0), mean, RANK), loss_aware(second(0), mean, 3 * np.eye(OUT), RANK)
    np.testing.assert_allclose(even.down @ even.up, plain.down @ plain.up, atol=ROUNDING)


def test_no_other_projection_loses_less_in_the_metric() -> None:
    moment, metric, mean = second(0), second(1), np.zeros(OUT)
    best = loss_aware(moment, mean, metric, RANK)
    found = error(best.down @ best.up, moment, metric)
    random = np.random.default_rng(2)
    for _ in range(50):
        down, up = random.standard_normal((OUT, RANK)), random.standard_normal((RANK, OUT))
        assert found <= error(down @ np.linalg.solve(up @ down, up), moment, metric)
    plain = orthogonal(moment, mean, RANK)
    assert found < error(plain.down @ plain.up, moment, metric)


def test_weighted_sums_are_those_of_repeated_rows() -> None:
    torch = pytest.importorskip("torch")
    rows, times = gaussian(6, OUT, seed=3), np.array([1, 2, 1, 3, 1, 2])
    weighted, repeated = RowSums(), RowSums()
    weighted.add(torch.from_numpy(rows), torch.from_numpy(times.astype(np.float32)))
    many = np.repeat(rows, times, axis=0)
    repeated.add(torch.from_numpy(many), torch.ones(len(many)))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-5, atol=1e-6)  # float32 sums of ten rows
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, rtol=1e-5, atol=1e-6)
