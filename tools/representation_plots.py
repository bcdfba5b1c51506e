"""Pictures of activations by depth: their ranks, and with labels how far classes have collapsed."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankfold.activation_study import ActivationRanks
from rankfold.passes.write_model import check_writable
from rankfold.representations import Representations
from rankfold.tools.report_files import make_folder, write_bytes

RANKS = "activation-ranks.png"
COLLAPSE = "activation-collapse.png"
_INCHES, _DOTS = (8.0, 5.6), 100  # 800 pixels wide
_MOST_TICKS = 14
_LONGEST_TICK = 34  # characters of a name under the axis; the end tells more than the beginning


def make_plots_folder(folder: Path) -> None:
    """Make the folder of the pictures before anything is measured.

    Raises:
        OutputError: It cannot be made or written to.
    """
    make_folder(folder)
    for name in (RANKS, COLLAPSE):
        check_writable(folder / name)


def write_plots(folder: Path, found: Representations) -> tuple[str, ...]:
    """Draw what was measured, and return what to tell: where pictures are, or how to get them.

    Raises:
        OutputError: A file cannot be written.
    """
    if not matplotlib_is_there():
        return ("No pictures were drawn: they need matplotlib; pip install 'rankfold[plots]'",)
    written = []
    lines = [line for line in found.activations if line.ranks.effective > 0]
    if lines:
        write_bytes(folder / RANKS, _ranks_png(lines))
        written.append(f"Picture: {folder / RANKS}")
    labelled = [line for line in found.activations if line.collapse is not None and line.collapse.within_share]
    if labelled:
        write_bytes(folder / COLLAPSE, _collapse_png(labelled))
        written.append(f"Picture: {folder / COLLAPSE}")
    return tuple(written) or ("No pictures were drawn: no activation was measured that varies",)


def matplotlib_is_there() -> bool:
    """Return whether matplotlib is installed; it is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


def _ranks_png(lines: Sequence[ActivationRanks]) -> bytes:
    figure, axes = _figure(lines)
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
    return _png(figure)


def _collapse_png(lines: Sequence[ActivationRanks]) -> bytes:
    figure, axes = _figure(lines)
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
    return _png(figure)


def _figure(lines: Sequence[ActivationRanks]) -> tuple[Any, Any]:
    """Return a figure with names of some activations, evenly spread, under its axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(0, len(lines), -(-len(lines) // _MOST_TICKS))
    names = [_short(lines[place].tensor) for place in places]
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.margins(x=0.01)
    axes.set_xlabel("activation, in graph order", fontsize=9)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _legend(figure: Any, handles: Sequence[Any]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_TICK else f"…{name[-_LONGEST_TICK:]}"


def _png(figure: Any) -> bytes:
    page = io.BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()
