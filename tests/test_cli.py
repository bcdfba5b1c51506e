"""The command line's ends: exit codes, and one message per error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from command_examples import COMPRESS, FEATURES, fill_folder, run, save_model

from rankfold.errors import RuntimeUnavailableError
from rankfold.tools import cli
from rankfold.tools.cli import main


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    fill_folder(working_folder)
    return working_folder


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """Run a command that has to fail and return its one message."""
    before = sorted(Path().rglob("*"))
    assert main([*words, "--quiet"]) == code
    output, message = capsys.readouterr()
    assert output == ""
    assert message.startswith("rankfold: ")
    assert message.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return message


@pytest.mark.parametrize("share", ["0", "-0.5", "1.5", "nan", "half"])
@pytest.mark.parametrize("option", ["--keep", "--energy"])
def test_a_share_out_of_range_is_a_usage_error(capsys: pytest.CaptureFixture[str], option: str, share: str) -> None:
    message = refused(capsys, *COMPRESS, option, share, code=2)
    assert option in message
    assert share.split(".", maxsplit=1)[0] in message
    assert "(0, 1]" in message or "float" in message
    assert "see `rankfold compress --help`" in message


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            (*COMPRESS,),
            "exactly one of --keep, --energy, --plan, --max-drop, --speedup, --utilized and --max-error; found none",
        ),
        ((*COMPRESS, "--keep", "0.5", "--energy", "0.9"), "found --keep and --energy"),
        ((*COMPRESS, "--keep", "0.5", "--plan", "plan.json"), "found --keep and --plan"),
        (("plan", "model.onnx", "--calibration", "c.npz", "-o", "p.json"), "one of --keep and --energy; found none"),
        (("compress", "--keep", "0.5"), "MODEL"),
        (("compress", "model.onnx", "--keep", "0.5", "-o", "out.onnx"), "--data"),
        (("compress", "model.onnx", "--keep", "0.5", "--data", "data.npz"), "-o"),
        ((*COMPRESS, "--keep", "0.5", "--holdout", "1"), "--holdout"),
        ((*COMPRESS, "--keep", "0.5", "--batch-size", "0"), "--batch-size"),
        ((*COMPRESS, "--keep", "0.5", "--min-speedup", "0"), "--min-speedup"),
        ((*COMPRESS, "--keep", "0.5", "--max-error", "-1"), "--max-error"),
        ((*COMPRESS, "--keep", "0.5", "--provider", "tpu"), '"cpu", "cuda"'),
        ((*COMPRESS, "--keep", "0.5", "--kept", "1"), "Unknown option: --kept"),
        (("comprehend", "model.onnx"), 'Unknown command "comprehend"'),
    ],
)
def test_wrong_options_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], found: str
) -> None:
    assert found in refused(capsys, *words, code=2)


def test_an_unusable_model_or_data_is_told_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.onnx").touch()
    (folder / "half.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-100])
    np.savez(folder / "wrong.npz", images=np.zeros((8, FEATURES), np.float32))
    rest = ("--data", "data.npz", "--keep", "0.5", "-o", "out.onnx")
    assert "missing.onnx" in refused(capsys, "compress", "missing.onnx", *rest, code=3)
    assert "empty" in refused(capsys, "compress", "empty.onnx", *rest, code=3)
    assert "half.onnx" in refused(capsys, "analyze", "half.onnx", code=3)
    assert "images" in refused(
        capsys, "compress", "model.onnx", "--data", "wrong.npz", "--keep", "0.5", "-o", "out.onnx", code=3
    )
    assert "mask 'm' is no input" in refused(capsys, *COMPRESS, "--keep", "0.5", "--mask", "m", code=3)
    assert "'z'" in refused(
        capsys, "validate", "model.onnx", "model.onnx", "--data", "data.npz", "--output", "z", code=3
    )


def test_a_failed_run_leaves_no_report_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "wrong.npz", images=np.zeros((8, FEATURES), np.float32))
    words = ("compress", "model.onnx", "--data", "wrong.npz", "--keep", "0.5", "-o", "out.onnx", "--report", "report")
    refused(capsys, *words, code=3)


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").touch()
    start = ("compress", "model.onnx", "--data", "never-read.npz", "--keep", "0.5")
    assert "nowhere" in refused(capsys, *start, "-o", "nowhere/out.onnx", code=3)
    assert "folder" in refused(capsys, *start, "-o", ".", code=3)
    assert "is the model itself" in refused(capsys, *start, "-o", "./model.onnx", code=3)
    assert "file/report: cannot be written (Not a directory)" in refused(
        capsys, *start, "-o", "out.onnx", "--report", "file/report", code=3
    )
    calibrate = ("calibrate", "model.onnx", "--data", "never-read.npz")
    assert "nowhere" in refused(capsys, *calibrate, "-o", "nowhere/cal.npz", code=3)


def test_a_plan_that_does_not_fit_is_told_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("calibrate", "model.onnx", "--data", "data.npz", "-o", "cal.npz")
    run("plan", "model.onnx", "--calibration", "cal.npz", "--keep", "0.7", "-o", "plan.json")
    capsys.readouterr()
    save_model(folder / "other.onnx", seed=5)
    (folder / "broken.json").write_text("{")
    other = ("compress", "other.onnx", "--data", "data.npz", "-o", "out.onnx", "--plan", "plan.json")
    assert "model" in refused(capsys, *other, code=3)
    assert "broken.json: not a rank plan" in refused(capsys, *COMPRESS, "--plan", "broken.json", code=3)
    assert "missing.json: the plan cannot be read" in refused(capsys, *COMPRESS, "--plan", "missing.json", code=3)
    assert "data.npz: the plan cannot be read" in refused(capsys, *COMPRESS, "--plan", "data.npz", code=3)
    wrong = ("plan", "model.onnx", "--calibration", "data.npz", "--keep", "0.7", "-o", "p.json")
    assert "data.npz: not a calibration" in refused(capsys, *wrong, code=3)


def test_a_broken_installation_is_told_before_the_command_but_help_still_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeUnavailableError("two distributions; run pip uninstall")

    monkeypatch.setattr(cli, "check_distributions", broken)
    assert refused(capsys, "analyze", "missing.onnx", code=3) == "rankfold: two distributions; run pip uninstall\n"
    run("analyze", "--help")
    assert "Usage: rankfold analyze" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 3, "rankfold: out of memory; try a smaller --batch-size or fewer samples\n"),
        (OSError(28, "No space left on device"), 3, "rankfold: [Errno 28] No space left on device\n"),
    ],
)
def test_what_the_machine_lacks_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    def lacking() -> None:
        raise error

    monkeypatch.setattr(cli, "check_distributions", lacking)
    assert refused(capsys, "analyze", "model.onnx", code=code) == message


def test_every_command_is_listed_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    listed = capsys.readouterr().out
    for name in ("analyze", "calibrate", "plan", "compress", "validate", "bench", "demo"):
        assert f"│ {name} " in listed
        run(name, "--help")
        assert f"Usage: rankfold {name}" in capsys.readouterr().out


def rankfold(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "rankfold", *words]


def exit_and_stderr(command: Iterable[str]) -> tuple[int, str]:
    found = subprocess.run(list(command), capture_output=True, text=True, check=False)
    return found.returncode, found.stderr


def test_the_real_process_ends_with_the_same_codes() -> None:
    assert exit_and_stderr(rankfold("--version")) == (0, "")
    assert exit_and_stderr(rankfold(*COMPRESS, "--keep", "0.7", "--max-error", "0", "--quiet"))[0] == 1
    assert exit_and_stderr(rankfold(*COMPRESS, "--keep", "2"))[0] == 2
    code, message = exit_and_stderr(rankfold("analyze", "missing.onnx"))
    assert code == 3
    assert message.startswith("rankfold: missing.onnx: cannot be read")
    assert message.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's pipe")
@pytest.mark.parametrize("shown", ["--json", ""])
def test_a_reader_that_goes_away_is_no_error(shown: str) -> None:
    command = f"{sys.executable} -P -m rankfold analyze model.onnx {shown} | true; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("0", "141")  # 0 where the text fitted into the pipe before `true` ended
    assert found.stderr == ""
