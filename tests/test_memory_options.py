"""--memory and --checkpoint, as a user writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_examples import COMPRESS, fill_folder, parsed, run

from rankfold.tools.options import CalibrationOptions, RunOptions, memory_bytes, stage_options

SIZES = {
    "1": 1, "500M": 500 * 2**20, "2G": 2 * 2**30, "1.5g": 3 * 2**29, "64KiB": 2**16, "3MB": 3 * 2**20, "1T": 2**40,
    " 7b ": 7,
}  # fmt: skip


@pytest.mark.parametrize(("text", "size"), SIZES.items(), ids=SIZES)
def test_a_size_is_read(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.2", "-1G", "1e9", "2 GB of it", "G", "inf"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a number of bytes, such as 500M or 2G; found"):
        memory_bytes(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill_folder(tmp_path)
    return tmp_path


def test_the_options_reach_the_stages(tmp_path: Path) -> None:
    options = stage_options(run=RunOptions(memory=5), calibration=CalibrationOptions(checkpoint=tmp_path))
    assert (options.memory_bytes, options.checkpoint) == (5, tmp_path)
    assert stage_options(run=RunOptions()).memory_bytes == 2**30


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("memory", "sweeps", "notes"), [("500M", 1, 0), ("15K", 2, 1), ("5K", 2, 2)])
def test_memory_decides_the_sweeps(memory: str, sweeps: int, notes: int, capsys: pytest.CaptureFixture[str]) -> None:
    run(*COMPRESS, "--keep", "0.8", "--memory", memory, "--json")
    found = parsed(capsys.readouterr().out)
    *of_memory, basis = found["notes"]
    assert (found["settings"]["sweeps"], len(of_memory)) == (sweeps, notes)
    assert basis.startswith("errors of layers count by their size alone")
    run("validate", "model.onnx", "out.onnx", "--data", "data.npz", "--memory", memory)
    capsys.readouterr()
    run("bench", "model.onnx", "out.onnx", "--data", "data.npz", "--memory", memory, "--json")
    told = {line["note"] for line in parsed(capsys.readouterr().out)["latency"]}
    assert told == ({"neither model's weights prepacked"} if notes == 2 else {None})


@pytest.mark.usefixtures("folder")
def test_a_wrong_size_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    run(*COMPRESS, "--keep", "0.8", "--memory", "lots", code=2)
    assert "such as 500M or 2G; found 'lots'" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["kept", "deep/er"])
def test_a_checkpoint_is_gone_when_all_is_done(place: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("calibrate", "model.onnx", "--data", "data.npz", "-o", "moments.npz", "--checkpoint", place)
    assert (folder / "moments.npz").is_file()
    assert not (folder / place).exists()
    run(*COMPRESS, "--keep", "0.8", "--checkpoint", place, "--report", "report")
    assert not (folder / place).exists()
    assert (folder / "report" / "held_out.npz").is_file()
    capsys.readouterr()


def test_a_folder_that_is_no_checkpoint_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    run(*COMPRESS, "--keep", "0.8", "--checkpoint", str(folder / "notes"), code=3)
    assert "and no checkpoint; give a folder of its own" in capsys.readouterr().err
    assert (folder / "model.onnx").is_file()
