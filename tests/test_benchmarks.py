"""The benchmarks' own code, on the CPU and on small things: that they run and count right, not how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks import common, gpu, large, pivoted, quality
from benchmarks.plain_svd import fold_plain, svd_basis
from benchmarks.synthetic_transformer import INPUT, shape_of, token_ids, write_transformer
from onnx_examples import build, gaussian, low_rank_rows, run, save

from rankfold import Options
from rankfold.values import RankPlan, SiteRank


def test_gpu_benchmark_runs_the_same_path_on_the_cpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gpu.main(["--provider", "cpu", "--models", "vit", "--batches", "1", "8", "--rounds", "5", "--work", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "| model | capture, s | compress, s | relative L2 | GPU to CPU | batch 1, ms | batch 8, ms |"
    )
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| embedded ViT, fp32", "| embedded ViT, fp16"]
    single, half = (line.split(" | ") for line in lines[2:])
    assert float(single[4]) == 0.0  # the CPU against itself
    assert abs(float(half[3]) - float(single[3])) < 0.02  # float16 adds its rounding, a percent, to the fold's error


def test_the_times_of_the_pivoted_form_are_taken_at_equal_parameters() -> None:
    assert pivoted.pivoted_rank(384, 384, 96) == 112  # 112 · 656 = 73,472 of the pair's 73,728; 120 · 648 is more
    rows = pivoted.timed_layer((2, 3), (64, 64), rounds=1)
    assert [row["ranks"] for row in rows] == [[8, 8], [16, 16], [24, 32]]  # at a fifth there is no rank
    assert all(min(row["ms"].values()) > 0 for row in rows)


def test_plain_svd_keeps_the_largest_singular_values() -> None:
    weight = np.diag([3.0, 5.0, 1.0])
    basis = svd_basis(weight, uses=1)
    np.testing.assert_allclose(basis.values, [25, 9, 1], rtol=1e-12)  # squares of exact numbers
    assert np.abs(basis.vectors[:, 0]).argmax() == 1


def truncated(weight: np.ndarray, rank: int) -> np.ndarray:
    """Return the nearest matrix of a rank."""
    left, singular, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    return ((left[:, :rank] * singular[:rank]) @ right[:rank]).astype(np.float32)


def planned(name: str, shape: tuple[int, int], rank: int) -> RankPlan:
    return RankPlan("", "a test", 0, 0, (SiteRank(name, *shape, rank, 0.0),))


def test_plain_svd_puts_the_nearest_matrix_in_the_weights_place(tmp_path: Path) -> None:
    body = "g (float[N,24] x) => (float[N,16] y) { [fc] y = Gemm<transB=1>(x, w, b) }"
    weight, bias, x = gaussian(16, 24), gaussian(16, seed=1), gaussian(5, 24, seed=2, scale=1.0)
    model = save(build(body, {"w": weight, "b": bias}), tmp_path / "model.onnx")
    folded = fold_plain(model, planned("fc", (24, 16), 4), tmp_path / "folded.onnx")
    expected = x @ truncated(weight, 4).T + bias
    # 24 float32 products of numbers near 1, in two steps: a few roundings of 6e-8 each.
    np.testing.assert_allclose(run(folded, {"x": x})[0], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("kernel", [1, 3])
def test_plain_svd_of_a_convolution_is_that_of_its_kernels_as_a_matrix(tmp_path: Path, kernel: int) -> None:
    pads = ", ".join([str(kernel // 2)] * 4)
    body = f"g (float[N,12,9,9] x) => (float[N,16,5,5] y) {{ [c] y = Conv<strides=[2, 2], pads=[{pads}]>(x, w, b) }}"
    weight, bias = gaussian(16, 12, kernel, kernel), gaussian(16, seed=1)
    model = build(body, {"w": weight, "b": bias})
    folded = fold_plain(
        save(model, tmp_path / "model.onnx"), planned("c", (12 * kernel**2, 16), 4), tmp_path / "folded.onnx"
    )
    shapes = [tuple(value.dims) for value in onnx.load(folded).graph.initializer if len(value.dims) == 4]
    assert sorted(shapes) == sorted([(4, 12, kernel, kernel), (16, 4, 1, 1)])
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(truncated(weight.reshape(16, -1), 4).reshape(weight.shape), "w")
    )
    x = gaussian(2, 12, 9, 9, seed=2, scale=1.0)
    # 108 float32 products of numbers near 1, in two steps: some ten roundings of 6e-8.
    np.testing.assert_allclose(run(folded, {"x": x})[0], run(model, {"x": x})[0], rtol=0, atol=1e-5)


def test_quality_measures_both_ways_at_each_size(tmp_path: Path) -> None:
    body = "g (float[N,64] x) => (float[N,64] y) { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2) }"
    weights = {"w1": gaussian(64, 64), "w2": gaussian(64, 64, seed=1)}
    model, rows = save(build(body, weights), tmp_path / "model.onnx"), low_rank_rows(400, 64, 6)
    np.savez(tmp_path / "data.npz", x=rows)
    reference = common.outputs(model, rows, batch=100)

    def score(candidate: Path) -> quality.Row:
        away = common.outputs(candidate, rows, batch=100) - reference
        return {"error": float(np.linalg.norm(away) / np.linalg.norm(reference))}

    subject = quality.Subject(model, tmp_path / "data.npz", score, {"x": rows[:8]}, Options(latency_rounds=0))
    original, *found = quality.measured(subject, tmp_path)
    assert (original["kept"], original["error"]) == (1.0, 0.0)
    assert [row["keep"] for row in found] == [0.75, 0.75, 0.5, 0.5, 0.33, 0.33]
    for blind, ours in zip(found[::2], found[1::2], strict=True):
        assert (blind["method"], ours["method"]) == ("plain SVD", "rankfold")
        assert blind["kept"] == ours["kept"] <= ours["keep"]
        assert ours["error"] < blind["error"]
        assert min(ours["before_ms"], ours["after_ms"], ours["time_ratio"]) > 0


def test_the_table_of_a_classifier() -> None:
    row = {"keep": 0.5, "method": "rankfold", "kept": 0.49, "time_ratio": 0.625}
    scores = {"accuracy_1000": 0.925, "accuracy_10000": 0.90164, "size_bytes": 1_490_823}
    head, _, line = quality.fashion_table("a network", [row | scores]).splitlines()
    assert head == "| a network | kept | accuracy, 1,000 | accuracy, 10,000 | file, bytes | batch-64 time |"
    assert line == "| keep 0.50, rankfold | 0.4900 | 92.5 % | 90.16 % | 1,490,823 | 0.62 |"


def test_results_go_into_their_file_and_between_their_marks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n")
    monkeypatch.setattr(common, "README", readme)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    common.write_results("x", {"rows": [1]}, "| new |")
    assert readme.read_text() == "before\n<!-- x: begin -->\n| new |\n<!-- x: end -->\nafter\n"
    written = json.loads((tmp_path / "results" / "x.json").read_text())
    assert written["rows"] == [1]
    assert written["machine"]["cpus"] >= 1
    assert capsys.readouterr().out == "| new |\n"


def test_the_large_benchmark_runs_on_a_small_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "README", tmp_path / "README.md")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    (tmp_path / "README.md").write_text("<!-- large: begin -->\n<!-- large: end -->\n")
    large.main(["--gigabytes", "0.006", "--width", "64", "--memory", "300K", "--work", str(tmp_path)])
    row = json.loads((tmp_path / "results" / "large.json").read_text())
    # Moments of 64 x 64 numbers, of which twelve bytes each are held at a time: six tensors to a sweep.
    assert row["sweeps"] == -(-(4 * row["shape"]["layers"] + 1) // 6)
    assert len(row["notes"]) == 3  # sweeps, no prepacking, no gradients
    assert row["self_check"]["checked"] < row["self_check"]["folded"]
    # Every byte that stays was written, and hardly anything but the result and the moments.
    assert 0.9 * row["result_bytes"] < row["written_bytes"] < 1.2 * (row["result_bytes"] + row["moment_bytes"])
    assert 2**24 < row["peak_bytes"] < 2**30  # an interpreter with its libraries, and little more
    assert row["relative_l2_moved"] < 2 * row["relative_l2"] < 0.5
    assert set(row["bounds_kept"].values()) == {True}
    assert "| the result at keep 0.50 | 0.0" in (tmp_path / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "results"]
    capsys.readouterr()


def test_out_of_bounds_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large, "write_results", lambda *_: None)
    monkeypatch.setattr(large, "_table", lambda _: "")
    monkeypatch.setattr(large, "run", lambda *_, **__: {"bounds_kept": {"memory": False, "writes": True}})
    with pytest.raises(SystemExit, match="out of bounds: memory"):
        large.main(["--work", str(tmp_path)])


def test_what_a_command_takes_is_seen(tmp_path: Path) -> None:
    inner = "import time; kept = bytearray(300_000_000); time.sleep(1)"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True); sys.exit(3)"
    with (tmp_path / "out").open("wb") as out:
        seen = large.watch([sys.executable, "-c", both], out.fileno())
    assert 3e8 < seen.peak_bytes < 4e8  # bytearray sets its bytes, and an interpreter takes some 10 MB
    assert seen.code == 3


def test_a_synthetic_transformer_runs_and_is_of_the_size_asked_for(tmp_path: Path) -> None:
    shape = shape_of(0.004, width=64)
    assert abs(shape.weight_bytes / 4e6 - 1) < 0.1
    write_transformer(tmp_path / "model.onnx", shape)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    (found,) = run(tmp_path / "model.onnx", {INPUT: token_ids(shape, samples=3, tokens=7)})
    assert found.shape == (3, 64)
    assert 0.01 < found.std() < 100
