"""The folder of a checkpoint: whole files, one run at a time, and nothing of anybody else's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.synthetic_transformer import INPUT
from checkpoint_examples import IDS, interrupted_after, options_for, write_model

from rankfold.errors import OutputError
from rankfold.pipeline import calibrate, compress
from rankfold.runtime_calib import checkpoint
from rankfold.runtime_calib.checkpoint_folder import checkpoint_folder
from rankfold.values import Feed
from rankfold.whole_files import whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def test_a_half_written_file_does_not_appear(tmp_path: Path) -> None:
    def write() -> None:
        with whole(tmp_path / "sums.npz") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_one_run_at_a_time_uses_a_checkpoint(tmp_path: Path) -> None:
    with checkpoint_folder(tmp_path / "one"):
        with pytest.raises(OutputError, match="another run uses this checkpoint"), checkpoint_folder(tmp_path / "one"):
            pass
        checkpoint.Run(tmp_path / "one", {}).begin()
    assert not (tmp_path / "one").exists()


def test_a_folder_with_other_things_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds 'thesis.txt' and no checkpoint"):
        calibrate(model, interrupted_after(None), options=options_for(tmp_path))
    assert (tmp_path / "checkpoint" / "thesis.txt").exists()


def test_a_file_is_no_folder_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder for a checkpoint"), checkpoint_folder(tmp_path / "file"):
        pass


def test_nothing_is_written_into_the_folder_of_a_checkpoint(model: Path, tmp_path: Path) -> None:
    options = options_for(tmp_path)
    with pytest.raises(OutputError, match="lies in the checkpoint's folder, which is removed at the end"):
        compress(model, {INPUT: IDS}, keep=0.8, output=tmp_path / "checkpoint" / "out.onnx", options=options)
    with pytest.raises(OutputError, match="lies in the checkpoint's folder"):
        calibrate(model, {INPUT: IDS}, output=tmp_path / "checkpoint" / "moments.npz", options=options)


def test_what_others_put_into_the_folder_stays(model: Path, tmp_path: Path) -> None:
    def with_a_guest() -> Iterator[Feed]:
        (tmp_path / "checkpoint" / "guest.txt").write_text("mine")
        yield from interrupted_after(None)

    calibrate(model, with_a_guest(), options=options_for(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["guest.txt"]
