"""`rankfold heal` and `compress --heal`, and healing that goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heal_examples import folded_network, network, rows

from rankfold.errors import CalibrationDataError
from rankfold.heal_model import heal
from rankfold.options import Options
from rankfold.tools.cli import main


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    base, candidate = folded_network(tmp_path)
    np.savez(tmp_path / "data.npz", **rows())
    return str(base), str(candidate), str(tmp_path / "data.npz")


def test_the_command_heals_and_tells(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, candidate, data = files
    out = tmp_path / "healed.onnx"
    command = ["heal", base, candidate, "--data", data, "-o", str(out), "--quiet"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "refit" in shown
    assert f"Model: {out}" in shown
    assert main([*command, "--json", "--max-error", "1e-9"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["steps"][0]["name"] == "refit"
    assert told["outputs"][0]["relative_l2"] <= told["outputs_before"][0]["relative_l2"]
    assert told["samples"]["healing"] + told["samples"]["choosing"] + told["samples"]["held_out"] == 600
    assert out.exists()


def test_wrong_options_are_usage_errors(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    base, candidate, data = files
    for wrong in (["--how", "magic"], ["--passes", "0"]):
        assert main(["heal", base, candidate, "--data", data, "-o", "x.onnx", *wrong]) == 2
    assert "magic" in capsys.readouterr().err


def test_compress_heals_and_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = network(tmp_path / "base.onnx")
    np.savez(tmp_path / "data.npz", **rows())
    command = ["compress", str(base), "--data", str(tmp_path / "data.npz"), "--keep", "0.5", "-o"]
    report = tmp_path / "report"
    assert main([*command, str(tmp_path / "out.onnx"), "--heal", "refit", "--report", str(report), "--quiet"]) == 0
    capsys.readouterr()
    told = json.loads((report / "report.json").read_text())["healing"]
    assert told["steps"][0]["after"] <= told["steps"][0]["before"]
    page = (report / "report.md").read_text()
    assert "## Healing" in page
    assert all(f"`{name}`" in page for name in told["others"])


class Killed(BaseException):
    """What a test ends a run with."""


def killing(items: Iterable[Any], description: str, total: int | None) -> Iterator[Any]:  # noqa: ARG001
    """Raise in the second pass of a training."""
    for number, item in enumerate(items):
        if description == "training" and number == 70:
            raise Killed
        yield item


def test_a_killed_healing_ends_with_the_same_bytes(files: tuple[str, str, str], tmp_path: Path) -> None:
    base, candidate, data = files
    whole = heal(base, candidate, data, how="distill", passes=2, output=tmp_path / "a.onnx", options=Options())
    kept = tmp_path / "kept"
    out = tmp_path / "b.onnx"
    options = Options(checkpoint=kept, progress=killing)
    with pytest.raises(Killed):
        heal(base, candidate, data, how="distill", passes=2, output=out, options=options)
    assert not out.exists()
    with pytest.raises(CalibrationDataError, match="another run: not the same seed"):
        heal(base, candidate, data, how="distill", passes=2, output=out, options=Options(checkpoint=kept, seed=1))
    ended = heal(base, candidate, data, how="distill", passes=2, output=out, options=Options(checkpoint=kept))
    assert out.read_bytes() == (tmp_path / "a.onnx").read_bytes()
    assert ended.steps[1] == whole.steps[1]
    assert not kept.exists()


@pytest.mark.parametrize(("name", "content"), [("refitted.npz", b"no"), ("refitted.npz", b""), ("training.pt", b"no")])
def test_a_damaged_checkpoint_is_named(
    name: str, content: bytes, files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, candidate, data = files
    kept = tmp_path / "kept"
    options = Options(checkpoint=kept, progress=killing)
    with pytest.raises(Killed):
        heal(base, candidate, data, how="distill", passes=2, output=tmp_path / "o.onnx", options=options)
    (kept / name).write_bytes(content)
    command = ["heal", base, candidate, "--data", data, "--how", "distill", "--passes", "2", "--checkpoint", str(kept)]
    assert main([*command, "-o", str(tmp_path / "o.onnx"), "--quiet"]) == 3
    told = capsys.readouterr().err
    assert f"{kept / name}: the checkpoint cannot be read (" in told
    assert "remove its folder and begin anew" in told
    assert not (tmp_path / "o.onnx").exists()


def test_samples_that_changed_since_a_kill_are_refused(files: tuple[str, str, str], tmp_path: Path) -> None:
    base, candidate, _ = files
    kept, out = tmp_path / "kept", tmp_path / "o.onnx"
    options = Options(checkpoint=kept, progress=killing)
    with pytest.raises(Killed):
        heal(base, candidate, [rows()], how="distill", passes=2, output=out, options=options)
    with pytest.raises(CalibrationDataError, match="another run: not the same samples"):
        heal(base, candidate, [rows(seed=5)], how="distill", passes=2, output=out, options=Options(checkpoint=kept))
    heal(base, candidate, [rows()], how="distill", passes=2, output=out, options=Options(checkpoint=kept))
    assert not kept.exists()
