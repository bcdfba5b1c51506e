"""Running sums about a pilot row become sums about zero."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_examples import gaussian

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.sums import Sums
from rankfold.values import Request


def test_the_pilot_row_is_added_back() -> None:
    rows = gaussian(40, 5, seed=1, scale=1.0).astype(np.float64) + 3
    pilot = np.full(5, 2.5, np.float32)
    sums = Sums.empty(5)
    for part in np.split(rows - pilot, 4):
        sums.add(part.T @ part, part.sum(axis=0)[None], np.array([[len(part)]]))
    found = sums.moments(Request("x"), pilot)
    assert found.count == 40
    # Sums of 40 products of size 20 in float64.
    np.testing.assert_allclose(found.total, rows.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.gram, rows.T @ rows, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    sums = Sums.empty(2)
    assert sums.finite
    sums.add(np.diag([1.0, bad]), np.zeros((1, 2)), np.ones((1, 1)))
    assert not sums.finite


def test_no_rows_have_no_moments() -> None:
    with pytest.raises(CalibrationDataError, match="activation 'x' has no rows"):
        Sums.empty(2).moments(Request("x"), np.zeros(2, np.float32))
