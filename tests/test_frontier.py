"""The curve in one run: more budget never loses more, plans can be used, files are there with or without matplotlib."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from command_examples import parsed, run
from target_examples import QUICK, chain

from rankfold import pipeline
from rankfold.errors import PlanError
from rankfold.frontier import Frontier
from rankfold.options import Options
from rankfold.passes.plan_file import plan_from_json
from rankfold.tools.frontier_files import drawing, plan_name, svg

KEEPS = (0.9, 0.6, 0.4, 0.25, 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frontier")
    np.savez(folder / "samples.npz", x=chain(folder / "model.onnx", 3))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Frontier:
    options = replace(QUICK, held_out_to=folder / "held_out.npz")
    return pipeline.frontier(folder / "model.onnx", folder / "samples.npz", keeps=KEEPS, options=options)


def test_more_budget_never_loses_more_on_the_samples_that_compare(found: Frontier) -> None:
    assert [point.keep for point in found.points] == [0.9, 0.6, 0.4, 0.25]
    assert found.unreached == (0.05,)
    for larger, smaller in pairwise(found.points):
        assert larger.loss <= smaller.loss
    for point in found.points:
        assert point.plan.kept <= point.keep
        assert point.flops == pytest.approx(point.plan.kept)  # every layer is given one row per sample


def test_the_error_of_a_point_is_what_compress_reports_of_its_plan(found: Frontier, folder: Path) -> None:
    point = found.points[2]
    result = pipeline.compress(
        folder / "model.onnx", folder / "samples.npz", plan=point.plan, output=folder / "small.onnx", options=QUICK
    )
    candidate = pipeline.validate(folder / "model.onnx", result.path, folder / "held_out.npz", options=QUICK)
    assert candidate.samples == found.reporting
    # the session with masks multiplies in another order, in float32
    assert candidate.outputs[0].relative_l2 == pytest.approx(point.error, rel=1e-3)


def test_searched_points_beat_uniform_ones(found: Frontier, folder: Path) -> None:
    uniform = pipeline.compress(
        folder / "model.onnx",
        folder / "samples.npz",
        keep=0.4,
        output=folder / "uniform.onnx",
        options=replace(QUICK, allocation="uniform"),
    )
    # layers differ fivefold in how fast their singular values fall: a uniform ratio loses far more
    error = pipeline.validate(folder / "model.onnx", uniform.path, folder / "held_out.npz", options=QUICK)
    assert found.points[2].error < 0.9 * error.outputs[0].relative_l2


@pytest.mark.parametrize("keeps", [(), (0.5, 1.5), (0.0,)])
def test_senseless_shares_are_refused(keeps: tuple[float, ...], folder: Path) -> None:
    with pytest.raises(PlanError, match="expected numbers above 0 and at most 1"):
        pipeline.frontier(folder / "model.onnx", folder / "samples.npz", keeps=keeps)


def test_nothing_reachable_is_refused(folder: Path) -> None:
    with pytest.raises(PlanError, match=r"a kept share of 0.05 cannot be reached"):
        pipeline.frontier(folder / "model.onnx", folder / "samples.npz", keeps=(0.05,), options=QUICK)
    options = Options(exclude=("fc*",))
    with pytest.raises(PlanError, match="no layer is there"):
        pipeline.frontier(folder / "model.onnx", folder / "samples.npz", options=options)


@pytest.fixture
def written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    names = (str(folder / "model.onnx"), "--data", str(folder / "samples.npz"))
    run("frontier", *names, "-o", "curve", "--keeps", "0.6", "0.3", "--forwards", "20", "--quiet")
    return capsys.readouterr().out


def test_the_command_shows_the_curve_and_writes_a_plan_per_point(written: str, folder: Path) -> None:
    assert sorted(path.name for path in Path("curve").iterdir()) == ["frontier.json", "plan-0.3.json", "plan-0.6.json"]
    content = parsed(Path("curve/frontier.json").read_text())
    assert [point["keep"] for point in content["points"]] == [0.6, 0.3]
    for point in content["points"]:
        plan = plan_from_json(Path("curve", point["plan"]).read_text())
        assert plan.parameters_after == point["parameters"]
        assert f"{100 * plan.kept:.2f} % █" in written
    assert "FLOPs (counted)" in written
    assert "pip install 'rankfold[plots]'" in written
    words = (str(folder / "model.onnx"), "--data", str(folder / "samples.npz"), "-o", "small.onnx")
    run("compress", *words, "--plan", "curve/plan-0.3.json", "--quiet", "--json")


def test_points_that_are_nearly_the_same_have_plans_of_their_own(found: Frontier) -> None:
    names = [plan_name(replace(found.points[0], keep=keep)) for keep in (0.5, 0.5000001, 0.33, 1.0, 1)]
    assert names == ["plan-0.5.json", "plan-0.5000001.json", "plan-0.33.json", "plan-1.json", "plan-1.json"]


def test_bars_are_as_long_as_the_errors(found: Frontier) -> None:
    bars = [line.split()[2] for line in drawing(found).splitlines()[1:-1]]
    assert [len(bar) for bar in bars] == sorted(map(len, bars))
    assert len(bars[-1]) == 50
    assert drawing(found).endswith("Not reached: 0.05")


def test_the_picture_is_the_same_bytes_each_time(found: Frontier) -> None:
    picture = svg(found)
    assert picture is not None
    assert picture.startswith("<?xml")
    assert picture == svg(found)


def test_shares_that_make_no_sense_are_a_usage_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("frontier", str(folder / "model.onnx"), "--data", "none.npz", "--keeps", "1.5", code=2)
    assert "--keeps is 1.5" in capsys.readouterr().err
