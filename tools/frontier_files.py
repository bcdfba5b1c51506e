"""A frontier as a table, as text, as JSON, as plans and, with matplotlib, as a picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from rankfold.frontier import Frontier, FrontierPoint
from rankfold.passes.plan_file import plan_to_json
from rankfold.tools.pictures import PLOTS_MISSING, svg_text
from rankfold.tools.report_files import write_text
from rankfold.tools.report_json import SCHEMA_VERSION, to_text
from rankfold.tools.tables import percent

FRONTIER = "frontier.json"
PICTURE = "frontier.svg"
_BAR_COLUMNS = 50
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SIZE_INCHES = (9.0, 4.0)


def plan_name(point: FrontierPoint) -> str:
    """Return the name of a point's plan file."""
    return f"plan-{point.keep:.15g}.json"  # shares that are nearly the same are still two


def frontier_table(found: Frontier) -> Table:
    """Return the points as a table."""
    title = (
        f"Frontier: loss on {found.comparing:,} held-out samples that chose, relative L2 of the worst output on"
        f" {found.reporting:,} that decided nothing"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("allowed", "kept", "parameters", "FLOPs (counted)", "loss", "relative L2"):
        table.add_column(name, justify="right", overflow="fold")
    for point in found.points:
        table.add_row(
            f"{point.keep:g}",
            percent(point.plan.kept),
            f"{point.plan.parameters_after:,}",
            percent(point.flops),
            f"{point.loss:.4g}",
            f"{point.error:.4g}",
        )
    return table


def drawing(found: Frontier) -> str:
    """Return the curve as text: a bar of the relative L2 per point."""
    most = max(point.error for point in found.points) or 1.0
    lines = [
        "   kept  relative L2 on samples that decided nothing",
        *(f"{percent(point.plan.kept):>8} {_bar(point.error / most)} {point.error:.4g}" for point in found.points),
    ]
    if found.unreached:
        lines.append(f"Not reached: {', '.join(f'{keep:g}' for keep in found.unreached)}")
    return "\n".join(lines)


def frontier_to_json(found: Frontier) -> dict[str, Any]:
    """Return the points as JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model_digest": found.model_digest,
        "samples": {"comparing": found.comparing, "reporting": found.reporting},
        "plans_tried": found.tried,
        "points": [
            {
                "keep": point.keep,
                "kept": point.plan.kept,
                "parameters": point.plan.parameters_after,
                "flops_kept": point.flops,
                "loss": point.loss,
                "relative_l2": point.error,
                "plan": plan_name(point),
            }
            for point in found.points
        ],
        "unreached": list(found.unreached),
        "warnings": list(found.warnings),
    }


def write_frontier(folder: Path, found: Frontier) -> tuple[str, ...]:
    """Write frontier.json, a plan per point and the picture.

    Returns:
        What to tell: where things are, or how to get the picture.

    Raises:
        OutputError: A file cannot be written.
    """
    for point in found.points:
        write_text(folder / plan_name(point), plan_to_json(point.plan))
    write_text(folder / FRONTIER, to_text(frontier_to_json(found)))
    written = f"Frontier: {folder / FRONTIER}, and a plan per point"
    picture = svg(found)
    if picture is None:
        return written, f"{PICTURE} was not drawn: {PLOTS_MISSING}"
    write_text(folder / PICTURE, picture)
    return written, f"Picture: {folder / PICTURE}"


def svg(found: Frontier) -> str | None:
    """Return the curve as SVG, the same bytes each time; None without matplotlib."""
    return svg_text(partial(_draw, found=found), _SIZE_INCHES)


def _draw(figure: Any, *, found: Frontier) -> None:
    """Draw the error against the size on the left, against the counted speed on the right."""
    errors = [point.error for point in found.points]
    size, speed = figure.subplots(1, 2, sharey=True)
    for axes, shares, name in (
        (size, [point.plan.kept for point in found.points], "parameters of foldable weights kept, %"),
        (speed, [point.flops for point in found.points], "FLOPs of foldable layers (counted), %"),
    ):
        axes.plot([100 * share for share in shares], errors, "o-", label="samples that decided nothing")
        axes.set_xlabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    size.set_ylabel("relative L2 of the worst output")
    speed.legend()


def _bar(share: float) -> str:
    """Return a bar of a share of the full width, to an eighth of a column."""
    eighths = round(share * 8 * _BAR_COLUMNS)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
