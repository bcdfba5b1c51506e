"""Pictures of activations by depth: their ranks, and with labels how far classes have collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rankfold.activation_study import ActivationRanks
from rankfold.representations import Representations
from rankfold.tools.pictures import Picture, short_name, write_pictures

RANKS = "activation-ranks.svg"
COLLAPSE = "activation-collapse.svg"
PICTURES = (RANKS, COLLAPSE)
_INCHES = (8.0, 5.6)
_MOST_TICKS = 14
_LONGEST_TICK = 34  # characters of a name under the axis


def write_plots(folder: Path, found: Representations) -> tuple[str, ...]:
    """Draw what was measured, and return what to tell: where pictures are, or how to get them.

    Raises:
        OutputError: A file cannot be written.
    """
    pictures = {}
    if lines := [line for line in found.activations if line.ranks.effective > 0]:
        pictures[RANKS] = Picture(partial(_draw_ranks, lines=lines), _INCHES)
    if lines := [line for line in found.activations if line.collapse is not None and line.collapse.within_share]:
        pictures[COLLAPSE] = Picture(partial(_draw_collapse, lines=lines), _INCHES)
    return write_pictures(folder, pictures) or ("Nothing was drawn: no activation was measured that varies",)


def _draw_ranks(figure: Any, *, lines: Sequence[ActivationRanks]) -> None:
    axes = _axes(figure, lines)
    depth = range(len(lines))
    axes.step(depth, [line.features for line in lines], where="mid", color="0.75", label="features")
    for share in (0.99, 0.9):
        ranks = [line.ranks.share_ranks[share] for line in lines]
        axes.plot(depth, ranks, ".-", label=f"rank for {100 * share:g} %")
    axes.plot(depth, [line.ranks.effective for line in lines], ".-", label="effective rank")
    axes.plot(depth, [line.ranks.stable for line in lines], ".-", label="stable rank")
    axes.set_yscale("log")
    axes.set_ylabel("directions")
    axes.set_title("Rank of activations by depth")
    _legend(figure, axes.get_lines())


def _draw_collapse(figure: Any, *, lines: Sequence[ActivationRanks]) -> None:
    axes = _axes(figure, lines)
    depth = range(len(lines))
    measured = [line.collapse for line in lines if line.collapse is not None]
    shares = [100 * (collapse.within_share or 0.0) for collapse in measured]
    first = axes.plot(depth, shares, ".-", color="C0", label="within-class share (left)")
    axes.set_ylim(0, 100)
    axes.set_ylabel("within-class share of the variance, %")
    axes.set_title("Collapse of classes by depth, one row per sample")
    other = axes.twinx()
    found = [(place, collapse.nc1) for place, collapse in enumerate(measured) if collapse.nc1]
    second = other.plot(*zip(*found, strict=True), ".-", color="C1", label="NC1 (right)") if found else []
    other.set_yscale("log")
    other.set_ylabel("NC1 = tr(Σ_W Σ_B⁺) / K")
    _legend(figure, [*first, *second])


def _axes(figure: Any, lines: Sequence[ActivationRanks]) -> Any:
    """Return axes with names of some activations, evenly spread, under them."""
    axes = figure.add_subplot()
    places = range(0, len(lines), -(-len(lines) // _MOST_TICKS))
    names = [short_name(lines[place].tensor, _LONGEST_TICK) for place in places]
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.margins(x=0.01)
    axes.set_xlabel("activation, in graph order", fontsize=9)
    axes.grid(visible=True, alpha=0.3)
    return axes


def _legend(figure: Any, handles: Sequence[Any]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
