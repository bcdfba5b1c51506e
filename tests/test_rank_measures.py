"""Ranks of spectra: known answers, bounds and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_examples import sums

from rankfold.passes.rank_measures import (
    SHARES,
    covariance_spectrum,
    distance_to_rank,
    rank_measures,
    without_rounding,
)
from rankfold.values import FloatArray

SEEDS = st.integers(0, 2**31)
SPECTRA = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30).map(lambda values: np.sort(values)[::-1])


def rows_of_rank(rank: int, features: int, seed: int) -> FloatArray:
    """Return rows (200, features) that span exactly `rank` directions about their mean."""
    random = np.random.default_rng(seed)
    base, _ = np.linalg.qr(random.standard_normal((features, rank)))
    coordinates, _ = np.linalg.qr(random.standard_normal((200, rank)))
    centred = coordinates - coordinates.mean(axis=0)
    return centred @ base.T + random.standard_normal(features)


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 12), seed=SEEDS)
def test_rows_of_a_known_rank_have_that_rank(rank: int, seed: int) -> None:
    spectrum = covariance_spectrum(sums(rows_of_rank(rank, 12, seed)))
    # orthonormal coordinates, less a mean: eigenvalues within a factor of 2 of each other but for one, so that a share
    # of 1 - 1e-9 needs every direction
    measures = rank_measures(spectrum, shares=(1 - 1e-9,))
    assert measures.share_ranks == {1 - 1e-9: rank}
    assert measures.stable <= rank * (1 + 1e-9)
    # Taking off the mean rounds: up to 12 eigenvalues of some 1e-12 of the largest are left, each a singular value of
    # 1e-6 that adds 1e-6 · (1 + ln 1e6) to the entropy.
    assert measures.effective <= rank * (1 + 12 * 1.5e-5)


@pytest.mark.parametrize("features", [1, 2, 7, 64])
def test_an_identity_has_full_rank_by_every_measure(features: int) -> None:
    measures = rank_measures(np.ones(features))
    # sums of `features` equal numbers: a rounding of each
    assert measures.stable == pytest.approx(features, rel=features * 1e-15)
    assert measures.effective == pytest.approx(features, rel=features * 1e-15)
    assert measures.dimension == features
    assert measures.share_ranks == {share: int(np.ceil(share * features)) for share in SHARES}


def test_one_direction_has_rank_one_by_every_measure() -> None:
    measures = rank_measures(np.array([3.0, 0.0, 0.0]))
    assert (measures.stable, measures.effective) == (1.0, 1.0)
    assert set(measures.share_ranks.values()) == {1}


def test_rows_that_do_not_vary_have_rank_zero() -> None:
    spectrum = covariance_spectrum(sums(np.full((50, 4), 1.0)))
    measures = rank_measures(spectrum)
    assert (measures.stable, measures.effective, set(measures.share_ranks.values())) == (0.0, 0.0, {0})


def test_share_ranks_by_hand() -> None:
    measures = rank_measures(np.array([6.0, 3.0, 0.9, 0.1]), shares=(0.5, 0.6, 0.61, 0.9, 0.99, 1.0))
    assert list(measures.share_ranks.values()) == [1, 1, 2, 2, 3, 4]
    # exp(.3594 + .3643 + .3044 + .1653), the terms -p ln p of the roots 2.449, 1.732, .949 and .316 over their sum
    assert measures.effective == pytest.approx(3.2982, abs=1e-4)
    assert measures.stable == pytest.approx(10 / 6)


@settings(max_examples=100, deadline=None)
@given(spectrum=SPECTRA, scale=st.floats(1e-3, 1e3))
def test_measures_lie_between_one_and_the_dimension_and_ignore_scale(spectrum: FloatArray, scale: float) -> None:
    measures = rank_measures(spectrum)
    ranks = list(measures.share_ranks.values())
    rounding = 1 + 1e-12  # 30 terms, an exponential
    assert ranks == sorted(ranks)
    assert 1 <= ranks[0] <= ranks[-1] <= measures.dimension
    assert 1 <= measures.stable <= measures.effective * rounding <= measures.dimension * rounding**2
    scaled = rank_measures(spectrum * scale)
    assert scaled.stable == pytest.approx(measures.stable, rel=1e-12)
    assert scaled.effective == pytest.approx(measures.effective, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, rank=st.integers(0, 6))
def test_the_distance_to_a_rank_is_that_to_the_truncated_matrix(seed: int, rank: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((7, 5))
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    nearest = (left[:, :rank] * singular[:rank]) @ right[:rank]
    # both are sums of at most 35 squares of numbers about 1
    assert distance_to_rank(singular, rank) == pytest.approx(float(np.linalg.norm(matrix - nearest)), abs=1e-12)


def test_each_matrix_of_a_stack_gets_the_rank() -> None:
    assert distance_to_rank(np.array([[5.0, 3.0], [9.0, 4.0]]), 1) == pytest.approx(5.0)


def test_rounding_below_the_largest_value_is_no_rank() -> None:
    assert without_rounding(np.array([1.0, 1e-3, 1e-17, -1e-17])).tolist() == [1.0, 1e-3, 0.0, 0.0]
    assert without_rounding(np.zeros(0)).tolist() == []
