"""Activations and weights as tables and as JSON: ranks, and with labels collapse."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from rankfold.passes.collapse import Collapse
from rankfold.passes.rank_measures import SHARES, RankMeasures
from rankfold.representations import Representations
from rankfold.tools.report_json import SCHEMA_VERSION
from rankfold.tools.tables import percent, shape_text

_ROW = {
    "none": "a row is a position",
    "mean": "a row is a sample, the mean of its positions",
    "flatten": "a row is a sample, all its values",
}


def activations_table(found: Representations) -> Table:
    """Return the measures of activations, in graph order."""
    labelled = bool(found.classes)
    table = _table(f"Activations: {len(found.activations)} ({_ROW[found.pooling]})", "activation", "operator")
    _numbers(table, "features", "rows", *(f"rank for {100 * share:g} %" for share in SHARES), "stable", "effective")
    if labelled:
        _numbers(table, "within-class share", "NC1", "cluster variation")
    for line in found.activations:
        table.add_row(
            line.tensor,
            line.op_type,
            str(line.features),
            f"{line.rows:,}",
            *(str(line.ranks.share_ranks[share]) for share in SHARES),
            f"{line.ranks.stable:.1f}",
            f"{line.ranks.effective:.1f}",
            *(_collapse_cells(line.collapse) if labelled else ()),
        )
    return table


def weights_table(found: Representations) -> Table:
    """Return the ranks of the foldable weights beside the cluster variation of what they read."""
    classes = len(found.classes)
    table = _table(f"Foldable weights and rank {classes}, the number of classes", "weight", "reads")
    _numbers(table, "in × out", "stable", "effective", f"distance to rank {classes}", "relative", "cluster variation")
    for line in found.weights:
        table.add_row(
            line.site,
            line.activation,
            shape_text(line),
            f"{line.ranks.stable:.1f}",
            f"{line.ranks.effective:.1f}",
            f"{line.distance:.4g}",
            percent(line.relative_distance),
            _number(None if line.before is None else line.before.cluster_variation),
        )
    return table


def correlation_lines(found: Representations) -> list[str]:
    """Return in words how ranks of weights go with the cluster variation of what they read."""
    lines = []
    for line in found.correlations:
        between = "no interval" if line.interval is None else "95 % {:+.2f} to {:+.2f}".format(*line.interval)
        lines.append(
            f"Spearman over {line.layers} layers, {line.rank} with the cluster variation before the layer:"
            f" {line.spearman:+.2f} ({between})"
        )
    return lines


def representations_to_json(found: Representations) -> dict[str, Any]:
    """Return everything that was measured as JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model_digest": found.model_digest,
        "samples": found.samples,
        "pooling": found.pooling,
        "classes": {str(label): size for label, size in found.classes.items()},
        "activations": [asdict(line) | {"ranks": _ranks_to_json(line.ranks)} for line in found.activations],
        "skipped": [asdict(node) for node in found.skipped],
        "weights": [asdict(line) | {"ranks": _ranks_to_json(line.ranks)} for line in found.weights],
        "correlations": [asdict(line) for line in found.correlations],
        "warnings": list(found.warnings),
    }


def _ranks_to_json(ranks: RankMeasures) -> dict[str, Any]:
    return asdict(ranks) | {"share_ranks": {f"{share:g}": rank for share, rank in ranks.share_ranks.items()}}


def _collapse_cells(collapse: Collapse | None) -> tuple[str, str, str]:
    if collapse is None:
        return "-", "-", "-"
    share = "-" if collapse.within_share is None else percent(collapse.within_share)
    return share, _number(collapse.nc1), _number(collapse.cluster_variation)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(title: str, first: str, second: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in (first, second):
        table.add_column(name, overflow="fold")
    return table


def _numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
