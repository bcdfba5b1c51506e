"""The laws of the best low-rank replacement, each checked on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rankfold.passes.side_moments import SideMoments
from rankfold.passes.spectrum import FLOAT32_NOISE, Spectrum, measured_tails, spectrum

Matrix = NDArray[np.float64]
few = settings(max_examples=40, deadline=None)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def rows_and_weight(fan_in: int, fan_out: int, seed: int, *, offset: float = 1.0) -> tuple[Matrix, Matrix]:
    """Return enough rows for no damping, with unequal directions and a mean, and a weight."""
    random = np.random.default_rng(seed)
    count = 2 * max(fan_in, fan_out) + int(random.integers(0, 20))
    scales = 2.0 ** -random.permutation(np.arange(fan_in) / 2)
    rows = random.standard_normal((count, fan_in)) * scales + offset * random.standard_normal(fan_in)
    return rows, random.standard_normal((fan_in, fan_out))


def side(rows: Matrix, *, of_input: bool, count: float | None = None) -> SideMoments:
    return SideMoments(of_input, count or float(len(rows)), (1.0,), (rows.mean(axis=0),), rows.T @ rows / len(rows))


def basis_of(rows: Matrix, weight: Matrix, *, centred: bool, of_input: bool = True) -> Spectrum:
    return spectrum(weight, side(rows if of_input else rows @ weight, of_input=of_input), centred=centred)


def lost(rows: Matrix, weight: Matrix, basis: Spectrum, rank: int) -> float:
    """Return the mean squared output error on rows, the bias corrected as the fold does it."""
    kept = basis.vectors[:, :rank]
    away = rows @ weight - basis.means[0]
    return float(((away - away @ kept @ kept.T) ** 2).sum() / len(rows))


def rounding(rows: Matrix, weight: Matrix) -> float:
    """Return what float64 and the floor of 1e-13 · λ_max under the input's eigenvalues may do to an energy.

    The floor adds at most 1e-13 λ_max ‖W‖², the roundings of some tens of terms 1e-14 of it: 1e-12 covers both.
    """
    return 1e-12 * float((rows**2).sum(axis=1).mean()) * float((weight**2).sum())


@few
@given(sizes, sizes, seeds, st.booleans(), st.booleans())
def test_the_output_error_is_the_sum_of_the_discarded_values(
    fan_in: int, fan_out: int, seed: int, centred: bool, of_input: bool
) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    basis = basis_of(rows, weight, centred=centred, of_input=of_input)
    assert basis.damping == 0
    for rank in range(min(fan_in, fan_out) + 1):
        assert lost(rows, weight, basis, rank) == pytest.approx(
            basis.values[rank:].sum(), rel=0, abs=rounding(rows, weight)
        )


@few
@given(sizes, sizes, seeds, st.booleans())
def test_tails_are_the_discarded_share(fan_in: int, fan_out: int, seed: int, centred: bool) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    basis = basis_of(rows, weight, centred=centred)
    tails = basis.tails()
    assert len(tails) == min(fan_in, fan_out) + 1
    assert tails[-1] == 0
    assert (np.diff(tails) <= 0).all()
    # Sums of at most ten terms in another order: a few units of 2e-16.
    assert tails == pytest.approx([basis.values[r:].sum() / basis.energy for r in range(len(tails))], rel=0, abs=1e-14)


@few
@given(sizes, sizes, seeds, st.booleans())
def test_both_sides_give_the_same_function(fan_in: int, fan_out: int, seed: int, centred: bool) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    by_input = basis_of(rows, weight, centred=centred)
    by_output = basis_of(rows, weight, centred=centred, of_input=False)
    assert by_input.values == pytest.approx(by_output.values, rel=0, abs=rounding(rows, weight))
    for rank in _clear_ranks(by_input, rounding(rows, weight)):
        first, second = (b.vectors[:, :rank] @ b.vectors[:, :rank].T for b in (by_input, by_output))
        # Davis and Kahan: a projection turns by at most the disturbance over the gap, which is 1e-3 · λ_max or more
        # here; the disturbance is two roundings.
        turned = 2 * rounding(rows, weight) / (by_input.values[rank - 1] - by_input.values[rank])
        assert weight @ first == pytest.approx(weight @ second, rel=0, abs=turned * np.linalg.norm(weight) + 1e-13)


def _clear_ranks(basis: Spectrum, noise: float) -> list[int]:
    gaps = -np.diff(basis.values)
    return [rank for rank, gap in enumerate(gaps, 1) if gap > max(1e-3 * basis.values[0], 1e3 * noise)]


@few
@given(sizes, sizes, seeds, st.data())
def test_no_other_product_of_the_same_rank_loses_less(
    fan_in: int, fan_out: int, seed: int, draw: st.DataObject
) -> None:
    rank = draw.draw(st.integers(1, min(fan_in, fan_out)))
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    basis, random = basis_of(rows, weight, centred=False), np.random.default_rng(seed)
    best, slack = lost(rows, weight, basis, rank), rounding(rows, weight)
    down, up = weight @ basis.vectors[:, :rank], basis.vectors[:, :rank].T
    anywhere = np.linalg.qr(random.standard_normal((fan_out, rank)))[0]
    rivals = [random.standard_normal((fan_in, rank)) @ random.standard_normal((rank, fan_out))]
    rivals.append(weight @ anywhere @ anywhere.T)
    rivals.extend(  # near the optimum, where a wrong solution would be beaten
        (down + size * random.standard_normal(down.shape)) @ (up + size * random.standard_normal(up.shape))
        for size in (1e-3, 1e-2, 1e-1)
    )
    left, singular, right = np.linalg.svd(weight)
    rivals.append(left[:, :rank] * singular[:rank] @ right[:rank])
    for rival in rivals:
        assert ((rows @ (weight - rival)) ** 2).sum() / len(rows) >= best - slack


@few
@given(sizes, sizes, seeds, st.booleans())
def test_centring_is_never_worse_on_the_calibration_rows(fan_in: int, fan_out: int, seed: int, of_input: bool) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed, offset=3.0)
    centred, plain = (basis_of(rows, weight, centred=way, of_input=of_input) for way in (True, False))
    for rank in range(min(fan_in, fan_out) + 1):
        assert lost(rows, weight, centred, rank) <= lost(rows, weight, plain, rank) + rounding(rows, weight)


def test_centring_wins_a_direction_where_the_mean_is_large() -> None:
    random = np.random.default_rng(4)
    rows = random.standard_normal((200, 2)) @ random.standard_normal((2, 8)) + 5 * random.standard_normal(8)
    weight = random.standard_normal((8, 8))
    centred, plain = (basis_of(rows, weight, centred=way) for way in (True, False))
    assert lost(rows, weight, centred, 2) <= rounding(rows, weight)
    assert lost(rows, weight, plain, 2) > 1e-3 * plain.energy  # the mean takes one of the two directions


@few
@given(sizes, sizes, seeds, st.sampled_from(["all", "dead", "few", "none"]))
def test_full_rank_is_the_identity_also_in_directions_never_seen(
    fan_in: int, fan_out: int, seed: int, kind: str
) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    if kind == "dead":
        rows[:, ::2] = 0.0
    rows = rows[:2] if kind == "few" else rows * (kind != "none")
    basis = basis_of(rows, weight, centred=False)
    unseen = np.random.default_rng(seed + 1).standard_normal((5, fan_in))
    kept = basis.vectors
    # Directions never seen are scaled down to √1e-13 ≈ 3e-7 in the SVD, and so carry 3e6 roundings of 2e-16.
    error = np.linalg.norm(unseen @ weight @ (np.eye(fan_out) - kept @ kept.T))
    assert error <= 1e-7 * np.linalg.norm(unseen) * np.linalg.norm(weight)


@few
@given(sizes, sizes, seeds)
def test_full_rank_on_the_output_side_is_the_identity(fan_in: int, fan_out: int, seed: int) -> None:
    fan_in = max(fan_in, fan_out)  # the output side is collected only where it is the smaller one
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    rows[:, ::2] = 0.0
    vectors = basis_of(rows, weight, centred=True, of_input=False).vectors
    # An orthonormal eigenbasis: ten columns' roundings of 2e-16 stay under 1e-13.
    assert vectors @ vectors.T == pytest.approx(np.eye(fan_out), rel=0, abs=1e-13)


@few
@given(sizes, sizes, seeds)
def test_permuting_features_of_rows_and_weight_changes_nothing(fan_in: int, fan_out: int, seed: int) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    order = np.random.default_rng(seed).permutation(fan_in)
    first, second = (basis_of(r, w, centred=True) for r, w in ((rows, weight), (rows[:, order], weight[order])))
    assert first.values == pytest.approx(second.values, rel=0, abs=rounding(rows, weight))
    for rank in _clear_ranks(first, rounding(rows, weight)):
        turned = 2 * rounding(rows, weight) / (first.values[rank - 1] - first.values[rank])
        one, other = (b.vectors[:, :rank] @ b.vectors[:, :rank].T for b in (first, second))
        assert one == pytest.approx(other, rel=0, abs=turned + 1e-13)


@few
@given(sizes, sizes, seeds, st.booleans(), st.booleans())
def test_values_fall_and_vectors_are_orthonormal_with_fixed_signs(
    fan_in: int, fan_out: int, seed: int, centred: bool, of_input: bool
) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    basis = basis_of(rows, weight, centred=centred, of_input=of_input)
    kept = min(fan_in, fan_out)
    assert basis.values.shape == (kept,)
    assert (basis.values >= 0).all()
    assert (np.diff(basis.values) <= 0).all()
    # Orthonormal to a few tens of roundings of 2e-16.
    assert basis.vectors.T @ basis.vectors == pytest.approx(np.eye(kept), rel=0, abs=1e-13)
    assert (np.take_along_axis(basis.vectors, np.abs(basis.vectors).argmax(axis=0)[None], axis=0) > 0).all()
    assert not basis.values.flags.writeable
    assert not basis.vectors.flags.writeable


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize(("fall", "share"), [(0.25, 0.9), (0.5, 1.0)])
def test_few_rows_are_damped_and_that_helps_on_others(of_input: bool, fall: float, share: float) -> None:
    random = np.random.default_rng(0)
    scales = np.arange(1, 257) ** -fall
    turn = np.linalg.qr(random.standard_normal((256, 256)))[0]
    rows, others = (random.standard_normal((count, 256)) * scales @ turn for count in (40, 4000))
    weight = random.standard_normal((256, 256)) / 16
    seen = rows if of_input else rows @ weight
    damped = spectrum(weight, side(seen, of_input=of_input), centred=False)
    bare = spectrum(weight, side(seen, of_input=of_input, count=1e9), centred=False)
    assert damped.damping > 0
    assert bare.damping == 0
    errors = [lost(others, weight, basis, 64) for basis in (damped, bare)]
    # 40 rows of a slowly falling spectrum say little of 256 directions: seen .85 and .95 of the undamped error.
    assert errors[0] < share * errors[1]


def test_the_numerical_rank_is_that_of_the_rows() -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((100, 3)) @ random.standard_normal((3, 12))
    basis = basis_of(rows, random.standard_normal((12, 10)), centred=False)
    assert basis.numerical_rank == 3
    assert basis.tails()[3] < 10 * FLOAT32_NOISE


@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_rows_of_zeros_lose_nothing(of_input: bool, centred: bool) -> None:
    basis = basis_of(np.zeros((30, 6)), np.ones((6, 4)), centred=centred, of_input=of_input)
    assert basis.numerical_rank == 0
    assert basis.tails().tolist() == [0.0] * 5


@few
@given(sizes, sizes, seeds, st.booleans(), st.booleans())
def test_measured_tails_are_the_error_on_other_rows(
    fan_in: int, fan_out: int, seed: int, centred: bool, of_input: bool
) -> None:
    rows, weight = rows_and_weight(fan_in, fan_out, seed)
    others = rows_and_weight(fan_in, fan_out, seed + 1)[0]
    basis = basis_of(rows, weight, centred=centred, of_input=of_input)
    calibration, held = (side(r if of_input else r @ weight, of_input=of_input) for r in (rows, others))
    found = measured_tails(weight, basis, calibration, held)
    whole = lost(others, weight, basis, 0)
    slack = 10 * rounding(others, weight) / whole
    for rank in range(min(fan_in, fan_out) + 1):
        assert found[rank] == pytest.approx(lost(others, weight, basis, rank) / whole, rel=0, abs=slack)
