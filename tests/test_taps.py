"""Sums made inside the graph equal numpy's on the tensors themselves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx_examples import Array, build, gaussian, opened, rows_of, run

from rankfold.passes.taps import OLDEST_STRIDED_OPSET, TapSetting, tap
from rankfold.runtime_calib.collect import Collector
from rankfold.values import FeatureAxis, Feed, Moments, Request, Tapped

DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16}
# Sums of at most a hundred products of size about one: some tens of roundings. float16 rows are widened before they
# are multiplied, so that they cost no more than float32's.
NEAR = {"float": 1e-4, "double": 1e-12, "float16": 1e-4}
SHAPES = [(7,), (5, 7), (3, 5, 7), (2, 3, 5, 7)]


def header(opset: int) -> str:
    return f'<ir_version: {4 if opset < 10 else 8}, opset_import: ["" : {opset}]>'


def tapped(
    folder: Path, x: Array, setting: TapSetting, *, axis: FeatureAxis = -1, opset: int = 17, mask: str = ""
) -> Tapped:
    """Return a tapped model whose tensor `h` is the input, twice."""
    kind = next(name for name, dtype in DTYPES.items() if dtype == x.dtype)
    axes = ",".join(f"a{place}" for place in range(x.ndim))
    inputs = f"{kind}[{axes}] x" + (f", {mask} m" if mask else "")
    text = f"g ({inputs}) => ({kind}[{axes}] y) {{ h = Add(x, x) y = Neg(h) }}"
    model = opened(build(text, {}, header=header(opset)), folder)
    return tap(model, {Request("h", axis): setting}, mask="m" if mask else None)


def summed(made: Tapped, feed: Feed, offset: int = 0) -> Moments:
    """Run a tapped model once, in plain onnxruntime, and return its sums."""
    proto = onnx.load(made.source)
    proto.MergeFromString(made.addition)
    ((_, names),) = made.taps.items()
    full = feed | {made.offset_input: np.array([offset], np.int64)}
    gram, total, count = run(proto, full, names.gram, names.total, names.count)
    return Moments(float(count[0, 0]), total[0].astype(np.float64), gram.astype(np.float64))  # type: ignore[arg-type]


def assert_sums(found: Moments, rows: NDArray[np.float64], near: float) -> None:
    assert found.count == len(rows)
    assert found.total == pytest.approx(rows.sum(axis=0), rel=0, abs=near)
    assert found.gram == pytest.approx(rows.T @ rows, rel=0, abs=near)


def numbers(shape: tuple[int, ...], dtype: str = "float") -> Array:
    return gaussian(*shape, seed=3, scale=0.5).astype(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_over_the_last_axis(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    x = numbers(shape, dtype)
    made = tapped(tmp_path, x, TapSetting(features=7, rank=len(shape), wide=dtype == "double"))
    assert_sums(summed(made, {"x": x}), rows_of(x + x), NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_sums_over_the_axis_before(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    x = numbers(shape, dtype)
    made = tapped(tmp_path, x, TapSetting(features=5, rank=len(shape), wide=dtype == "double"), axis=-2)
    assert_sums(summed(made, {"x": x}), rows_of(x + x, -2), NEAR[dtype])


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("stride", [1, 2, 3, 7, 30, 31, 64])
def test_over_all_offsets_of_a_stride_the_sums_add_up_to_the_whole(
    stride: int, axis: FeatureAxis, tmp_path: Path
) -> None:
    x = numbers((6, 5, 5))
    made = tapped(tmp_path, x, TapSetting(features=5, rank=3, stride=stride), axis=axis)
    rows = rows_of(x + x, axis)
    parts = [summed(made, {"x": x}, offset) for offset in range(stride)]
    for offset, part in enumerate(parts):
        assert_sums(part, rows[offset::stride], NEAR["float"])
    assert_sums(sum(parts[1:], parts[0]), rows, NEAR["float"])
    if stride < len(rows):
        assert not np.array_equal(parts[0].gram, parts[-1].gram) or stride == 1


def test_offsets_count_modulo_the_stride(tmp_path: Path) -> None:
    x = numbers((9, 4))
    made = tapped(tmp_path, x, TapSetting(features=4, rank=2, stride=4))
    np.testing.assert_array_equal(summed(made, {"x": x}, 7).gram, summed(made, {"x": x}, 3).gram)


@pytest.mark.parametrize("kind", ["int64[b,t]", "float[b,t]", "bool[b,t]"])
@pytest.mark.parametrize("stride", [1, 3])
def test_masked_rows_do_not_count(kind: str, stride: int, tmp_path: Path) -> None:
    x = numbers((4, 5, 6))
    dtype = {"i": np.int64, "f": np.float32, "b": np.bool_}[kind[0]]
    mask = (np.arange(20).reshape(4, 5) % 3 > 0).astype(dtype) * dtype(1)
    x[mask == 0] = np.nan  # whatever stands there
    made = tapped(tmp_path, x, TapSetting(features=6, rank=3, stride=stride, masked="rows"), mask=kind)
    for offset in range(stride):
        chosen = mask.reshape(-1)[offset::stride].astype(bool)
        assert_sums(summed(made, {"x": x, "m": mask}, offset), rows_of(x + x)[offset::stride][chosen], NEAR["float"])


def test_a_mask_leaves_tensors_with_other_rows_alone(tmp_path: Path) -> None:
    x = numbers((4, 6))
    made = tapped(tmp_path, x, TapSetting(features=6, rank=2), mask="int64[b,t]")
    assert_sums(summed(made, {"x": x, "m": np.zeros((4, 5), np.int64)}), rows_of(x + x), NEAR["float"])


OPSETS = [7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 21, 22, 23]


@pytest.mark.parametrize(("opset", "masked"), [*((o, False) for o in OPSETS), *((o, True) for o in OPSETS if o >= 9)])
def test_every_opset_runs(opset: int, masked: bool, tmp_path: Path) -> None:
    x = numbers((4, 5, 6))
    stride = 1 if opset < OLDEST_STRIDED_OPSET else 2
    setting = TapSetting(features=6, rank=3, stride=stride, masked="rows" if masked else "")
    made = tapped(tmp_path, x, setting, opset=opset, mask="int64[b,t]" if masked else "")
    mask = (np.arange(20).reshape(4, 5) % 3 > 0).astype(np.int64)
    chosen = mask.reshape(-1)[1 % stride :: stride].astype(bool) if masked else slice(None)
    feed: Feed = {"x": x, "m": mask} if masked else {"x": x}
    assert_sums(summed(made, feed, 1), rows_of(x + x)[1 % stride :: stride][chosen], NEAR["float"])
    collected = Collector(made, seed=0).collect([feed])
    assert collected[Request("h")].count in {math.ceil(20 / stride), 10, 13, 6, 7}


def test_one_model_takes_several_taps(tmp_path: Path) -> None:
    x = numbers((5, 4))
    model = opened(build("g (float[a,b] x) => (float[a,b] y) { h = Add(x, x) y = Neg(h) }", {}), tmp_path)
    asked = {Request("x"): 4, Request("h"): 4, Request("y", -2): 5}
    made = tap(model, {request: TapSetting(features, 2) for request, features in asked.items()})
    proto = onnx.load(made.source)
    proto.MergeFromString(made.addition)
    rows = [rows_of(x), rows_of(x + x), rows_of(-x - x, -2)]
    for (request, names), expected in zip(made.taps.items(), rows, strict=True):
        assert request in asked
        (gram,) = run(proto, {"x": x, made.offset_input: np.zeros(1, np.int64)}, names.gram)
        assert gram == pytest.approx(expected.T @ expected, rel=0, abs=NEAR["float"])


def test_tapping_changes_neither_the_model_nor_its_outputs(tmp_path: Path) -> None:
    x = numbers((5, 4))
    made = tapped(tmp_path, x, TapSetting(4, 2))
    before = made.source.read_bytes()
    proto = onnx.load(made.source)
    proto.MergeFromString(made.addition)
    assert made.source.read_bytes() == before
    (y,) = run(proto, {"x": x, made.offset_input: np.zeros(1, np.int64)}, "y")
    np.testing.assert_array_equal(y, -(x + x))
