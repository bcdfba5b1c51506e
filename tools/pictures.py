"""Pictures as SVG text, where matplotlib is installed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

PLOTS_MISSING = "it needs matplotlib; pip install 'rankfold[plots]'"


def svg_text(draw: Callable[[Any], None], *, inches: tuple[float, float]) -> str | None:
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
