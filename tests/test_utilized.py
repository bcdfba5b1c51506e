"""The laws of utilized rank: known ranks, invariances, monotony, and `P_S W P_T` itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from utilized_examples import Matrix, moments_of, ranks

from rankfold.passes.utilized import (
    Directions,
    directions,
    fewest,
    measured_loss,
    product,
    projected_factors,
    weight_ranks,
)
from rankfold.projections import Projection

few = settings(max_examples=25, deadline=None)
seeds, shares = st.integers(0, 10_000), st.floats(0.05, 1.0)
IN, OUT, ROWS = 12, 9, 60


def drawn(seed: int) -> tuple[Matrix, Matrix]:
    """Return a weight, and rows along directions of falling size about a mean."""
    random = np.random.default_rng(seed)
    turn = linalg.qr(random.standard_normal((IN, IN)))[0]
    rows = random.standard_normal((ROWS, IN)) * 0.7 ** np.arange(IN) @ turn
    return random.standard_normal((IN, OUT)), rows + random.standard_normal(IN)


def found_of(seed: int, *, centred: bool = True) -> tuple[Matrix, Matrix, Directions]:
    weight, rows = drawn(seed)
    return weight, rows, directions(weight, moments_of(rows), centred=centred)


@few
@given(seeds, st.integers(1, IN))
def test_rows_of_a_known_rank_have_that_rank_about_their_mean_and_one_more_about_zero(seed: int, rank: int) -> None:
    random = np.random.default_rng(seed)
    # The mean lies across the rows' span, and the weight maps either without squeezing: nothing comes near rounding.
    basis = linalg.qr(random.standard_normal((IN, IN)))[0]
    rows = random.standard_normal((ROWS, rank)) @ basis[:rank] + (3 * basis[rank] if rank < IN else 1.0)
    weight = basis[:OUT].T @ linalg.qr(random.standard_normal((OUT, OUT)))[0]
    found = directions(weight, moments_of(rows), centred=True)
    assert ranks(found, 1.0) == (rank, min(rank, OUT))
    about_zero = directions(weight, moments_of(rows), centred=False)
    assert ranks(about_zero, 1.0) == (min(rank + 1, IN), min(rank + 1, OUT))


@few
@given(seeds, shares, st.booleans())
def test_the_fewest_directions_hold_the_share_and_one_fewer_does_not(seed: int, share: float, centred: bool) -> None:
    _, rows, found = found_of(seed, centred=centred)
    matrix = np.cov(rows.T, bias=True) if centred else rows.T @ rows / ROWS
    values = linalg.eigvalsh(matrix)[::-1]
    kept = found.projection(share).inputs
    # float64 eigenvalues from two ways: rounding of 1e-14 of their sum, whichever side of the share it falls on
    assert values[:kept].sum() >= (share - 1e-12) * values.sum()
    assert values[: kept - 1].sum() < (share + 1e-12) * values.sum()


def test_shares_are_counted_exactly_where_they_end_between_two_directions() -> None:
    even = np.ones(10)
    assert [fewest(even, tenth / 10) for tenth in range(1, 11)] == list(range(1, 11))
    assert fewest(np.zeros(4), 0.9) == 0


@few
@given(seeds, shares, shares)
def test_a_larger_share_never_takes_fewer_directions_nor_loses_more(seed: int, one: float, other: float) -> None:
    _, _, found = found_of(seed)
    less, more = (found.projection(share) for share in sorted((one, other)))
    assert less.inputs <= more.inputs
    assert less.outputs <= more.outputs
    small, large = found.losses(less), found.losses(more)
    rounding = 1e-12  # of sums of 108 float64 terms over their whole
    assert large.inputs <= small.inputs + rounding
    assert large.outputs <= small.outputs + rounding
    assert large.both <= small.both + rounding


@few
@given(seeds, shares)
def test_turning_the_inputs_and_the_weight_with_them_or_scaling_both_changes_no_rank(seed: int, share: float) -> None:
    weight, rows, found = found_of(seed)
    turn = linalg.qr(np.random.default_rng(seed + 1).standard_normal((IN, IN)))[0]
    turned = directions(turn.T @ weight, moments_of(rows @ turn), centred=True)
    scaled = directions(weight, moments_of(1e3 * rows), centred=True)
    # a share may fall on a cumulative sum to rounding; the ranks beside it are then as good
    near = {ranks(found, min(1.0, share * (1 + sign * 1e-9))) for sign in (-1, 0, 1)}
    assert ranks(turned, share) in near
    assert ranks(scaled, share) in near


@few
@given(seeds, st.integers(1, IN), st.integers(1, OUT), st.booleans())
def test_losses_are_those_of_the_matrices_they_speak_of(seed: int, inputs: int, outputs: int, centred: bool) -> None:
    weight, rows, found = found_of(seed, centred=centred)
    matrix = np.cov(rows.T, bias=True) if centred else rows.T @ rows / ROWS
    p_s, p_t = (projector(m, k) for m, k in ((matrix, inputs), (weight.T @ matrix @ weight, outputs)))

    def lost(other: Matrix) -> float:
        left = weight - other
        return float(np.trace(left.T @ matrix @ left) / np.trace(weight.T @ matrix @ weight))

    projection = Projection(inputs, outputs, centred)
    losses = found.losses(projection)
    expected = (lost(p_s @ weight), lost(weight @ p_t), lost(p_s @ weight @ p_t))
    # the smallest eigenvalues of C are .7^22 = 4e-4 of the largest: float64's rounding is 1e-12 of them at most
    assert (losses.inputs, losses.outputs, losses.both) == pytest.approx(expected, rel=0, abs=1e-10)
    moments = moments_of(rows)
    assert measured_loss(weight, found, projection, (moments, moments)) == pytest.approx(expected[2], rel=0, abs=1e-10)
    down, up = product(weight, found, projection)
    assert down.shape[1] == up.shape[0] == min(inputs, outputs)
    assert down @ up == pytest.approx(p_s @ weight @ p_t, rel=0, abs=1e-8)  # eigenvectors turn by rounding over gaps
    factors = projected_factors(weight, moments, projection, dtype=np.float64)
    rest = rows @ weight - factors.product(rows) - (factors.shifts[0] if factors.shifts else 0.0)
    if centred:  # the mean passes through the whole weight
        assert rest.mean(axis=0) == pytest.approx(np.zeros(OUT), rel=0, abs=1e-10)
    else:
        assert factors.shifts is None


def projector(matrix: Matrix, kept: int) -> Matrix:
    vectors = linalg.eigh(matrix)[1][:, ::-1][:, :kept]
    return vectors @ vectors.T


def test_a_kept_share_of_the_input_does_not_bound_the_loss_of_the_output() -> None:
    rows = np.random.default_rng(0).standard_normal((ROWS, 3)) * (10.0, 1.0, 0.1)
    weight = np.diag([0.01, 0.01, 10.0])  # it amplifies what varies least
    found = directions(weight, moments_of(rows), centred=True)
    assert found.projection(0.95).inputs == 1
    assert found.losses(Projection(1, 3, True)).inputs > 0.9


def test_factors_of_half_precision_stay_in_its_range() -> None:
    weight, rows = drawn(3)
    weight *= 2e4  # largest entries near 6e4; products of its rows lie above 65504
    for projection in (Projection(5, 7, True), Projection(8, 6, True)):
        factors = projected_factors(weight, moments_of(rows), projection, dtype=np.float16)
        assert np.isfinite(factors.down).all()
        assert np.isfinite(factors.up).all()


def test_ranks_of_a_weight_alone() -> None:
    found, spectrum = weight_ranks(np.diag([4.0, 4.0, 4.0, 0.0]), dtype=np.float32)
    assert (found.numerical, found.stable) == (3, pytest.approx(3.0))
    assert found.effective == pytest.approx(3.0)
    assert spectrum.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert weight_ranks(np.diag([1.0, 1e-9]), dtype=np.float32)[0].numerical == 1
    assert weight_ranks(np.diag([1.0, 1e-9]), dtype=np.float64)[0].numerical == 2
    assert weight_ranks(np.zeros((3, 2)), dtype=np.float32)[0].effective == 0.0
