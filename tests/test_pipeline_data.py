"""The stages by themselves, and the forms in which data comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_examples import build, gaussian, low_rank_rows, mlp, run, save

from rankfold.errors import CalibrationDataError, PlanError, RankfoldError
from rankfold.pipeline import Options, analyze, calibrate, compress, load_calibration, make_plan, save_calibration
from rankfold.tapping import LARGEST_STRIDE, ROWS_PER_FEATURE
from rankfold.values import Calibration, Energy, Feed, Keep, Request

QUICK = Options(latency_rounds=0)
ROWS = low_rank_rows(200, 32, 12, seed=1, offset=1.0) + gaussian(200, 32, seed=2, scale=0.05)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp(tmp_path_factory.mktemp("base") / "mlp.onnx")


def same(first: Calibration, second: Calibration) -> bool:
    return (first.model_digest, first.samples, first.held_out_samples, first.row_strides, first.settings) == (
        second.model_digest, second.samples, second.held_out_samples, second.row_strides, second.settings
    ) and all(
        (side[request].count, side[request].total.tobytes(), side[request].gram.tobytes())
        == (other[request].count, other[request].total.tobytes(), other[request].gram.tobytes())
        for side, other in ((first.moments, second.moments), (first.held_out, second.held_out))
        for request in side
    )  # fmt: skip


@pytest.mark.parametrize("budget", [Keep(0.5), Keep(0.8), Energy(0.95)])
def test_stage_by_stage_gives_the_plan_of_the_whole(base: Path, budget: Keep | Energy, tmp_path: Path) -> None:
    calibration = calibrate(base, {"x": ROWS})
    save_calibration(calibration, tmp_path / "c.npz")
    loaded = load_calibration(tmp_path / "c.npz")
    assert same(loaded, calibration)
    plan = make_plan(base, loaded, budget=budget)
    keep, energy = (budget.share, None) if isinstance(budget, Keep) else (None, budget.share)
    whole = compress(base, {"x": ROWS}, keep=keep, energy=energy, output=tmp_path / "o.onnx", options=QUICK)
    assert plan == whole.plan
    assert compress(base, {"x": ROWS}, plan=plan, output=tmp_path / "p.onnx", options=QUICK).plan == whole.plan
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


def test_moments_are_of_the_calibration_rows_and_held_out_of_the_others(base: Path) -> None:
    calibration = calibrate(base, {"x": ROWS})
    (request, *_) = calibration.moments
    assert request == Request("x")
    both = calibration.moments[request] + calibration.held_out[request]
    assert (calibration.samples, calibration.held_out_samples, both.count) == (160, 40, 200)
    # 200 float32 products of size one, summed per batch of 8 in float32.
    assert both.gram == pytest.approx(ROWS.T.astype(np.float64) @ ROWS, rel=0, abs=1e-3)
    assert both.total == pytest.approx(ROWS.sum(axis=0, dtype=np.float64), rel=0, abs=1e-3)


class Reader:
    """What onnxruntime calls a CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = iter(ROWS)

    def get_next(self) -> Feed | None:
        row = next(self.left, None)
        return None if row is None else {"x": row[None]}


def generator() -> Iterator[Feed]:
    yield from ({"x": row[None]} for row in ROWS)


def test_data_that_can_be_read_once_gives_the_same_result(base: Path, tmp_path: Path) -> None:
    results = [
        compress(base, data, keep=0.5, output=tmp_path / f"{place}.onnx", options=QUICK).path.read_bytes()
        for place, data in enumerate((generator(), Reader(), [{"x": ROWS}]))
    ]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_moments_do_not_depend_on_the_batch_size(base: Path, batch_size: int) -> None:
    expected = calibrate(base, {"x": ROWS})
    found = calibrate(base, {"x": ROWS}, options=Options(batch_size=batch_size))
    for request, moments in expected.moments.items():
        assert found.moments[request].count == moments.count
        # Float32 sums of at most 160 products of size ten.
        assert found.moments[request].gram == pytest.approx(moments.gram, rel=0, abs=1e-2)


def tokens(folder: Path) -> Path:
    text = "g (float[n,64,8] x) => (float[n,64,8] y) { [fc] h = MatMul(x, w) y = Add(h, b) }"
    return save(build(text, {"w": gaussian(8, 8), "b": gaussian(8)}), folder / "tokens.onnx")


@pytest.mark.parametrize("samples", [4, 10, 40, 400])
def test_the_stride_leaves_enough_rows_per_feature(samples: int, tmp_path: Path) -> None:
    x = {"x": gaussian(samples, 64, 8, scale=1.0)}
    np.savez(tmp_path / "x.npz", **x)
    calibration = calibrate(tokens(tmp_path), tmp_path / "x.npz")
    (stride,) = calibration.row_strides.values()
    rows = calibration.samples * 64
    assert 1 <= stride <= LARGEST_STRIDE
    # A share held out of few samples is rounded up: one sample's rows may be missing.
    assert stride == 1 or (rows + 64) / stride >= ROWS_PER_FEATURE * 8
    assert stride == LARGEST_STRIDE or rows / (stride + 1) <= ROWS_PER_FEATURE * 8
    (moments,) = calibration.moments.values()
    batches = -(-calibration.samples // 8)
    assert abs(moments.count - rows / stride) <= batches


@pytest.mark.parametrize("stride", [1, 3, 100])
def test_a_stride_that_is_asked_for_is_taken(stride: int, tmp_path: Path) -> None:
    calibration = calibrate(tokens(tmp_path), {"x": gaussian(50, 64, 8)}, options=Options(row_stride=stride))
    assert set(calibration.row_strides.values()) == {stride}
    assert calibration.samples == 40
    (moments,) = calibration.moments.values()
    assert abs(moments.count - 40 * 64 / stride) <= 5  # one row more or less in each of five batches


def test_a_stream_of_unknown_length_is_taken_whole(tmp_path: Path) -> None:
    feeds: Iterator[Feed] = ({"x": gaussian(1, 64, 8, seed=seed)} for seed in range(50))
    assert set(calibrate(tokens(tmp_path), feeds).row_strides.values()) == {1}


def test_fewer_rows_than_features_are_warned_of_and_damped(base: Path, tmp_path: Path) -> None:
    few = compress(base, {"x": ROWS[:20]}, keep=0.5, output=tmp_path / "o.onnx", options=QUICK).report
    assert len(few.warnings) == 1
    assert few.warnings[0].startswith("site 'fc1': 16 calibration rows for 32 features; the second moment is rank-def")
    assert few.sites[0].damping > 0
    enough = compress(base, {"x": ROWS}, keep=0.5, output=tmp_path / "o.onnx", options=QUICK).report
    assert enough.warnings == ()
    assert analyze(base, {"x": ROWS[:20]}).warnings == few.warnings


def test_a_mask_keeps_padding_out(tmp_path: Path) -> None:
    text = "g (float[n,64,8] x, int64[n,64] m) => (float[n,64,8] y) { [fc] h = MatMul(x, w) y = Add(h, b) }"
    path = save(build(text, {"w": gaussian(8, 8), "b": gaussian(8)}), tmp_path / "m.onnx")
    x, mask = gaussian(20, 64, 8, scale=1.0), (np.arange(64) < 40).astype(np.int64)[None].repeat(20, axis=0)
    x[:, 40:] = 1e3
    calibration = calibrate(path, {"x": x, "m": mask}, options=Options(mask="m", row_stride=1))
    (moments,) = calibration.moments.values()
    assert moments.count == 16 * 40
    assert np.abs(moments.mean).max() < 1
    with pytest.raises(CalibrationDataError, match=r"mask 'padding' is no input of .*; its inputs are x, m"):
        calibrate(path, {"x": x, "m": mask}, options=Options(mask="padding"))


def test_a_model_with_external_data_goes_all_the_way(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    plain = mlp(tmp_path / "plain.onnx", width=128)
    source, target = tmp_path / "in" / "m.onnx", tmp_path / "out" / "o.onnx"
    onnx.save(onnx.load(plain), source, save_as_external_data=True, location="w.bin", size_threshold=0)
    result = compress(source, {"x": ROWS}, keep=0.5, output=target, options=QUICK)
    expected = compress(plain, {"x": ROWS}, keep=0.5, output=tmp_path / "p.onnx", options=QUICK)
    assert [line.rank for line in result.plan.sites] == [line.rank for line in expected.plan.sites]
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    np.testing.assert_array_equal(run(result.path, {"x": ROWS})[0], run(expected.path, {"x": ROWS})[0])
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_analyze_tells_ranks_with_data_and_sites_without(base: Path) -> None:
    bare, full = analyze(base), analyze(base, {"x": ROWS})
    assert [(s.name, s.in_features, s.out_features, s.uses, s.rows) for s in bare.sites] == [
        ("fc1", 32, 64, 1, 0), ("fc2", 64, 16, 1, 0)
    ]  # fmt: skip
    assert [s.break_even_rank for s in bare.sites] == [21, 12]
    assert bare.sites[0].numerical_rank is None
    assert full.sites[0].numerical_rank == 32
    ranks = list(full.sites[0].energy_ranks.values())
    assert ranks == sorted(ranks)
    assert ranks[0] <= 12  # nine tenths lie in the twelve strong directions


def test_a_calibration_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    calibration = calibrate(base, {"x": ROWS})
    with pytest.raises(PlanError, match=r"the calibration was collected on another model than .*other.onnx"):
        make_plan(mlp(tmp_path / "other.onnx", seed=9), calibration, budget=Keep(0.5))


def test_a_calibration_without_some_sites_is_refused(base: Path) -> None:
    calibration = calibrate(base, {"x": ROWS}, options=replace(QUICK, exclude=("fc2",)))
    with pytest.raises(RankfoldError, match=r"fc2|exclude"):
        make_plan(base, calibration, budget=Keep(0.5))


@pytest.mark.parametrize("layout", ["batch first", "tokens first", "flat", "between"])
def test_the_mask_follows_the_order_of_a_layers_rows(layout: str, tmp_path: Path) -> None:
    """Real tokens lie in 6 directions, padding in all: a mask in the wrong order would need more."""
    before, after = {
        "batch first": ("t = Identity(x)", "y = Identity(h)"),
        "tokens first": ("t = Transpose<perm=[1,0,2]>(x)", "y = Transpose<perm=[1,0,2]>(h)"),
        "flat": ("t = Reshape(x, flat)", "y = Reshape(h, back)"),
        "between": ("t = Unsqueeze(x, one)", "y = Squeeze(h, one)"),
    }[layout]
    text = f"g (float[n,5,32] x, int64[n,5] m) => (float[n,5,32] y) {{ {before} h = MatMul(t, w) {after} }}"
    sizes = {"flat": np.array([-1, 32]), "back": np.array([-1, 5, 32]), "one": np.array([1])}
    used = {name: value for name, value in sizes.items() if f"{name})" in text}
    path = save(build(text, {"w": gaussian(32, 32)} | used), tmp_path / "m.onnx")
    mask = (np.arange(5)[None] < np.random.default_rng(1).integers(1, 6, 200)[:, None]).astype(np.int64)
    real, padding = low_rank_rows(1000, 32, 6).reshape(200, 5, 32), gaussian(200, 5, 32, seed=2, scale=30.0)
    x = np.where(mask[..., None] > 0, real, padding).astype(np.float32)
    options = Options(mask="m", latency_rounds=0)
    done = compress(path, {"x": x, "m": mask}, keep=0.5, output=tmp_path / "o.onnx", options=options)
    (line,) = done.plan.folded
    assert line.rank == 8
    assert line.predicted_error < 1e-6  # rounding of float32 sums
