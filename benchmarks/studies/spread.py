"""Figures over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, the sample standard deviation (0 of one value) and the extremes."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": deviation, "min": min(values), "max": max(values)}


def shown(found: dict[str, Any], digits: int) -> str:
    """Return a mean with its standard deviation, such as `81.24 ± 0.31`."""
    return f"{found['mean']:.{digits}f} ± {found['sd']:.{digits}f}"
