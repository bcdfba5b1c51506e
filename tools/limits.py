"""Stated limits: what a run was allowed to lose or had to gain, and whether it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rankfold.findings import Discrepancy, Latency


@dataclass(frozen=True)
class Limit:
    """One stated limit and what was found against it.

    Attributes:
        option: The command-line option that states it.
        subject: What was measured, in words.
        found: The worst value measured.
        allowed: The value stated.
        exceeded: True where the found value breaks the limit; a found NaN does.
    """

    option: str
    subject: str
    found: float
    allowed: float
    exceeded: bool


def error_limit(discrepancy: Discrepancy, allowed: float | None) -> tuple[Limit, ...]:
    """Return the limit on the relative L2 error of the worst output, or nothing where none was stated."""
    if allowed is None or not discrepancy.outputs:
        return ()
    worst = max(discrepancy.outputs, key=lambda output: _nan_first(output.relative_l2))
    subject = f"relative L2 error of output {worst.name!r}"
    return (Limit("--max-error", subject, worst.relative_l2, allowed, not worst.relative_l2 <= allowed),)


def speedup_limit(latency: Sequence[Latency], allowed: float | None) -> tuple[Limit, ...]:
    """Return the limit on the smallest measured speed-up, or nothing where none was stated."""
    if allowed is None or not latency:
        return ()
    worst = min(latency, key=lambda line: -_nan_first(-line.speedup))
    subject = f"speed-up at batch {worst.batch} on {worst.provider}"
    return (Limit("--min-speedup", subject, worst.speedup, allowed, not worst.speedup >= allowed),)


def limit_message(limit: Limit) -> str:
    """Return one line about an exceeded limit: which, what was found, what was allowed."""
    bound = "at most" if limit.option == "--max-error" else "at least"
    return f"limit exceeded: {limit.subject} is {limit.found:.4g}, {limit.option} allows {bound} {limit.allowed:.4g}"


def _nan_first(value: float) -> float:
    """Return a key under which NaN counts as worse than every number."""
    return math.inf if math.isnan(value) else value
