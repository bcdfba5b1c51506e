"""What cannot be done is refused by message, before any work where that can be known, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_examples import build, gaussian, mlp, run, save

from rankfold.errors import CalibrationDataError, ModelError, OptionsError, OutputError, PlanError
from rankfold.pipeline import Options, compress
from rankfold.values import Feed, RankPlan

QUICK = Options(latency_rounds=0)
ROWS = gaussian(100, 32, scale=1.0)
PLAN = RankPlan("0" * 64, "by hand", 0, 0, ())


class Unread:
    """Data that must not be asked for."""

    def __iter__(self) -> Iterator[Feed]:
        raise AssertionError("the data was read")


@pytest.mark.parametrize(
    ("keep", "energy", "plan", "given"),
    [(None, None, None, 0), (0.5, 0.9, None, 2), (0.5, None, PLAN, 2), (None, 0.9, PLAN, 2), (0.5, 0.9, PLAN, 3)],
)
def test_exactly_one_budget_is_wanted(
    keep: float | None, energy: float | None, plan: RankPlan | None, given: int, tmp_path: Path
) -> None:
    with pytest.raises(
        PlanError, match=f"{given} budgets were given; expected exactly one of keep, energy, plan, max_error"
    ):
        compress(tmp_path / "none.onnx", Unread(), keep=keep, energy=energy, plan=plan)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.001, 50.0, float("nan")])
@pytest.mark.parametrize("kind", ["keep", "energy"])
def test_a_share_out_of_range_is_refused(share: float, kind: str, tmp_path: Path) -> None:
    keep, energy = (share, None) if kind == "keep" else (None, share)
    with pytest.raises(PlanError, match=f"the share is {share}; expected a number above 0 and at most 1"):
        compress(tmp_path / "none.onnx", Unread(), keep=keep, energy=energy)


@pytest.mark.parametrize("place", ["m.onnx/o.onnx", "nowhere/o.onnx", "."])
def test_an_unwritable_place_is_refused_before_any_work(place: str, tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx")
    with pytest.raises(OutputError, match=r"cannot be written \(.+\); give a file in a folder that exists"):
        compress(path, Unread(), keep=0.5, output=tmp_path / place)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


def test_a_plan_for_another_model_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the plan was made for a model of sha256 000000000000…"):
        compress(mlp(tmp_path / "m.onnx"), Unread(), plan=PLAN)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_told(bad: float, tmp_path: Path) -> None:
    weight = gaussian(32, 64)
    weight[1, 2] = bad
    text = "g (float[n,32] x) => (float[n,32] y) { [fc1] h = MatMul(x, w) [fc2] y = MatMul(h, v) }"
    path = save(build(text, {"w": weight, "v": gaussian(64, 32)}), tmp_path / "m.onnx")
    # The activations behind the weight are not finite either; either finding says what to look at.
    with pytest.raises((ModelError, CalibrationDataError), match=r"NaN or infinite.*--exclude"):
        compress(path, {"x": ROWS}, keep=0.5, options=QUICK)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


def test_a_weight_that_is_not_finite_and_collected_on_its_input_is_named(tmp_path: Path) -> None:
    weight = gaussian(32, 64)
    weight[1, 2] = np.nan
    text = "g (float[n,32] x) => (float[n,64] y) { [fc1] y = MatMul(x, w) }"
    path = save(build(text, {"w": weight}), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="weight 'w' of node 'fc1' holds 1 values that are NaN or infinite"):
        compress(path, {"x": ROWS}, keep=0.5, options=QUICK)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


def test_data_that_is_not_finite_is_told(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[50, 3] = np.nan
    with pytest.raises(CalibrationDataError, match="NaN"):
        compress(mlp(tmp_path / "m.onnx"), {"x": rows}, keep=0.5, options=QUICK)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_are_told(count: int, tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="sample"):
        compress(mlp(tmp_path / "m.onnx"), {"x": ROWS[:count]}, keep=0.5, options=QUICK)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("holdout", [0.0, 1.0, -0.2, 1.5])
def test_a_held_out_share_out_of_range_is_told(holdout: float, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=f"option holdout is {holdout}; expected a number above 0 and below 1"):
        compress(mlp(tmp_path / "m.onnx"), {"x": ROWS}, keep=0.5, options=replace(QUICK, holdout=holdout))


def test_an_unreachable_share_says_what_can_be_reached(tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx")
    reachable = 8 * (32 + 64 + 64 + 16) / 3072
    with pytest.raises(PlanError, match=f"a kept share of 0.3 cannot be reached: .* {reachable:.4f} of the parameters"):
        compress(path, {"x": ROWS}, keep=0.3, options=QUICK)
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


def test_a_gemm_whose_alpha_is_zero_does_no_harm(tmp_path: Path) -> None:
    text = "g (float[n,32] x) => (float[n,32] y) { [fc1] h = Gemm<alpha=0.0>(x, w, b) [fc2] y = MatMul(h, v) }"
    weights = {"w": gaussian(32, 24), "b": gaussian(24, scale=1.0), "v": gaussian(24, 32)}
    path = save(build(text, weights), tmp_path / "m.onnx")
    result = compress(path, {"x": ROWS}, keep=0.7, options=QUICK)
    # Every row is the same, so that one direction and a bias hold all: some 30 roundings of 6e-8.
    np.testing.assert_allclose(run(result.path, {"x": ROWS})[0], run(path, {"x": ROWS})[0], rtol=0, atol=1e-5)


def test_a_layer_that_only_sees_zeros_does_no_harm(tmp_path: Path) -> None:
    text = "g (float[n,32] x) => (float[n,32] y) { n = Neg(x) z = Add(x, n) [fc] h = MatMul(z, w) y = Add(h, b) }"
    path = save(build(text, {"w": gaussian(32, 32), "b": gaussian(32)}), tmp_path / "m.onnx")
    result = compress(path, {"x": ROWS}, keep=0.6, options=QUICK)
    assert result.report.changed
    assert result.report.sites[0].predicted_error == 0
    np.testing.assert_array_equal(run(result.path, {"x": ROWS})[0], run(path, {"x": ROWS})[0])
