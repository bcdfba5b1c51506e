"""What went wrong once: each case is one that a hostile or unlucky user found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_examples import build, gaussian, mlp, save

from rankfold.errors import ModelError, OutputError, RankfoldError
from rankfold.passes.write_model import check_no_input
from rankfold.pipeline import Options, analyze, compress

QUICK = Options(latency_rounds=0)


def shifted_rows(rows: int, features: int, mean: float) -> np.ndarray:
    random = np.random.default_rng(0)
    scales = 1 / np.arange(1, features + 1)
    return (mean + random.standard_normal((rows, features)) * scales).astype(np.float32)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
def test_a_large_mean_costs_no_accuracy(mean: float, tmp_path: Path) -> None:
    text = "g (float[n,32] x) => (float[n,96] y) { [fc] h = MatMul(x, w) y = Add(h, b) }"
    weight = gaussian(32, 96)
    path = save(build(text, {"w": weight, "b": gaussian(96)}), tmp_path / "m.onnx")
    rows = shifted_rows(1000, 32, mean)
    result = compress(path, {"x": rows}, energy=0.9, output=tmp_path / "o.onnx", options=QUICK)
    (site,) = result.report.sites
    assert site.rank is not None
    centred = (rows - rows.mean(0, dtype=np.float64)) @ weight.astype(np.float64)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    optimum = values[site.rank :].sum() / values.sum()
    # A fifth of the rows decides nothing, which moves shares by some percent; at a mean of 1e4 the rows themselves are
    # rounded to 1e-3, of deviations near 0.03 in the last directions.
    assert site.predicted_error == pytest.approx(optimum, rel=0.15, abs=0)
    assert site.measured_error == pytest.approx(optimum, rel=0.25, abs=0)


def test_float16_factors_stay_in_range(tmp_path: Path) -> None:
    text = "g (float16[n,64] x) => (float16[n,64] y) { [fc] y = MatMul(x, w) }"
    weight = (np.sign(gaussian(64, 64)) * 3e4).astype(np.float16)
    path = save(build(text, {"w": weight}), tmp_path / "m.onnx")
    rows = (gaussian(600, 64, scale=1.0) * 1e-3).astype(np.float16)
    result = compress(path, {"x": rows}, keep=0.6, output=tmp_path / "o.onnx", options=QUICK)
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, {"x": rows})[0]).all()
    assert result.report.self_check is not None
    assert result.report.self_check.held_out < result.report.self_check.tolerance < 0.1


@pytest.mark.parametrize("rows", [np.ones((6, 32), np.float32), gaussian(2, 32, scale=1.0)])
def test_rows_that_hardly_vary_are_warned_of(rows: np.ndarray, tmp_path: Path) -> None:
    result = compress(mlp(tmp_path / "m.onnx"), {"x": rows}, keep=0.5, output=tmp_path / "o.onnx", options=QUICK)
    assert any("rank-deficient and was damped" in warning for warning in result.report.warnings)


def test_a_run_that_fails_leaves_the_result_before(tmp_path: Path) -> None:
    (tmp_path / "o.onnx").write_bytes(b"precious")
    model = mlp(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="there is no output 'nope'; the outputs are y"):
        compress(
            model, {"x": gaussian(20, 32)}, keep=0.5, output=tmp_path / "o.onnx", options=Options(outputs=("nope",))
        )
    assert (tmp_path / "o.onnx").read_bytes() == b"precious"


def test_a_result_that_fails_its_proof_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "o.onnx").write_bytes(b"precious")
    model = mlp(tmp_path / "m.onnx")

    def failing(*_: object, **__: object) -> None:
        raise ModelError("not finite")

    monkeypatch.setattr("rankfold.reporting.compare", failing)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match="not finite"):
        compress(model, {"x": gaussian(20, 32)}, keep=0.5, output=tmp_path / "o.onnx", options=QUICK)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "o.onnx").read_bytes() == b"precious"


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    model, data = mlp(tmp_path / "m.onnx"), tmp_path / "d.npz"
    np.savez(data, x=gaussian(20, 32))
    before = data.read_bytes()
    with pytest.raises(OutputError, match="the result would replace a file that it is made of; give another path"):
        compress(model, data, keep=0.5, output=data, options=QUICK)
    assert data.read_bytes() == before
    check_no_input(tmp_path / "new", (model, data, [{"x": 1}]))


def test_external_weights_are_not_overwritten(tmp_path: Path) -> None:
    model = onnx.load(mlp(tmp_path / "m.onnx"))
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(OutputError, match=r"w.bin: the result would replace a file"):
        compress(tmp_path / "e.onnx", {"x": gaussian(20, 32)}, keep=0.5, output=tmp_path / "w.bin", options=QUICK)


def test_what_a_script_prints_does_not_reach_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "data.py"
    script.write_text(
        "import numpy as np\nprint('loading')\ndef load_data():\n    for _ in range(5):\n        print('noise')\n"
        "        yield {'x': np.ones((8, 32), np.float32)}\n"
    )
    analyze(mlp(tmp_path / "m.onnx"), script)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.count("noise") == 5


def test_nan_weights_are_told_as_such(tmp_path: Path) -> None:
    weight = gaussian(32, 96)
    weight[3, 5] = np.nan
    text = "g (float[n,32] x) => (float[n,96] y) { [fc] y = MatMul(x, w) }"
    path = save(build(text, {"w": weight}), tmp_path / "m.onnx")
    with pytest.raises(RankfoldError, match=r"weight 'w' of node 'fc' holds 1 values that are NaN or infinite"):
        compress(path, {"x": gaussian(20, 32)}, keep=0.5, output=tmp_path / "o.onnx", options=QUICK)


def test_a_pattern_that_matches_nothing_is_warned_of(tmp_path: Path) -> None:
    found = analyze(mlp(tmp_path / "m.onnx"), options=Options(exclude=("fc1", "nosuch*")))
    assert found.warnings == ("--exclude 'nosuch*' matches no node, operator or weight",)
