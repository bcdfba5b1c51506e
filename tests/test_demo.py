"""The demo on a small classifier in the place of the shipped one, so that every number is known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from rankfold.tools import demo
from rankfold.tools.cli import main

CLASSES, FEATURES, SAMPLES = 10, 32, 100


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a linear classifier, its calibration data and its test data in the place of the shipped files."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((FEATURES, CLASSES)).astype(np.float32)
    images = rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32)
    labels = (images @ weight).argmax(axis=1)
    labels[:25] = (labels[:25] + 1) % CLASSES
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{FEATURES}] x) => (float[N,{CLASSES}] y)'
        f"<float[{FEATURES},{CLASSES}] w> {{ [head] y = MatMul(x, w) }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "calibration.npz", x=images)
    np.savez(tmp_path / "test.npz", x=images, labels=labels)
    for name, file in {
        "embedded_model": "model.onnx",
        "calibration_data": "calibration.npz",
        "test_data": "test.npz",
    }.items():
        monkeypatch.setattr(demo, name, lambda file=file: tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_correct_answers_are_counted(shipped: Path) -> None:
    assert demo.correct_answers(shipped / "model.onnx", shipped / "test.npz") == SAMPLES - 25


def test_the_demo_says_what_it_does_and_where_the_report_lies(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--keep", "1.0", "-o", "place/demo", "--quiet"]) == 0
    output, messages = capsys.readouterr()
    assert re.search(r"accuracy on 100 test images +75\.00 % +75\.00 %", output)
    assert re.search(r"linear parameters +320 +320", output)
    assert [line[:2] for line in output.splitlines() if re.match(r"\d\. ", line)] == ["1.", "2.", "3.", "4."]
    assert "place/demo/report.md" in output
    assert "polygraphy run" in output
    assert messages == ""
    assert {path.name for path in (shipped / "place/demo").iterdir()} == {
        *("model.folded.onnx", "held_out.npz", "plan.json", "polygraphy_data.py", "report.json", "report.md")
    }


def test_the_demo_compresses_to_the_share_asked_for(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--keep", "0.0", "--quiet"]) == 2
    capsys.readouterr()
    assert main(["demo", "--keep", "0.9", "-o", "demo"]) == 3  # the one weight breaks even below rank 8
    assert "rankfold: " in capsys.readouterr().err
    assert not list((shipped / "demo").iterdir())
