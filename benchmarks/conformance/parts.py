"""The parts of the run, each a row of named jobs; a job is one model's way through the library, or its variants'."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conformance.outcome import Outcome


@dataclass(frozen=True)
class Job:
    """Something to try in a folder of its own."""

    name: str
    run: Callable[[Path], list[Outcome]]


# Imported when asked for: torch, scikit-learn and onnxruntime's tools are needed by their own parts only.
PARTS = {
    "node": "backend_jobs",
    "shipped": "backend_jobs",
    "texts": "texts",
    "torch": "exported",
    "sklearn": "sklearn_models",
    "runtime": "runtime_models",
}


def jobs(part: str) -> Iterator[Job]:
    """Yield the jobs of a part, always in the same order."""
    module = importlib.import_module(f"benchmarks.conformance.{PARTS[part]}")
    yield from module.jobs(part)
