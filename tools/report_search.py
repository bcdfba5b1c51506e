"""The parts of a report that tell which plans were tried before one was chosen, and what healing did after it."""

from __future__ import annotations

from collections.abc import Iterator

from rankfold.findings import Healing, Report


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


def healing_section(healing: Healing | None) -> Iterator[str]:
    """Yield the Markdown lines, none where nothing was healed."""
    if healing is None:
        return
    yield "## Healing"
    yield ""
    yield "Errors before and after each step: relative L2 of the outputs on held-out samples that only choose."
    yield ""
    rows = (
        (step.name, f"{step.before:.4g}", f"{step.after:.4g}", "yes" if step.kept else "no", "; ".join(step.notes))
        for step in healing.steps
    )
    yield "| step | before | after | kept | notes |"
    yield "|---|---:|---:|---|---|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
    yield f"{len(healing.changed) - len(healing.others)} factors took other values, and {len(healing.others)} others:"
    yield ", ".join(f"`{name}`" for name in healing.others) + "." if healing.others else "none."
