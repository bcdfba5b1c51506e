"""Notes that a command leaves for the process supervising it, so that its end can be told and tidied up.

Standard library only: the supervising parent imports this file and must stay small.
"""

from __future__ import annotations

import os
from pathlib import Path

from rankfold.passes.partial_files import sweep

RUN_FOLDER = "RANKFOLD_RUN_FOLDER"
"""Environment variable: the folder of this run's temporary files, made and removed by the parent."""

_STAGE = "stage.txt"
_OUTPUT_FOLDERS = "output_folders.txt"
_END = "end.txt"


def note_stage(stage: str) -> None:
    """Note what the command is doing now; nothing happens outside a supervised process."""
    _note(_STAGE, stage)


def note_end(code: int) -> None:
    """Note that the command came to its own end, with this exit code; nothing happens outside a supervised process."""
    _note(_END, str(code))


def note_output_folder(folder: Path) -> None:
    """Note a folder in which this process is going to write; nothing happens outside a supervised process."""
    if run_folder := os.environ.get(RUN_FOLDER):
        with Path(run_folder, _OUTPUT_FOLDERS).open("a", encoding="utf-8", errors="surrogateescape") as notes:
            notes.write(f"{folder.resolve()}\0")


def noted_stage(run_folder: Path) -> str:
    """Return the stage that was noted last, or an empty text."""
    return _noted(run_folder / _STAGE)


def noted_end(run_folder: Path) -> int | None:
    """Return the exit code that the command noted at its end, or None where something else ended it."""
    text = _noted(run_folder / _END)
    return int(text) if text.isdecimal() else None


def remove_unfinished(run_folder: Path, pid: int) -> None:
    """Remove what the dead process `pid` left under temporary names in the folders it noted."""
    for folder in dict.fromkeys(filter(None, _noted(run_folder / _OUTPUT_FOLDERS).split("\0"))):
        sweep(Path(folder), pid=pid)


def _note(name: str, text: str) -> None:
    if folder := os.environ.get(RUN_FOLDER):
        Path(folder, name).write_text(text, encoding="utf-8")


def _noted(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
