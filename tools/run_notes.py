"""Notes that a command leaves for the process supervising it, so that a crash can be told and tidied up.

Standard library only: the supervising parent imports this file and must stay small.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

RUN_FOLDER = "RANKFOLD_RUN_FOLDER"
"""Environment variable: the folder of this run's temporary files, made and removed by the parent."""

_STAGE = "stage.txt"
_OUTPUT_FOLDERS = "output_folders.txt"
_UNFINISHED = (".part", ".partial")


def temporary_name(path: Path) -> Path:
    """Return the name under which `path` is written before it is renamed: hidden, with this process's number."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def note_stage(stage: str) -> None:
    """Note what the command is doing now; nothing happens outside a supervised process."""
    if folder := os.environ.get(RUN_FOLDER):
        Path(folder, _STAGE).write_text(stage, encoding="utf-8")


def note_output_folder(folder: Path) -> None:
    """Note a folder in which this process is going to write; nothing happens outside a supervised process."""
    if run_folder := os.environ.get(RUN_FOLDER):
        with Path(run_folder, _OUTPUT_FOLDERS).open("a", encoding="utf-8") as notes:
            notes.write(f"{folder.resolve()}\n")


def noted_stage(run_folder: Path) -> str:
    """Return the stage that was noted last, or an empty text."""
    notes = run_folder / _STAGE
    return notes.read_text(encoding="utf-8") if notes.is_file() else ""


def remove_unfinished(run_folder: Path, pid: int) -> None:
    """Remove what the dead process `pid` left under temporary names in the folders it noted."""
    notes = run_folder / _OUTPUT_FOLDERS
    folders = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    for folder in dict.fromkeys(folders):
        for path in Path(folder).glob(f".*.{pid}.*"):
            if path.suffix in _UNFINISHED:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
