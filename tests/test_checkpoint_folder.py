"""The folder of a checkpoint: whole files, and one run at a time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rankfold.errors import OutputError
from rankfold.runtime_calib import checkpoint
from rankfold.runtime_calib.checkpoint_folder import checkpoint_folder, whole


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
