"""Collapse of classes: known answers, and the changes of an embedding that leave a measure as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_examples import sums

from rankfold.passes.collapse import Classes, Collapse, collapse_measures
from rankfold.runtime_calib.activation_rows import ClassSums
from rankfold.values import FloatArray

SEEDS = st.integers(0, 2**31)
EXACT = 1e-9
"""Relative: some hundred float64 operations on numbers whose condition is kept below 1e4 by the ways they are drawn."""


@dataclass(frozen=True)
class Labelled:
    rows: FloatArray
    labels: NDArray[np.intp]


def drawn(seed: int, *, classes: int = 4, features: int = 6, spread: float = 1.0) -> Labelled:
    """Return rows of classes of unequal size, at least two rows each."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), random.integers(2, 30, classes))
    means = 2 * random.standard_normal((classes, features))
    return Labelled(means[labels] + spread * random.standard_normal((len(labels), features)), labels)


def measured(rows: FloatArray, labels: NDArray[np.intp], parts: int = 1) -> Collapse:
    """Return the measures by way of the sums, the rows added in some parts."""
    classes = ClassSums.empty(int(labels.max()) + 1)
    for some, of in zip(np.array_split(rows, parts), np.array_split(labels, parts), strict=True):
        classes.add(some, of)
    assert classes.rows.pilot is not None
    return collapse_measures(Classes(classes.rows.moments, classes.counts, classes.totals, classes.rows.pilot))


def scatter(rows: FloatArray, labels: NDArray[np.intp]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return Σ_T, Σ_W and Σ_B, each by its own definition, row by row."""
    means = np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)])[labels]
    centre = rows.mean(axis=0)
    parts = (rows - centre, rows - means, means - centre)
    total, within, between = (part.T @ part / len(rows) for part in parts)
    return total, within, between


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_measures_are_what_their_definitions_say(seed: int) -> None:
    data = drawn(seed)
    total, within, between = scatter(data.rows, data.labels)
    found = measured(data.rows, data.labels)
    np.testing.assert_allclose(total, within + between, rtol=EXACT, atol=EXACT * np.trace(total))
    assert found.classes == 4
    assert found.within == pytest.approx(np.trace(within), rel=EXACT)
    assert found.within_share == pytest.approx(np.trace(within) / np.trace(total), rel=EXACT)
    inverse = np.linalg.pinv(between, rcond=1e-10, hermitian=True)  # rank 3 of 6: the rest is rounding
    assert found.nc1 == pytest.approx(np.trace(within @ inverse) / 4, rel=1e-6)  # pinv squares the condition
    spectrum = np.linalg.eigvalsh(between)[::-1]
    np.testing.assert_allclose(found.between, spectrum[: len(found.between)], rtol=EXACT, atol=EXACT * spectrum[0])
    energy = np.mean([data.rows[data.labels == label].mean(axis=0) @ data.rows[data.labels == label].mean(axis=0)
                      for label in data.labels])  # fmt: skip
    assert found.cluster_variation == pytest.approx(np.trace(within) / energy, rel=EXACT)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_collapsed_classes_measure_zero(seed: int) -> None:
    found = measured(*_fields(drawn(seed, spread=0.0)))
    # Σ_T - Σ_B cancels to float64's rounding of Σ_T
    assert found.nc1 == pytest.approx(0.0, abs=1e-9)
    assert found.within_share == pytest.approx(0.0, abs=1e-12)
    assert found.cluster_variation == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.01, 100))
def test_rotating_scaling_and_moving_change_neither_nc1_nor_the_share(seed: int, scale: float) -> None:
    data = drawn(seed)
    random = np.random.default_rng(seed + 1)
    turn, _ = np.linalg.qr(random.standard_normal((6, 6)))
    before = measured(data.rows, data.labels)
    after = measured(scale * data.rows @ turn + random.standard_normal(6), data.labels)
    assert after.nc1 == pytest.approx(before.nc1, rel=1e-6)
    assert after.within_share == pytest.approx(before.within_share, rel=EXACT)
    assert after.within == pytest.approx(scale**2 * before.within, rel=EXACT)
    still = measured(scale * data.rows @ turn, data.labels)
    assert still.cluster_variation == pytest.approx(before.cluster_variation, rel=EXACT)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_a_linear_map_leaves_nc1_where_class_means_span_all_features(seed: int) -> None:
    # Σ_B⁺ follows every invertible map where Σ_B is invertible, with more classes than features; else rotations only.
    data = drawn(seed, classes=12, features=3)
    random = np.random.default_rng(seed + 1)
    left, _ = np.linalg.qr(random.standard_normal((3, 3)))
    right, _ = np.linalg.qr(random.standard_normal((3, 3)))
    mapped = data.rows @ (left * random.uniform(0.1, 10, 3)) @ right
    assert measured(mapped, data.labels).nc1 == pytest.approx(measured(*_fields(data)).nc1, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, parts=st.integers(2, 6))
def test_measures_do_not_depend_on_how_rows_are_split(seed: int, parts: int) -> None:
    data = drawn(seed)
    once, split = measured(data.rows, data.labels), measured(data.rows, data.labels, parts)
    assert split.nc1 == pytest.approx(once.nc1, rel=1e-6)
    assert split.within == pytest.approx(once.within, rel=EXACT)
    assert split.cluster_variation == pytest.approx(once.cluster_variation, rel=EXACT)
    np.testing.assert_allclose(split.between, once.between, rtol=EXACT, atol=EXACT * once.between[0])


def test_a_direction_in_which_means_differ_by_rounding_does_not_count() -> None:
    data = drawn(3, features=2)
    noise = 1e-9 * np.random.default_rng(0).standard_normal((len(data.rows), 1))
    with_noise = measured(np.hstack([data.rows, noise]), data.labels)
    assert len(with_noise.between) == 2
    assert with_noise.nc1 == pytest.approx(measured(*_fields(data)).nc1, rel=1e-6)


def test_equal_class_means_and_equal_rows_leave_measures_open() -> None:
    labels = np.array([0, 0, 1, 1])
    found = measured(np.array([[1.0], [-1.0], [1.0], [-1.0]]), labels)
    assert (found.nc1, found.within_share, found.between) == (None, 1.0, ())
    found = measured(np.zeros((4, 2)), labels)
    assert (found.nc1, found.within_share, found.cluster_variation) == (None, None, None)


def test_sums_by_class_are_those_over_all_rows() -> None:
    data = drawn(5)
    classes = ClassSums.empty(4)
    for start in range(0, len(data.rows), 7):
        classes.add(data.rows[start : start + 7], data.labels[start : start + 7])
    plain = sums(data.rows)
    assert classes.counts.tolist() == np.bincount(data.labels).tolist()
    # about 60 rows of numbers below 10
    np.testing.assert_allclose(classes.rows.moments.covariance, plain.covariance, atol=1e-12)
    np.testing.assert_allclose(classes.totals.sum(axis=0), classes.rows.total, atol=1e-12)


def _fields(data: Labelled) -> tuple[FloatArray, NDArray[np.intp]]:
    return data.rows, data.labels
