"""Pictures of the study of neural rank collapse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.studies.collapse_summary import MEASURES, layers_of, of, read_layers, values_of
from benchmarks.studies.collapse_summary import TITLES as NETWORKS
from benchmarks.studies.tasks import Row
from rankfold.tools.pictures import Picture

DECAY = "collapse-decay.svg"
VARIABILITY = "collapse-variability.svg"
TITLES = {
    DECAY: "Rank of each layer by weight decay",
    VARIABILITY: "Rank of each layer by the within-class variability of what it reads",
}
_SHOWN = ("effective_rank", "distance_to_classes")
_WIDTH, _HEIGHT = 4.6, 3.4  # inches of one panel


def pictures(found: Row) -> dict[str, Picture]:
    """Return the pictures by their files' names."""
    networks = list(found["settings"]["subjects"])
    inches = (_WIDTH * len(_SHOWN) + 1.4, _HEIGHT * len(networks))
    return {
        DECAY: Picture(partial(_draw, found=found, networks=networks, panel=_draw_decay), inches),
        VARIABILITY: Picture(partial(_draw, found=found, networks=networks, panel=_draw_variability), inches),
    }


def _draw(figure: Any, *, found: Row, networks: Sequence[str], panel: Any) -> None:
    """Draw one row of panels per network, one panel per measure."""
    panels = figure.subplots(len(networks), len(_SHOWN), squeeze=False)
    for line, network in zip(panels, networks, strict=True):
        runs = of(found["runs"], network)
        for axes, measure in zip(line, _SHOWN, strict=True):
            panel(axes, runs, measure)
            axes.set_title(NETWORKS[network], fontsize=9)
            axes.set_ylabel(MEASURES[measure])
            axes.grid(visible=True, alpha=0.3)
        _explain(figure, line, runs, panel)


def _draw_decay(axes: Any, runs: Sequence[Row], measure: str) -> None:
    decays = np.array([run["weight_decay"] for run in runs])
    steps, layers = np.unique(decays), layers_of(runs)
    for number, layer in enumerate(layers):
        values = np.array(values_of(runs, layer, measure))
        groups = [values[decays == step] for step in steps]
        colour = _by_depth(number, len(layers))
        axes.plot(steps, [group.mean() for group in groups], ".-", color=colour, label=layer)
        low, high = [group.min() for group in groups], [group.max() for group in groups]
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("weight decay")


def _draw_variability(axes: Any, runs: Sequence[Row], measure: str) -> None:
    from matplotlib.colors import LogNorm

    decays = [run["weight_decay"] for run in runs]
    norm = LogNorm(min(decays), max(decays))
    for layer in read_layers(runs):
        across, up = values_of(runs, layer, "cluster_variation"), values_of(runs, layer, measure)
        axes.scatter(across, up, c=decays, norm=norm, cmap="viridis", s=14)
    axes.set_xscale("log")
    axes.set_xlabel("cluster variation of what the layer reads")


def _explain(figure: Any, line: Sequence[Any], runs: Sequence[Row], panel: Any) -> None:
    """Put beside a row of panels what its colours are."""
    if panel is _draw_decay:
        line[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6, frameon=False)
    elif read_layers(runs):
        figure.colorbar(line[-1].collections[0], ax=list(line), label="weight decay")


def _by_depth(number: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](number / max(count - 1, 1))
