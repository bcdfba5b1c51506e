"""The onnx package's cases as jobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.conformance.backend import VARIANTS, check_case, light_cases, model_cases, node_cases
from benchmarks.conformance.freezing import Case
from benchmarks.conformance.outcome import Outcome
from benchmarks.conformance.parts import Job


def jobs(part: str) -> Iterator[Job]:
    """Yield one job per case, with all its variants."""
    cases = node_cases() if part == "node" else itertools.chain(model_cases(), light_cases())
    for case in cases:
        yield Job(case.name, lambda folder, case=case: _variants(case, folder))  # type: ignore[misc]


def _variants(case: Case, folder: Path) -> list[Outcome]:
    found = (check_case(case, variant, folder) for variant in VARIANTS)
    return [outcome for outcome in found if outcome is not None]
