"""The benchmark of healing: what a run leaves behind, and how runs are laid side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from benchmarks import dinov2, healing, healing_table, subjects
from benchmarks.common import outputs
from benchmarks.intervals import mean_of, relative_l2
from benchmarks.subjects import Scores, Subject
from heal_examples import network, rows
from onnx import helper
from onnx_examples import gaussian
from onnx_examples import run as onnx_run

from rankfold import Options


def small(work: Path) -> Subject:
    """Return a network, and rows of its own to score on."""
    model = network(work / "base.onnx")
    (name, data), *_ = rows().items()
    np.savez(work / "rows.npz", **{name: data[:400]})
    reference = outputs(model, data[400:], batch=100)

    def score(candidate: Path) -> Scores:
        found = outputs(candidate, data[400:], batch=100)
        agreement = mean_of(((found > 0) == (reference > 0)).mean(axis=1))
        return {"relative L2": relative_l2(found, reference), "accuracy": agreement}

    return Subject("vit", model, work / "rows.npz", Options(latency_rounds=0), score)


def test_a_run_leaves_its_scores_and_is_scored_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subjects, "SUBJECTS", {"vit": small})
    ground = healing.Ground(lambda work: work / "rows.npz", passes=1, batch_size=32)
    monkeypatch.setattr(healing, "GROUNDS", {"vit": ground})
    case = healing.Case("vit", 0.5, "refit", 0)
    row = healing.measure(case, tmp_path)
    assert row == json.loads((tmp_path / "vit-0.5-refit-0.json").read_text())
    before, after = (row["scores"][side]["relative L2"] for side in ("unhealed", "healed"))
    assert after < before
    found = row["less_unhealed"]["relative L2"]
    assert found["difference"] == pytest.approx(after - before)
    assert found["low"] <= found["difference"] <= found["high"]
    monkeypatch.setattr(healing.rankfold, "heal", lambda *_, **__: pytest.fail("healed again"))
    assert healing.measure(case, tmp_path) == row


def run(subject: str, how: str, *, seed: int = 0, drop: float = 0.01, device: str = "cpu") -> dict[str, Any]:
    counted = {"vit": "accuracy", "dinov2": "probe accuracy"}[subject]
    names = {
        "relative L2": (0.0, 0.04, 0.02),
        "relative L2, first 96": (0.0, 0.05, 0.02),
        counted: (0.9, 0.88, 0.9 - drop),
    }
    sides = ("original", "unhealed", "healed")
    away = {"difference": -drop, "low": -2 * drop, "high": drop}
    return {
        "subject": subject,
        "keep": 0.25,
        "how": how,
        "seed": seed,
        "samples": (8000, 1000, 1000),
        "passes": 2,
        "device": device,
        "cpu_minutes": 7.6,
        "wall_minutes": 3.4,
        "scores": {side: {name: values[place] for name, values in names.items()} for place, side in enumerate(sides)},
        "less_original": dict.fromkeys(names, away),
    }


def test_runs_that_differ_by_the_seed_are_one_line() -> None:
    lines = healing_table.table([run("vit", "distill"), run("vit", "distill", seed=1, drop=0.03)]).splitlines()
    line = "| embedded ViT, keep 0.25, distill | 2 | accuracy | 0.9000 | 0.8800 | 0.8800 | -0.0200 [-0.0400, +0.0200]"
    assert lines[2:] == [f"{line} | 0.0400 | 0.0200 | 50 % | 8,000 × 2 | 8 on CPU |"]


def test_a_model_with_two_distances_has_two_lines() -> None:
    first, second = healing_table.table([run("dinov2", "distill", device="some GPU")]).splitlines()[2:]
    assert first.startswith("| DINOv2 ViT-S/14, keep 0.25, distill | 1 | probe accuracy |")
    assert first.endswith("| 3 on some GPU |")
    assert (
        second
        == "| DINOv2 ViT-S/14, keep 0.25, distill, first 96 images | 1 |  |  |  |  |  | 0.0500 | 0.0200 | 60 % |  |  |"
    )


def test_a_run_that_was_cut_off_has_no_minutes() -> None:
    cut = run("vit", "distill", device="some GPU") | {"wall_minutes": None}
    assert healing_table.table([cut]).endswith("| not measured, some GPU |")


def test_the_class_row_comes_out_beside_the_tokens(tmp_path: Path) -> None:
    shape = ["batch", 3, 384]
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", dinov2.FEATURE)]
    node = helper.make_node("Identity", ["x"], [dinov2.FEATURE])
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "b.onnx")
    x = gaussian(2, 3, 384)
    tokens, row = onnx_run(dinov2.with_class_row(tmp_path / "b.onnx", tmp_path), {"x": x})
    assert np.array_equal(tokens, x)
    assert np.array_equal(row, x[:, 0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.class_row.onnx", "b.onnx"]


def test_the_frontier_takes_what_was_healed_without_labels() -> None:
    found = healing_table.healed_scores(
        [run("vit", "finetune"), run("vit", "distill"), run("vit", "distill", drop=0.03)]
    )
    assert list(found) == [("vit", 0.25)]
    assert found["vit", 0.25]["accuracy"] == pytest.approx(0.88)
