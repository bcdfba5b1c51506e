"""Pictures of the study of utilization: by depth, and against the share of the variance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.utilization_figures import ABOUT, SHARES, TITLES, Row, of_kind, utilizations
from rankfold.tools.pictures import Picture, write_pictures

DEPTH, AGAINST_SHARE = "utilization-depth.svg", "utilization-shares.svg"
_DEPTH_SHARE = 0.99
_APART = 0.12  # of a block's width, so that marks of one height are all seen
_PANELS = ("vit", "dinov2", "supervised", "masked")
_MARKERS = {"attention in": "o", "attention out": "s", "fc1": "^", "fc2": "v"}
_LINES = {
    "vit": ("C0", ".-"),
    "dinov2": ("C1", ".-"),
    "untrained": ("0.5", ".:"),
    "supervised": ("C0", ".--"),
    "masked": ("C1", ".--"),
}


def write_study_pictures(folder: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    """Draw both pictures, and return what to tell.

    Raises:
        OutputError: A file cannot be written.
    """
    return write_pictures(
        folder,
        {
            DEPTH: Picture(partial(_draw_depth, rows=rows), (8.0, 6.0)),
            AGAINST_SHARE: Picture(partial(_draw_shares, rows=rows), (8.0, 4.2)),
        },
    )


def _draw_depth(figure: Any, *, rows: Sequence[Row]) -> None:
    """Draw a panel per network: utilization by block, its mean and extremes where there are seeds, or q, k and v."""
    place = SHARES.index(_DEPTH_SHARE)
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, kind in zip(panels, _PANELS, strict=True):
        runs = of_kind(rows, kind, "mean")
        for number, (layers, marker) in enumerate(_MARKERS.items()):
            points = _by_block(runs, layers, place)
            beside = {block + _APART * (number - (len(_MARKERS) - 1) / 2): values for block, values in points.items()}
            _errors(axes, beside, (f"C{number}", marker), label=layers)
        mlu = 100 * float(np.mean([run["mlu"][place] for run in runs]))
        axes.axhline(mlu, color="0.4", lw=1, ls="--", label="mean (MLU)")
        axes.set_title(f"{_long_title(kind)}: MLU {mlu:.1f} %", fontsize=9)
        axes.set_xticks(sorted(points))
        axes.set_ylim(0, 105)
        axes.grid(visible=True, alpha=0.3)
    figure.supxlabel("block", fontsize=10)
    figure.supylabel(f"utilized rank / full rank at {100 * _DEPTH_SHARE:g} % of the variance, %", fontsize=10)
    _legend(figure, axes, columns=5)


def _by_block(runs: Sequence[Row], kind: str, place: int) -> dict[float, list[float]]:
    """Return all utilizations in percent of one kind of layer, by block."""
    points: dict[float, list[float]] = {}
    for run in runs:
        for layer, value in zip(run["layers"], utilizations(run["layers"], place), strict=True):
            if layer["kind"] == kind:
                points.setdefault(layer["block"], []).append(100 * value)
    return points


def _draw_shares(figure: Any, *, rows: Sequence[Row]) -> None:
    """Draw a panel per way of counting: the mean layer utilization of every network, seeds as mean and extremes."""
    for axes, about in zip(figure.subplots(1, len(ABOUT), sharey=True), ABOUT, strict=True):
        for kind, look in _LINES.items():
            runs = of_kind(rows, kind, about)
            points = {float(place): [100 * run["mlu"][place] for run in runs] for place in range(len(SHARES))}
            _errors(axes, points, look, label=_long_title(kind))
        axes.set_xticks(range(len(SHARES)), [f"{100 * share:g} %" for share in SHARES])
        axes.set_title(f"variance about {'the mean' if about == 'mean' else 'zero'}", fontsize=10)
        axes.set_ylim(0, 105)
        axes.grid(visible=True, alpha=0.3)
    figure.supxlabel("share of the variance", fontsize=10)
    figure.supylabel("mean layer utilization, %", fontsize=10)
    _legend(figure, axes, columns=3)


def _errors(axes: Any, points: dict[float, list[float]], look: tuple[str, str], *, label: str) -> None:
    """Draw means in a colour and format, with a bar from the least to the largest."""
    color, shape = look
    means = [float(np.mean(values)) for values in points.values()]
    low = [mean - min(values) for mean, values in zip(means, points.values(), strict=True)]
    high = [max(values) - mean for mean, values in zip(means, points.values(), strict=True)]
    axes.errorbar(list(points), means, yerr=[low, high], fmt=shape, color=color, ms=5, capsize=2, label=label)


def _long_title(kind: str) -> str:
    return TITLES[kind] if kind in ("vit", "dinov2") else f"one ViT, {TITLES[kind]}"


def _legend(figure: Any, axes: Any, *, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8, frameon=False)
