"""Notes between a command and the process that supervises it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankfold.tools.run_notes import (
    RUN_FOLDER,
    note_end,
    note_output_folder,
    note_stage,
    noted_end,
    noted_stage,
    remove_unfinished,
)


def test_without_a_supervisor_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    note_stage("a")
    note_end(0)
    note_output_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_notes_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))
    assert (noted_stage(tmp_path), noted_end(tmp_path)) == ("", None)
    note_stage("calibrating")
    note_end(1)
    assert (noted_stage(tmp_path), noted_end(tmp_path)) == ("calibrating", 1)


def test_an_end_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    (tmp_path / "end.txt").write_text("")
    assert noted_end(tmp_path) is None


def test_folders_with_odd_names_are_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder, odd = tmp_path / "run", tmp_path / "a\nb é"
    left = odd / ".out.onnx.77.abc.partial"
    for folder in (run_folder, left):
        folder.mkdir(parents=True)
    monkeypatch.setenv(RUN_FOLDER, str(run_folder))
    note_output_folder(odd)
    remove_unfinished(run_folder, 78)
    assert left.exists()
    remove_unfinished(run_folder, 77)
    assert not left.exists()
