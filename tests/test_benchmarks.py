"""The benchmarks' own code, on the CPU and on small things: that they run and count right, not how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks import common, gpu, large
from benchmarks.plain_svd import svd_basis
from benchmarks.synthetic_transformer import INPUT, shape_of, token_ids, write_transformer
from onnx_examples import run


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


def test_plain_svd_keeps_the_largest_singular_values() -> None:
    weight = np.diag([3.0, 5.0, 1.0])
    basis = svd_basis(weight, uses=1)
    np.testing.assert_allclose(basis.values, [25, 9, 1], rtol=1e-12)  # squares of exact numbers
    assert np.abs(basis.vectors[:, 0]).argmax() == 1


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
    assert len(row["notes"]) == 2
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
