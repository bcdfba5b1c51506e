"""What the tests of the supervising parent share: starting a process in a folder, and waiting for what it does."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

PATIENCE_S = 60.0  # how long a loaded machine may take to start a process; nothing is timed


def opened(command: list[str], folder: Path) -> subprocess.Popen[str]:
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    environment.pop("RANKFOLD_RUN_FOLDER", None)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, message = process.communicate(timeout=PATIENCE_S)
    return process.returncode, message


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
