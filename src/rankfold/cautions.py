"""Warnings that a reader of a result should have: of the data, and of patterns that match nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rankfold.options import Options
from rankfold.passes.sites import Scan, unmatched_patterns
from rankfold.values import Calibration


def data_warnings(calibration: Calibration) -> Iterator[str]:
    """Yield what was left out of the data, or not used."""
    settings = calibration.settings
    if settings.get("dropped_samples"):
        yield f"{settings['dropped_samples']} samples did not fill a batch of the model's fixed size and were left out"
    if settings.get("mask") and calibration.moments and not settings.get("masked_activations"):
        yield f"mask {settings['mask']!r} has the rows of none of the foldable layers' activations and was not used"


def pattern_warnings(scan: Scan, options: Options) -> tuple[str, ...]:
    """Return a warning for each pattern that matches nothing, which is likely misspelt."""
    given = {"--include": options.include, "--exclude": options.exclude}
    return tuple(
        f"{name} {pattern!r} matches no node, operator or weight"
        for name, patterns in given.items()
        for pattern in unmatched_patterns(scan, patterns)
    )
