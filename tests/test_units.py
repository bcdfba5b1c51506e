"""Joining units into batches."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankfold.runtime_calib.feeds import Unit, batched, sample_count


def unit(number: int, width: int = 2, *, scale: float = 1.0) -> Unit:
    return Unit({"x": np.full((1, width), number), "scale": np.array(scale)}, None, frozenset({"x"}))


@given(st.lists(st.integers(1, 3), max_size=30), st.integers(1, 7))
def test_order_sizes_and_shapes(widths, batch_size):
    batches = list(batched([unit(i, width) for i, width in enumerate(widths)], batch_size))
    assert [int(row[0]) for batch in batches for row in batch["x"]] == list(range(len(widths)))
    assert [batch["x"].shape[1] for batch in batches for _ in batch["x"]] == widths
    assert all(sample_count(batch) <= batch_size for batch in batches)
    for batch, following in pairwise(batches):  # a batch ends because it is full or because the shape changes
        assert sample_count(batch) == batch_size or batch["x"].shape[1] != following["x"].shape[1]


def test_units_with_other_constants_do_not_join():
    batches = batched([unit(0), unit(1), unit(2, scale=2.0)], 8)
    assert [(sample_count(batch), float(batch["scale"])) for batch in batches] == [(2, 1.0), (1, 2.0)]


def test_units_without_batch_axis_pass_as_they_are():
    units = [Unit({"x": np.zeros((4, 2))}) for _ in range(2)]
    batches = list(batched(units, 2))
    assert [batch["x"] is one.feed["x"] for batch, one in zip(batches, units, strict=True)] == [True, True]


def test_a_full_batch_is_given_before_the_next_unit_is_asked_for():
    asked = []

    def source():
        for i in range(4):
            asked.append(i)
            yield unit(i)

    batches = batched(source(), 2)
    next(batches)
    assert asked == [0, 1]


def test_batch_size_below_one():
    with pytest.raises(ValueError, match="batch_size is 0"):
        batched([], 0)


def test_sample_count_skips_scalars():
    assert sample_count({"scale": np.array(1.0), "x": np.zeros((5, 2))}) == 5
    assert sample_count({"scale": np.array(1.0)}) == 1
