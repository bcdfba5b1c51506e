"""The part of a report that tells which plans were tried before one was chosen."""

from __future__ import annotations

from collections.abc import Iterator

from rankfold.findings import Report


def tried_section(report: Report) -> Iterator[str]:
    """Yield the Markdown lines, none where nothing was tried."""
    if not report.tried:
        return
    yield "## Plans tried"
    yield ""
    yield "On held-out samples that chose, and are no part of the errors above; the loss is the metric's."
    yield ""
    yield "| plan | kept | loss | |"
    yield "|---|---:|---:|---|"
    for trial in report.tried:
        yield f"| {trial.name} | {trial.kept:.4f} | {trial.loss:.4g} | {'chosen' if trial.chosen else ''} |"
