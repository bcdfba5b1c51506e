"""`--utilized`: the folded model computes `P_S W P_T` exactly, plans keep it, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_examples import build, gaussian, low_rank_rows, run, save
from scipy import linalg

from rankfold import pipeline
from rankfold.errors import PlanError
from rankfold.passes.plan_file import plan_digest, plan_from_json, plan_to_json
from rankfold.pipeline import Options, Result, compress
from rankfold.projections import Projection
from rankfold.values import RankPlan

QUICK = Options(latency_rounds=0, row_stride=1)
WIDTHS = {"wide": (16, 40), "narrow": (40, 16)}
SHARE = 0.95


def rows_of(features: int, count: int = 250) -> np.ndarray:
    return low_rank_rows(count, features, 6, seed=1, offset=2.0) + gaussian(count, features, seed=2, scale=0.05)


def layer(path: Path, widths: tuple[int, int], body: str) -> Path:
    weights = {"w": gaussian(*widths), "b": gaussian(widths[1], seed=3, scale=0.5)}
    text = f"g (float[n,{widths[0]}] x) => (float[n,{widths[1]}] y) {{ {body} }}"
    return save(build(text, weights), path)


def calibration_rows(result: Result, rows: np.ndarray) -> np.ndarray:
    assert result.held_out is not None
    with np.load(result.held_out) as file:
        kept = {row.tobytes() for name in file.files for row in file[name]}
    return np.stack([row for row in rows if row.tobytes() not in kept]).astype(np.float64)


def projector(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    values, vectors = linalg.eigh(matrix)
    held = np.cumsum(values[::-1]) / values.sum()
    kept = int(np.argmax(held >= SHARE)) + 1
    top = vectors[:, ::-1][:, :kept]
    return top @ top.T, kept


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    "body", ["[fc] y = Gemm(x, w, b)", "[fc] p = MatMul(x, w) y = Add(p, b)", "[fc] y = MatMul(x, w)"]
)
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_the_folded_model_computes_the_projected_weight(
    widths: tuple[int, int], body: str, centred: bool, tmp_path: Path
) -> None:
    path, x = layer(tmp_path / "model.onnx", widths, body), rows_of(widths[0])
    options = replace(QUICK, centred=centred, held_out_to=tmp_path / "held.npz")
    result = compress(path, {"x": x}, utilized=SHARE, output=tmp_path / "out.onnx", options=options)
    rows, weight = calibration_rows(result, x), gaussian(*widths).astype(np.float64)
    mean = rows.mean(axis=0) if centred else np.zeros(widths[0])
    matrix = (rows - mean).T @ (rows - mean) / len(rows)
    (p_s, k_s), (p_t, k_t) = projector(matrix), projector(weight.T @ matrix @ weight)
    projected = p_s @ weight @ p_t
    (site,) = result.report.sites
    assert site.projection == Projection(k_s, k_t, centred)
    assert site.rank == min(k_s, k_t)
    left = weight - projected
    lost = np.trace(left.T @ matrix @ left) / np.trace(weight.T @ matrix @ weight)
    # sums of squares in float32, relative 6e-8 of the whole, beside a loss of some percent
    assert site.predicted_error == pytest.approx(lost, rel=0, abs=1e-5)
    assert site.losses is not None
    assert site.losses.both == site.predicted_error
    assert site.losses.outputs <= 1 - SHARE + 1e-9
    shapes = sorted(list(tensor.dims) for tensor in onnx.load(result.path).graph.initializer if len(tensor.dims) == 2)
    assert shapes == sorted([[widths[0], site.rank], [site.rank, widths[1]]])
    anything = gaussian(20, widths[0], seed=9, scale=1.0)  # in directions that calibration never saw, too
    bias = gaussian(widths[1], seed=3, scale=0.5) if "b)" in body else 0.0
    expected = anything @ projected + bias + mean @ (weight - projected)
    # eigenvectors of float32 sums turn by 6e-8 over gaps of a hundredth of the whole, on rows of length 6
    assert run(result.path, {"x": anything})[0] == pytest.approx(expected, rel=0, abs=2e-3)


CONV = """
g (float[n,4,6,6] x) => (float[n,24,6,6] y) {
  [conv] h = Conv<pads=[1,1,1,1]>(x, w, b)
  y = Relu(h)
}
"""


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, Result]:
    folder = tmp_path_factory.mktemp("conv")
    weights = {"w": gaussian(24, 4, 3, 3, scale=0.2), "b": gaussian(24, seed=1, scale=0.5)}
    path = save(build(CONV, weights), folder / "model.onnx")
    x = gaussian(40, 4, 6, 6, seed=2, scale=1.0).cumsum(axis=2).cumsum(axis=3).astype(np.float32)
    options = replace(QUICK, held_out_to=folder / "held.npz")
    return path, x, compress(path, {"x": x}, utilized=0.9, output=folder / "out.onnx", options=options)


def test_a_convolution_is_folded_between_projections_too(conv: tuple[Path, np.ndarray, Result]) -> None:
    path, x, result = conv
    (site,) = result.report.sites
    assert site.rank is not None
    assert site.rank < 24
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(result.path).graph.initializer}
    assert kept["conv/down"].shape == (site.rank, 4, 3, 3)
    found = pipeline.utilization(path, {"x": x}, shares=(0.9,), options=QUICK)
    (ranks,) = found.sites[0].shares
    assert (ranks.inputs, ranks.outputs, ranks.rank) == (site.projection.inputs, site.projection.outputs, site.rank)
    assert ranks.losses == site.losses
    assert ranks.held_out == site.measured_error
    before, after = (run(model, {"x": x})[0] for model in (path, result.path))
    assert 0.01 < np.linalg.norm(after - before) / np.linalg.norm(before) < 0.5


def test_a_plan_with_projections_survives_json_and_gives_the_same_bytes(conv: tuple[Path, np.ndarray, Result]) -> None:
    path, x, result = conv
    text = plan_to_json(result.plan)
    assert '"projection": {"inputs": ' in text
    plan = plan_from_json(text)
    assert plan == result.plan
    again = compress(path, {"x": x}, plan=plan, output=path.parent / "again.onnx", options=QUICK)
    assert again.path.read_bytes() == result.path.read_bytes()
    plain = RankPlan(*(getattr(plan, name) for name in ("model_digest", "made_by")), 0, 0,
                     tuple(replace(line, projection=None) for line in plan.sites))  # fmt: skip
    assert plan_digest(plain) != plan_digest(plan)
    best = compress(path, {"x": x}, plan=plain, output=path.parent / "best.onnx", options=replace(QUICK, basis="data"))
    # the leading eigenvectors of S at that rank lose least
    assert best.report.sites[0].predicted_error <= result.report.sites[0].predicted_error + 1e-6


WRONG = [
    ({"projection": Projection(0, 3, True)}, "a projection on 0 directions of its inputs; expected 1 to 36"),
    ({"projection": Projection(3, 25, True)}, "a projection on 25 directions of its outputs; expected 1 to 24"),
    ({"projection": Projection(3, 3, True), "rank": 2}, "has rank 2, pair, and a projection on 3 and 3 directions"),
    ({"projection": Projection(3, 3, True), "rank": 3, "form": "pivoted"}, "has rank 3, pivoted, and a projection"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_projection_that_does_not_fit_is_refused(
    change: dict[str, object], message: str, conv: tuple[Path, np.ndarray, Result]
) -> None:
    path, x, result = conv
    (line,) = result.plan.sites
    plan = replace(result.plan, sites=(replace(line, **change),))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=message):
        compress(path, {"x": x}, plan=plan, output=path.parent / "wrong.onnx", options=QUICK)


def test_a_projection_that_is_no_number_is_refused(conv: tuple[Path, np.ndarray, Result]) -> None:
    text = plan_to_json(conv[2].plan)
    for wrong in (text.replace('"centred": true', '"centred": 1'), text.replace('"inputs": ', '"inputs": 0.5, "x": ')):
        assert wrong != text
        with pytest.raises(PlanError, match="has a projection"):
            plan_from_json(wrong)


def test_a_site_that_saves_nothing_stays_dense_and_is_told(tmp_path: Path) -> None:
    path = layer(tmp_path / "model.onnx", (12, 12), "[fc] y = MatMul(x, w)")
    x = gaussian(100, 12, seed=5, scale=1.0)
    result = compress(path, {"x": x}, utilized=1.0, output=tmp_path / "out.onnx", options=QUICK)
    (site,) = result.report.sites
    assert site.rank is None
    assert site.projection == Projection(12, 12, True)
    assert "1 of 1 sites stay dense: their utilized rank lies above break-even" in result.report.notes
    assert result.path.read_bytes() == path.read_bytes()


def test_where_no_bias_takes_the_mean_up_variances_are_about_zero(tmp_path: Path) -> None:
    body = "c = ReduceMean<keepdims=0>(x) [fc] y = Gemm(x, w, c)"
    path = layer(tmp_path / "model.onnx", (16, 16), body)
    result = compress(path, {"x": rows_of(16)}, utilized=0.9, output=tmp_path / "out.onnx", options=QUICK)
    (line,) = result.plan.sites
    assert line.projection is not None
    assert not line.projection.centred
    plan = replace(result.plan, sites=(replace(line, projection=replace(line.projection, centred=True)),))
    with pytest.raises(PlanError, match="no bias that could take up the mean"):
        compress(path, {"x": rows_of(16)}, plan=plan, output=tmp_path / "no.onnx", options=QUICK)


def test_projected_factors_can_be_healed_and_collected_in_little_memory(tmp_path: Path) -> None:
    path, x = layer(tmp_path / "model.onnx", (40, 16), "[fc] y = Gemm(x, w, b)"), rows_of(40, 500)
    options = replace(QUICK, heal="refit", memory_bytes=40 * 40 * 8)
    result = compress(path, {"x": x}, utilized=SHARE, output=tmp_path / "out.onnx", options=options)
    assert result.report.healing is not None
    assert [step.name for step in result.report.healing.steps] == ["refit"]
    assert result.report.sites[0].projection is not None
