"""The basis by the loss: the best of its rank in a metric, the plain one where the metric is even."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_examples import gaussian

from rankfold.passes.factors import factorise
from rankfold.passes.loss_basis import METRIC_DAMPING, row_space, spectrum_by_loss
from rankfold.passes.pivots import choose_pivots
from rankfold.passes.side_moments import SideMoments
from rankfold.passes.spectrum import measured_tails, spectrum
from rankfold.values import FloatArray

ROWS, RANK = 400, 5
SHAPES = [(12, 9), (9, 12), (10, 10)]
ROUNDING = 1e-9  # a few products of float64 matrices of condition below 1e3


def inputs(features: int, seed: int = 0) -> FloatArray:
    spread = np.logspace(0, -1, features)
    return gaussian(ROWS, features, seed=seed, scale=1.0).astype(np.float64) * spread + 0.5


def seen(weight: FloatArray, *, of_input: bool, seed: int = 0) -> SideMoments:
    rows = inputs(len(weight), seed) if of_input else inputs(len(weight), seed) @ weight
    return SideMoments(of_input, ROWS, (1.0,), (rows.mean(axis=0),), rows.T @ rows / ROWS)


def weights(shape: tuple[int, int]) -> FloatArray:
    return gaussian(*shape, seed=3).astype(np.float64)


def metric_of(size: int) -> FloatArray:
    gradients = gaussian(60, size, seed=4, scale=1.0).astype(np.float64) * np.logspace(0, -1.5, size)
    return gradients.T @ gradients


def damped(metric: FloatArray) -> FloatArray:
    return metric / (np.trace(metric) / len(metric)) + METRIC_DAMPING * np.eye(len(metric))


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_even_metric_changes_nothing(shape: tuple[int, int], *, of_input: bool) -> None:
    weight, moments = weights(shape), seen(weights(shape), of_input=of_input)
    plain = spectrum(weight, moments, centred=True)
    even = spectrum_by_loss(weight, moments, 7 * np.eye(min(shape)), centred=True)
    first, second = (factorise(weight, basis, RANK, dtype=np.float64) for basis in (plain, even))
    np.testing.assert_allclose(second.down @ second.up, first.down @ first.up, atol=ROUNDING)
    assert first.shifts is not None
    assert second.shifts is not None
    np.testing.assert_allclose(second.shifts[0], first.shifts[0], atol=ROUNDING)
    np.testing.assert_allclose(even.tails(), plain.tails(), atol=ROUNDING)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_the_identity(shape: tuple[int, int]) -> None:
    weight = weights(shape)
    basis = spectrum_by_loss(weight, seen(weight, of_input=True), metric_of(min(shape)), centred=True)
    pair = factorise(weight, basis, min(shape), dtype=np.float64)
    np.testing.assert_allclose(pair.down @ pair.up, weight, atol=ROUNDING)
    np.testing.assert_allclose(basis.vectors.T @ basis.duals, np.eye(min(shape)), atol=ROUNDING)


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_lost_is_the_error_in_the_metric_and_nothing_loses_less(
    shape: tuple[int, int], *, of_input: bool
) -> None:
    weight, metric = weights(shape), metric_of(min(shape))
    basis = spectrum_by_loss(weight, seen(weight, of_input=of_input), metric, centred=False)
    span, x = row_space(weight), inputs(shape[0])
    inner = damped(metric)

    def lost(product: FloatArray) -> float:
        away = x @ (weight - product) @ span
        return float(np.einsum("ij,jk,ik->", away, inner, away)) / ROWS

    pair = factorise(weight, basis, RANK, dtype=np.float64)
    found = lost(pair.down @ pair.up)
    assert found == pytest.approx(float(basis.values[RANK:].sum()), rel=1e-6)
    random = np.random.default_rng(5)
    for _ in range(30):
        other = np.linalg.qr(random.standard_normal((shape[1], RANK)))[0]
        assert found <= lost(weight @ other @ other.T) * (1 + 1e-9)
    plain = factorise(weight, spectrum(weight, seen(weight, of_input=of_input), centred=False), RANK, dtype=np.float64)
    assert found < lost(plain.down @ plain.up)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pivoted_form_is_the_pairs_product(shape: tuple[int, int]) -> None:
    weight = weights(shape)
    basis = spectrum_by_loss(weight, seen(weight, of_input=True), metric_of(min(shape)), centred=True)
    pair, rows = factorise(weight, basis, RANK, dtype=np.float64), inputs(shape[0], seed=8)
    for side in ("input", "output"):
        pivots = choose_pivots(weight @ basis.duals[:, :RANK], basis.vectors[:, :RANK], (side,))
        found = factorise(weight, basis, RANK, dtype=np.float64, pivots=pivots)
        np.testing.assert_allclose(found.product(rows), pair.product(rows), atol=ROUNDING * pivots.growth)


def test_held_out_tails_are_those_of_the_same_rows_and_fall_to_nothing() -> None:
    weight = weights((12, 9))
    moments = seen(weight, of_input=True)
    basis = spectrum_by_loss(weight, moments, metric_of(9), centred=True)
    np.testing.assert_allclose(measured_tails(weight, basis, moments, moments), basis.tails(), atol=ROUNDING)
    other = measured_tails(weight, basis, moments, seen(weight, of_input=True, seed=9))
    assert other[0] == 1
    assert other[-1] == 0
    assert (np.diff(other) <= 0).all()
