"""What people read on stdout: rich tables of plans, sites, errors, sizes and times."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from rankfold.findings import Analysis, Discrepancy, Latency, Report, SiteOutcome, SiteSummary
from rankfold.values import RankPlan, SiteRank, Skipped
from rankfold.weight_ranks import WeightRanks

_PLAIN_WIDTH = 320
"""Columns of a table that goes to a file or a pipe; rich would take 80 and break the node names."""


@dataclass(frozen=True)
class SkipReason:
    """Nodes of one operator that are left alone for one reason."""

    op_type: str
    reason: str
    first: str
    nodes: int


def stdout_console() -> Console:
    """Return the console of the results: as wide as the terminal, or wide enough for node names in a pipe."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def as_text(content: RenderableType) -> str:
    """Return a table as plain text without colour."""
    page = StringIO()
    Console(file=page, width=_PLAIN_WIDTH, color_system=None, highlight=False, markup=False, emoji=False).print(content)
    return page.getvalue()


def format_plan(plan: RankPlan) -> str:
    """Return the plan as a plain text table: shape, rank, parameters and predicted error per site."""
    return as_text(plan_table(plan))


def plan_table(plan: RankPlan) -> Table:
    """Return the plan as a table; the last line sums up, weights that the plan may not touch included."""
    table = _table(f"Rank plan: {plan.made_by}", "site", ("in × out", "rank", "parameters", "kept", "predicted error"))
    table.show_footer = True
    for line in plan.sites:
        table.add_row(
            line.site,
            shape_text(line),
            rank_text(line),
            f"{line.parameters:,}",
            percent(line.parameters / line.dense_parameters),
            lost(line.predicted_error),
        )
    if plan.fixed_dense_parameters:
        kept = percent(plan.fixed_parameters / plan.fixed_dense_parameters)
        table.add_row("(excluded or folded before)", "", "", f"{plan.fixed_parameters:,}", kept, "")
    footers = ("total", "", "", f"{plan.parameters_after:,} of {plan.parameters_before:,}", percent(plan.kept), "")
    for column, text in zip(table.columns, footers, strict=True):
        column.footer = text
    return table


def shape_text(site: SiteRank | SiteSummary | SiteOutcome | WeightRanks) -> str:
    """Return a site's sizes, such as `384 × 1536`, or `8 of 384 × 1536` for a stack."""
    sizes = f"{site.in_features} × {site.out_features}"
    return sizes if site.blocks == 1 else f"{site.blocks} of {sizes}"


def analysis_table(analysis: Analysis) -> Table:
    """Return the foldable sites; with data, the rank each needs for a share of its output energy."""
    with_data = any(site.rows for site in analysis.sites)
    shares = sorted({share for site in analysis.sites for share in site.energy_ranks})
    spectral = ("rows", "numerical rank", *(f"rank for {100 * share:g} %" for share in shares)) if with_data else ()
    columns = ("operator", "in × out", "uses", "parameters", "break-even rank", *spectral)
    table = _table(f"Foldable sites: {len(analysis.sites)}", "site", columns)
    for site in analysis.sites:
        ranks = (str(site.energy_ranks.get(share, "-")) for share in shares)
        table.add_row(
            site.name,
            site.op_type,
            shape_text(site),
            str(site.uses),
            f"{site.blocks * site.in_features * site.out_features:,}",
            str(site.break_even_rank),
            *((f"{site.rows:,}", str(site.numerical_rank), *ranks) if with_data else ()),
        )
    return table


def outcome_table(report: Report) -> Table:
    """Return what became of every site."""
    between = ("k_S", "k_T", "by P_S alone", "by P_T alone") if any(site.losses for site in report.sites) else ()
    columns = ("in × out", "rank", "parameters", *between, "predicted error", "measured error")
    table = _table("Sites (share of output energy lost)", "site", columns)
    for site in report.sites:
        table.add_row(
            site.name,
            shape_text(site),
            rank_text(site),
            change(site.parameters_before, site.parameters_after),
            *(projection_cells(site) if between else ()),
            lost(site.predicted_error),
            lost(site.measured_error),
        )
    return table


def projection_cells(site: SiteOutcome) -> tuple[str, str, str, str]:
    """Return a site's k_S, k_T and what each projection alone loses; dashes where it has none."""
    if site.projection is None or site.losses is None:
        return "-", "-", "-", "-"
    kept, losses = site.projection, site.losses
    return str(kept.inputs), str(kept.outputs), lost(losses.inputs), lost(losses.outputs)


def size_table(report: Report) -> Table:
    """Return parameters and bytes, before and after."""
    table = _table("Size", "", ("before", "after", "kept"))
    for name, size in (
        ("parameters of linear weights", report.linear_parameters),
        ("parameters of the model", report.parameters),
        ("bytes", report.size_bytes),
    ):
        kept = percent(size.after / size.before) if size.before else "-"
        table.add_row(name, f"{size.before:,}", f"{size.after:,}", kept)
    return table


def discrepancy_table(discrepancy: Discrepancy) -> Table:
    """Return the errors of the candidate's outputs against the original's."""
    columns = ("relative L2", "cosine", "max abs", "mean abs", "max rel", "mean rel", "top-1 agreement", "passing atol")
    table = _table(f"Outputs against the original's, {discrepancy.samples:,} samples", "output", columns)
    for output in discrepancy.outputs:
        table.add_row(
            output.name,
            f"{output.relative_l2:.4g}",
            f"{output.cosine:.6f}",
            f"{output.max_abs:.4g}",
            f"{output.mean_abs:.4g}",
            f"{output.max_rel:.4g}",
            f"{output.mean_rel:.4g}",
            "-" if output.top1_agreement is None else percent(output.top1_agreement),
            f"{output.passing_atol:.4g}",
        )
    return table


def latency_table(latency: Sequence[Latency]) -> Table:
    """Return the times of both models: median and quartiles, in milliseconds."""
    table = _table("Latency, interleaved (median, quartiles)", "provider", ("batch", "before", "after", "speed-up"))
    for line in latency:
        table.add_row(
            line.provider,
            str(line.batch),
            milliseconds(line.before_ms, line.before_spread_ms),
            milliseconds(line.after_ms, line.after_spread_ms),
            f"{line.speedup:.2f}×",
        )
    return table


def skipped_table(skipped: Sequence[Skipped]) -> Table:
    """Return the nodes left as they are, with the reasons."""
    table = _table("Left as they are", "node", ())
    table.add_column("operator")
    table.add_column("reason", overflow="fold")
    for node in skipped:
        table.add_row(node.node, node.op_type, node.reason)
    return table


def reasons_table(skipped: Sequence[Skipped]) -> Table:
    """Return the reasons for which nodes are left as they are, with their number and the first of them."""
    table = _table("Left as they are", "reason", ("nodes",))
    table.add_column("operator")
    table.add_column("first", overflow="fold")
    for reason in skip_reasons(skipped):
        table.add_row(reason.reason, str(reason.nodes), reason.op_type, reason.first)
    return table


def skip_reasons(skipped: Sequence[Skipped]) -> tuple[SkipReason, ...]:
    """Return the skipped nodes by operator and reason, the most frequent first."""
    counts = Counter((node.op_type, node.reason) for node in skipped)
    first = {(node.op_type, node.reason): node.node for node in reversed(skipped)}
    return tuple(SkipReason(op_type, why, first[op_type, why], count) for (op_type, why), count in counts.most_common())


def rank_text(site: SiteRank | SiteOutcome) -> str:
    """Return a rank for a reader: `dense` where the site stays as it is, and the form where it is not a plain pair."""
    if site.rank is None:
        return "dense"
    return str(site.rank) if site.form == "pair" else f"{site.rank}, {site.form}"


def percent(share: float) -> str:
    """Return a share as a percentage with two decimals."""
    return f"{100 * share:.2f} %"


def lost(share: float) -> str:
    """Return a share that should be small as a percentage with two significant digits."""
    smallest = 1e-6
    return f"< {100 * smallest:.4f} %" if 0 < share < smallest else f"{100 * share:.2g} %"


def change(before: int, after: int) -> str:
    """Return a count before and after, or the count alone where nothing changed."""
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def milliseconds(median: float, quartiles: tuple[float, float]) -> str:
    """Return a time with its quartiles."""
    return f"{duration(median)} ms ({duration(quartiles[0])} to {duration(quartiles[1])})"


def duration(time_ms: float) -> str:
    """Return a time in milliseconds with three significant digits."""
    return f"{time_ms:.0f}" if time_ms >= 100 else f"{time_ms:#.3g}".rstrip(".")


def _table(title: str, first: str, numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table
