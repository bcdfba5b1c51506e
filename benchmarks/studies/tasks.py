"""A study's runs and measurements, each kept when done: the same command goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import write_whole

Row = dict[str, Any]
Rows = Mapping[str, Row]
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Task:
    """One run or measurement.

    Attributes:
        name: Of the file `NAME.json` that keeps what came of it.
        compute: Takes what came of all tasks before, by name, and returns its own, fit for JSON.
        minutes: About what it takes; the time left is told by these, scaled by what tasks really took.
    """

    name: str
    compute: Callable[[Rows], Row]
    minutes: float


def finished(tasks: Sequence[Task], folder: Path, settings: Row) -> dict[str, Row]:
    """Compute in their order those tasks that `folder` does not hold yet, and return what came of all, by name.

    Args:
        tasks: All of the study.
        folder: Where they are kept; it is made.
        settings: What decides their results, fit for JSON.

    Raises:
        ValueError: The folder holds a study of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _keep_settings(folder / SETTINGS, settings)
    rows: dict[str, Row] = {}
    spent = expected = 0.0
    for number, task in enumerate(tasks, start=1):
        path = folder / f"{task.name}.json"
        if not path.exists():
            began = time.monotonic()
            row = task.compute(rows)
            minutes = (time.monotonic() - began) / 60
            write_whole(path, json.dumps({**row, "minutes": minutes}, indent=2) + "\n")
            spent, expected = spent + minutes, expected + task.minutes
            left = sum(later.minutes for later in _undone(tasks[number:], folder)) * spent / expected
            print(f"{task.name}: {number} of {len(tasks)}, {minutes:.1f} minutes, about {left:.0f} left", flush=True)
        rows[task.name] = json.loads(path.read_text())
    return rows


def _undone(tasks: Sequence[Task], folder: Path) -> list[Task]:
    return [task for task in tasks if not (folder / f"{task.name}.json").exists()]


def _keep_settings(path: Path, settings: Row) -> None:
    wanted: Row = json.loads(json.dumps(settings))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    there = json.loads(path.read_text())
    other = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if other:
        differ = "; ".join(f"{name} was {there.get(name)}, is {wanted.get(name)}" for name in other)
        raise ValueError(f"{path} is of a study with other settings: {differ}; give another --work")
