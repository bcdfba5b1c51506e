"""Pictures as SVG, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rankfold.errors import RuntimeUnavailableError
from rankfold.passes.write_model import check_writable
from rankfold.tools.report_files import make_folder, write_text

PLOTS_MISSING = "it needs matplotlib; pip install 'rankfold[plots]'"


class Picture(NamedTuple):
    """What draws on a figure, and the figure's width and height in inches."""

    draw: Callable[[Any], None]
    inches: tuple[float, float]


def make_plots_folder(folder: Path, names: Iterable[str]) -> None:
    """Check that pictures can be drawn and make their folder, before anything is measured.

    Raises:
        RuntimeUnavailableError: matplotlib is not there.
        OutputError: The folder cannot be made, or the pictures cannot be written there.
    """
    if not is_installed("matplotlib"):
        raise RuntimeUnavailableError(
            "--plots needs matplotlib, which is not installed; run `pip install 'rankfold[plots]'`, or leave it out"
        )
    make_folder(folder)
    for name in names:
        check_writable(folder / name)


def write_pictures(folder: Path, pictures: Mapping[str, Picture]) -> tuple[str, ...]:
    """Write pictures under their names, and return what to tell: where they are, or how to get them.

    Raises:
        OutputError: A file cannot be written.
    """
    make_folder(folder)
    told = []
    for name, picture in pictures.items():
        page = svg_text(*picture)
        if page is None:
            return (f"{' and '.join(pictures)} were not drawn: {PLOTS_MISSING}",)
        write_text(folder / name, page)
        told.append(f"Picture: {folder / name}")
    return tuple(told)


def is_installed(name: str) -> bool:
    """Return whether a package is there; it is not imported."""
    return importlib.util.find_spec(name) is not None


def svg_text(draw: Callable[[Any], None], inches: tuple[float, float]) -> str | None:
    """Return as SVG what is drawn on a figure, the same bytes each time; None without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None
    with rc_context({"svg.hashsalt": "rankfold"}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        page = io.StringIO()
        figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()


def short_name(name: str, letters: int) -> str:
    """Return a long name without its middle: its start tells the block, its end the layer."""
    if len(name) <= letters:
        return name
    start = letters // 3
    return f"{name[:start]}…{name[start + 1 - letters :]}"
