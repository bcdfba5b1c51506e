"""Commands that succeed or exceed a limit: what they write, results on stdout and progress on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from command_examples import CLASSES, COMPRESS, FEATURES, HIDDEN, fill_folder, parsed, run


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    fill_folder(working_folder)
    return working_folder


def test_the_whole_way_writes_the_model_and_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*COMPRESS, "--keep", "0.7", "--report", "a/report", "--quiet")
    output, messages = capsys.readouterr()
    report = folder / "a/report"
    assert sorted(path.name for path in report.iterdir()) == [
        *("held_out.npz", "plan.json", "polygraphy_data.py", "report.json", "report.md")
    ]
    written = parsed((report / "report.json").read_text())
    assert written["output"]["path"] == "out.onnx"
    assert written["linear_parameters"]["before"] == FEATURES * HIDDEN + HIDDEN * CLASSES
    assert written["linear_parameters"]["after"] <= 0.7 * written["linear_parameters"]["before"]
    assert [line["site"] for line in parsed((report / "plan.json").read_text())["sites"]] == ["fc1", "fc2"]
    page = (report / "report.md").read_text()
    assert len(written["polygraphy"]) == 2
    for command in written["polygraphy"]:
        assert command in page
        assert command in output
    assert "predicted error" in output
    assert messages == ""
    onnx.checker.check_model(folder / "out.onnx")


def test_without_report_only_the_model_is_written(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    run(*COMPRESS, "--energy", "0.99", "--quiet")
    assert {path.name for path in folder.iterdir()} - before == {"out.onnx"}


def test_json_is_all_that_stdout_holds(capsys: pytest.CaptureFixture[str]) -> None:
    for words, field in {
        ("analyze", "model.onnx"): "sites",
        ("analyze", "model.onnx", "--data", "data.npz"): "sites",
        ("calibrate", "model.onnx", "--data", "data.npz", "-o", "cal.npz"): "tensors",
        ("plan", "model.onnx", "--calibration", "cal.npz", "--energy", "0.9", "-o", "plan.json"): "sites",
        (*COMPRESS, "--plan", "plan.json"): "linear_parameters",
        ("validate", "model.onnx", "out.onnx", "--data", "data.npz"): "outputs",
        ("bench", "model.onnx", "out.onnx", "--data", "data.npz"): "latency",
    }.items():
        run(*words, "--json")
        found = parsed(capsys.readouterr().out)
        assert found["schema_version"] == 1
        assert found[field]


def test_progress_is_a_line_per_stage_on_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("analyze", "model.onnx", "--data", "data.npz")
    run(*words)
    output, progress = capsys.readouterr()
    assert "calibrating (" in progress
    assert "calibrating" not in output
    assert "fc1" in output
    run(*words, "--quiet")
    assert capsys.readouterr() == (output, "")


def test_an_exceeded_limit_is_told_and_the_outputs_are_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--max-error", "1e-9", "--min-speedup", "1e6")
    run(*COMPRESS, "--keep", "0.5", "--report", "report", "--json", "--quiet", *limits, code=1)
    output, messages = capsys.readouterr()
    error, speedup = messages.splitlines()
    assert error.startswith("rankfold: limit exceeded: relative L2 error of output 'y' is ")
    assert error.endswith("--max-error allows at most 1e-09")
    assert "--min-speedup allows at least 1e+06" in speedup
    assert [limit["exceeded"] for limit in parsed(output)["limits"]] == [True, True]
    assert parsed((folder / "report/report.json").read_text()) == parsed(output)
    assert (folder / "out.onnx").exists()
    both = ("model.onnx", "out.onnx", "--data", "data.npz", "--quiet")
    run("validate", *both, "--max-error", "1e-9", code=1)
    run("validate", *both, "--max-error", "2")
    run("bench", *both, "--min-speedup", "1e6", code=1)
    run("bench", *both, "--min-speedup", "1e-6")


def test_excluded_nodes_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    run("analyze", "model.onnx", "--exclude", "fc*", "--json")
    assert parsed(capsys.readouterr().out)["sites"] == []
    run("analyze", "model.onnx", "--exclude", "fc2", "--exclude", "nothing", "--json")
    assert [site["name"] for site in parsed(capsys.readouterr().out)["sites"]] == ["fc1"]


def test_an_edited_plan_is_followed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("calibrate", "model.onnx", "--data", "data.npz", "-o", "cal.npz")
    run("plan", "model.onnx", "--calibration", "cal.npz", "--keep", "0.9", "-o", "plan.json")
    plan = parsed((folder / "plan.json").read_text())
    plan["sites"][0]["rank"], plan["sites"][1]["rank"] = 8, None
    (folder / "plan.json").write_text(json.dumps(plan))
    capsys.readouterr()
    run(*COMPRESS, "--plan", "plan.json", "--json")
    assert [site["rank"] for site in parsed(capsys.readouterr().out)["sites"]] == [8, None]
