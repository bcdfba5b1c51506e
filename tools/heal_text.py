"""What a healing reached, as tables to read and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import RenderableType
from rich.table import Table

from rankfold.healing import Healed
from rankfold.tools.limits import Limit
from rankfold.tools.report_json import SCHEMA_VERSION, Json, limits_to_json, outputs_to_json
from rankfold.tools.tables import discrepancy_table, skipped_table


def heal_tables(healed: Healed) -> tuple[RenderableType, ...]:
    """Return the steps, what was left alone, and the outputs before and after."""
    steps = _table("Steps (relative L2 on held-out samples that choose)", "step", ("before", "after", "kept"))
    steps.add_column("notes", overflow="fold")
    for step in healed.steps:
        row = (step.name, f"{step.before:.4g}", f"{step.after:.4g}", "yes" if step.kept else "no")
        steps.add_row(*row, "; ".join(step.notes))
    errors = _table(
        f"Relative L2, {healed.after.samples:,} samples that decided nothing", "output", ("before", "after")
    )
    for before, after in zip(healed.before.outputs, healed.after.outputs, strict=True):
        errors.add_row(before.name, f"{before.relative_l2:.4g}", f"{after.relative_l2:.4g}")
    left = (skipped_table(healed.skipped),) if healed.skipped else ()
    return (steps, *left, errors, discrepancy_table(healed.after))


def healed_to_json(healed: Healed, *, limits: Sequence[Limit] = ()) -> Json:
    """Return all of it as JSON values."""
    training, choosing, reporting = healed.samples
    return {
        "schema_version": SCHEMA_VERSION,
        "output": str(healed.path),
        "steps": [asdict(step) for step in healed.steps],
        "changed": list(healed.changed),
        "changed_beside_factors": list(healed.others),
        "samples": {"healing": training, "choosing": choosing, "held_out": reporting},
        "outputs_before": outputs_to_json(healed.before),
        "outputs": outputs_to_json(healed.after),
        "skipped": [asdict(node) for node in healed.skipped],
        "limits": limits_to_json(limits),
    }


def _table(title: str, first: str, others: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table
