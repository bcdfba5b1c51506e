"""The benchmarks' own code, on the CPU and on small things: that they run and count right, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import common, gpu
from benchmarks.plain_svd import svd_basis


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
