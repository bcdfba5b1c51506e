"""Utilized ranks as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from rankfold.tools.report_json import analysis_to_json
from rankfold.tools.tables import lost, percent
from rankfold.utilization import Utilization


def weights_table(found: Utilization) -> Table:
    """Return how full of rank each weight looks alone, beside its utilized rank at every share."""
    about = "the mean" if all(site.centred for site in found.sites) else "zero"
    columns = ("operator", "in × out", "rows", "numerical rank", "stable rank", "effective rank")
    shares = tuple(f"utilized, {100 * share:g} %" for share in found.shares)
    table = _table(f"Ranks of the weight alone, and of weight and data (variance about {about})", (*columns, *shares))
    for site in found.sites:
        table.add_row(
            site.name,
            site.op_type,
            f"{site.in_features} × {site.out_features}",
            f"{site.rows:,}",
            str(site.weight.numerical),
            f"{site.weight.stable:.1f}",
            f"{site.weight.effective:.1f}",
            *(f"{ranks.rank} ({percent(ranks.utilization)})" for ranks in site.shares),
        )
    return table


def directions_table(found: Utilization) -> Table:
    """Return the directions of inputs and outputs at each share, and the output energy that keeping only them loses."""
    columns = ("share", "k_S", "k_T", "rank", "P_S alone", "P_T alone", "both", "both, held out")
    table = _table("Directions kept, and the share of output energy that is lost", columns)
    for site in found.sites:
        for place, ranks in enumerate(site.shares):
            table.add_row(
                site.name if place == 0 else "",
                f"{100 * ranks.share:g} %",
                str(ranks.inputs),
                str(ranks.outputs),
                str(ranks.rank),
                *map(lost, (ranks.losses.inputs, ranks.losses.outputs, ranks.losses.both, ranks.held_out)),
            )
    return table


def mlu_text(found: Utilization) -> str:
    """Return the mean layer utilization of each share, and the sites that have none, as lines."""
    means = ", ".join(f"{percent(mean)} at {100 * share:g} %" for share, mean in found.mlu.items())
    lines = [f"Mean layer utilization of {len(found.sites)} sites: {means}"] if found.sites else []
    lines += [f"{site.node}: {site.reason}" for site in found.left]
    return "\n".join(lines)


def utilization_to_json(found: Utilization) -> dict[str, Any]:
    """Return the analysis with what is utilized of each site under `utilization`."""
    return {
        **analysis_to_json(found.analysis),
        "utilization": {
            "shares": list(found.shares),
            "mlu": {f"{share:g}": mean for share, mean in found.mlu.items()},
            "sites": [asdict(site) for site in found.sites],
            "left": [asdict(site) for site in found.left],
        },
    }


def _table(title: str, numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("site", overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table
