"""Collecting over batches: the sums do not depend on how rows are batched, and bad rows are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_examples import build, gaussian, opened, rows_of, sums

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.passes.model_file import Model
from rankfold.passes.taps import TapSetting, tap
from rankfold.runtime_calib.collect import Collector, probe
from rankfold.values import Feed, Moments, Request

REQUEST = Request("h")
# Some hundred float32 products of size one.
NEAR = 1e-4


def doubled(folder: Path) -> Model:
    return opened(build("g (float[a,t,4] x) => (float[a,t,4] y) { h = Add(x, x) y = Neg(h) }", {}), folder)


def collector(model: Model, *, stride: int = 1, seed: int = 0) -> Collector:
    return Collector(tap(model, {REQUEST: TapSetting(4, 3, stride)}), seed=seed)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_sums_do_not_depend_on_the_batches(cuts: list[int], tmp_path: Path) -> None:
    x = gaussian(sum(cuts), 3, 4, seed=1, scale=0.5)
    batches: list[Feed] = [{"x": part} for part in np.split(x, np.cumsum(cuts)[:-1])]
    found = collector(doubled(tmp_path)).collect(batches)[REQUEST]
    expected = sums(rows_of(x + x))
    assert found.count == expected.count
    assert found.total == pytest.approx(expected.total, rel=0, abs=NEAR)
    assert found.gram == pytest.approx(expected.gram, rel=0, abs=NEAR)
    assert found.gram.dtype == np.float64


def test_batches_are_read_once_and_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    def stream() -> Iterator[Feed]:
        for number in range(5):
            alive.append(number)
            yield {"x": np.ones((1, 1, 4), np.float32)}

    found = collector(doubled(tmp_path)).collect(stream())[REQUEST]
    assert alive == [0, 1, 2, 3, 4]
    assert found.count == 5


def test_a_long_stream_is_summed_in_float64(tmp_path: Path) -> None:
    # 2²⁴ + 1 is no float32: a float32 running sum would lose the small batches.
    large, small = np.full((1, 1, 4), 2.0**11, np.float32), np.full((1, 1, 4), 0.5, np.float32)
    found = collector(doubled(tmp_path)).collect([{"x": large}] + [{"x": small}] * 3)[REQUEST]
    assert found.gram[0, 0] == 2.0**24 + 3


def test_the_offset_of_a_stride_moves_from_batch_to_batch(tmp_path: Path) -> None:
    x = np.broadcast_to(np.arange(1.0, 9.0, dtype=np.float32)[None, :, None], (1, 8, 4)).copy()
    model = doubled(tmp_path)
    one = [collector(model, stride=8, seed=seed).collect([{"x": x}])[REQUEST].total[0] for seed in range(8)]
    assert len(set(one)) > 1
    many = collector(model, stride=8).collect([{"x": x}] * 200)[REQUEST]
    assert many.count == 200
    # The mean of uniform draws from 2, 4, …, 16 is 9 with deviation 4.6: of 200 draws within 5 × .33.
    assert many.mean[0] == pytest.approx(9.0, rel=0, abs=1.7)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    model, x = doubled(tmp_path), gaussian(8, 8, 4, seed=2)
    runs: list[Moments] = [collector(model, stride=4, seed=3).collect([{"x": x}] * 3)[REQUEST] for _ in range(2)]
    assert runs[0].gram.tobytes() == runs[1].gram.tobytes()
    other = collector(model, stride=4, seed=4).collect([{"x": x}] * 3)[REQUEST]
    assert other.gram.tobytes() != runs[0].gram.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])  # the square of the last overflows float32
@pytest.mark.parametrize("column", [0, 3])
def test_an_activation_that_is_not_finite_is_told(bad: float, column: int, tmp_path: Path) -> None:
    x = np.ones((2, 3, 4), np.float32)
    x[1, 2, column] = bad
    wanted = r"activation 'h' is NaN or infinite, or its squares overflow, in batch 1 of the data; check that batch"
    with pytest.raises(CalibrationDataError, match=wanted):
        collector(doubled(tmp_path)).collect([{"x": np.ones_like(x)}, {"x": x}])


def test_no_rows_are_told(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="activation 'h' has no rows in the whole of the data"):
        collector(doubled(tmp_path)).collect([{"x": np.ones((2, 0, 4), np.float32)}])


def test_an_empty_batch_among_others_adds_nothing(tmp_path: Path) -> None:
    full, empty = np.ones((2, 3, 4), np.float32), np.ones((2, 0, 4), np.float32)
    found = collector(doubled(tmp_path)).collect([{"x": empty}, {"x": full}, {"x": empty}])[REQUEST]
    assert found.count == 6
    np.testing.assert_array_equal(found.gram, np.full((4, 4), 24.0))


def test_a_batch_that_cannot_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match=r"cannot run the model on a batch of x float32\[2, 3, 5\]"):
        collector(doubled(tmp_path)).collect([{"x": np.ones((2, 3, 5), np.float32)}])


def test_probe_sees_shapes_and_types_of_any_tensor(tmp_path: Path) -> None:
    text = """g (float[n,6] x) => (float16[n,2,3] y) {
      s = Constant<value_ints=[0,2,3]>() h = Reshape(x, s) y = Cast<to=10>(h) }"""
    model = opened(build(text, {}), tmp_path)
    found = probe(model.path, ["x", "h", "y"], {"x": np.ones((5, 6), np.float32)}, exposed=["y"])
    assert {name: (seen.shape, seen.dtype) for name, seen in found.items()} == {
        "x": ((5, 6), "float32"),
        "h": ((5, 2, 3), "float32"),
        "y": ((5, 2, 3), "float16"),
    }


def test_probing_what_is_not_there_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="refuses it on cpu"):
        probe(doubled(tmp_path).path, ["nowhere"], {"x": np.ones((1, 1, 4), np.float32)}, exposed=["y"])
