"""Utilized rank as pictures: by depth, and the spectrum of each weight beside that of the weight on its data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rankfold.projections import SiteUtilization
from rankfold.tools.pictures import Picture, short_name, write_pictures
from rankfold.utilization import Utilization

DEPTH_PICTURE = "utilization.svg"
SPECTRA_PICTURE = "spectra.svg"
_WIDTH_INCHES = 8.0
_DEPTH_INCHES = 3.8
_ROW_INCHES = 1.7
_COLUMNS = 4
_MOST_SPECTRA = 16
"""Panels of one picture; of more sites, that many are drawn, spread evenly over the depth."""
_FLOOR = 1e-9  # below it lies the rounding of float32 sums
_NAME_LETTERS = 26


PICTURES = (DEPTH_PICTURE, SPECTRA_PICTURE)


def write_plots(folder: Path, found: Utilization) -> tuple[str, ...]:
    """Draw both pictures into a folder, and return what to tell.

    Raises:
        OutputError: A file cannot be written.
    """
    if not found.sites:
        return ("Nothing was drawn: no site has a utilized rank",)
    chosen = spread(found.sites, _MOST_SPECTRA)
    height = _ROW_INCHES * math.ceil(len(chosen) / _COLUMNS) + 0.6
    return write_pictures(
        folder,
        {
            DEPTH_PICTURE: Picture(partial(_draw_depth, found=found), (_WIDTH_INCHES, _DEPTH_INCHES)),
            SPECTRA_PICTURE: Picture(partial(_draw_spectra, sites=chosen), (_WIDTH_INCHES, height)),
        },
    )


def spread(sites: Sequence[SiteUtilization], most: int) -> list[SiteUtilization]:
    """Return at most so many sites, the first and the last among them, evenly spread."""
    if len(sites) <= most:
        return list(sites)
    return [sites[round(place * (len(sites) - 1) / (most - 1))] for place in range(most)]


def _draw_depth(figure: Any, *, found: Utilization) -> None:
    """Draw a panel per share, at most three: utilization over the place of the node, a colour per operator."""
    shares = list(enumerate(found.shares))
    shares = shares if len(shares) <= 3 else [shares[0], shares[len(shares) // 2], shares[-1]]
    panels = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    kinds = list(dict.fromkeys(site.op_type for site in found.sites))
    for axes, (place, share) in zip(panels, shares, strict=True):
        for number, kind in enumerate(kinds):
            points = [(s.depth, 100 * s.shares[place].utilization) for s in found.sites if s.op_type == kind]
            axes.plot(*zip(*points, strict=True), "os^Dv"[number % 5], ms=5, alpha=0.8, label=kind)
        mean = 100 * found.mlu[share]
        axes.axhline(mean, color="0.4", lw=1, ls="--", label="mean (MLU)")
        axes.set_title(f"{100 * share:g} % of the variance\nMLU {mean:.1f} %", fontsize=10)
        axes.set_xlabel("node, in topological order")
        axes.set_ylim(0, 105)
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("utilized rank / full rank, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(kinds) + 1, fontsize=9)


def _draw_spectra(figure: Any, *, sites: Sequence[SiteUtilization]) -> None:
    """Draw a panel per site: the shares of the energy along the directions of the weight, and of the outputs."""
    rows = math.ceil(len(sites) / _COLUMNS)
    columns = min(_COLUMNS, len(sites))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(sites) :]:
        axes.axis("off")
    for axes, site in zip(panels.flat, sites, strict=False):
        axes.plot(*_curve(site.weight_spectrum), color="tab:gray", label="weight alone (random inputs)")
        axes.plot(*_curve(site.output_spectrum), color="tab:blue", label="weight on its data")
        axes.set_yscale("log")
        axes.set_ylim(_FLOOR, 2)
        axes.set_title(short_name(site.name, _NAME_LETTERS), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(visible=True, alpha=0.3)
    figure.supxlabel("direction, the strongest first", fontsize=10)
    figure.supylabel("share of the energy", fontsize=10)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9)


def _curve(shares: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return places from 1 on and the shares there, as far as they are not 0."""
    kept = [share for share in shares if share > 0]
    return list(range(1, len(kept) + 1)), kept
