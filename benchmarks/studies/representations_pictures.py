"""Pictures of the study of low-rank representations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.studies.representations_summary import CONDITIONS
from benchmarks.studies.representations_summary import TITLES as LABELS
from benchmarks.studies.tasks import Row
from rankfold.tools.pictures import Picture

RANKS = "representations-ranks.svg"
KEPT = "representations-kept.svg"
ROBUST = "representations-robust.svg"
TITLES = {
    RANKS: "Rank of activations by stage, with and without the term",
    KEPT: "Test accuracy by the share of the parameters kept",
    ROBUST: "Accuracy under attack",
}
_WIDE, _NARROW = (9.0, 3.8), (5.5, 3.8)
_COLOURS = dict(zip(CONDITIONS, ("C0", "C1"), strict=True))
_POINTS = 100.0


def pictures(found: Row) -> dict[str, Picture]:
    """Return the pictures by their files' names."""
    return {
        RANKS: Picture(partial(_draw_ranks, found=found), _WIDE),
        KEPT: Picture(partial(_draw_kept, found=found), _NARROW),
        ROBUST: Picture(partial(_draw_robust, found=found), _WIDE),
    }


def _draw_ranks(figure: Any, *, found: Row) -> None:
    stages = list(found["runs"][0]["stages"])
    features = [found["runs"][0]["stages"][stage]["features"] for stage in stages]
    for axes, kind, title in zip(
        figure.subplots(1, 2), ("effective", "share"), ("effective rank", "rank for 99 % of the variance"), strict=True
    ):
        axes.step(range(len(stages)), features, where="mid", color="0.75", label="channels")
        for condition in CONDITIONS:
            figures = [_spread(found, condition, f"{kind} {stage}") for stage in stages]
            _band(axes, range(len(stages)), figures, condition)
        axes.set_xticks(range(len(stages)), stages, fontsize=8)
        _finish(axes, "stage", title)
        axes.set_yscale("log")


def _draw_kept(figure: Any, *, found: Row) -> None:
    axes = figure.add_subplot()
    keeps = sorted(found["settings"]["keeps"])
    for condition in CONDITIONS:
        figures = [_spread(found, condition, f"kept {keep:g}") for keep in keeps]
        _band(axes, [*keeps, 1.0], [*figures, _spread(found, condition, "accuracy")], condition, scale=_POINTS)
    axes.set_xticks([*keeps, 1.0], [*(f"{keep:g}" for keep in keeps), "original"])
    _finish(axes, "share of the parameters kept", "test accuracy, %")


def _draw_robust(figure: Any, *, found: Row) -> None:
    for axes, attack, title in zip(figure.subplots(1, 2), ("fgsm", "pgd"), ("FGSM", "PGD"), strict=True):
        for condition in CONDITIONS:
            names = [name for name in found["summary"][condition] if name.startswith(attack)]
            radii = [0, *(int(name.split()[1].split("/")[0]) for name in names)]
            figures = [_spread(found, condition, name) for name in ("clean", *names)]
            _band(axes, radii, figures, condition, scale=_POINTS)
        axes.set_title(title)
        axes.set_xticks(radii)
        axes.set_ylim(bottom=0)
        _finish(axes, "ε, 255ths of the range", "robust accuracy, %")


def _spread(found: Row, condition: str, name: str) -> Row:
    spread: Row = found["summary"][condition][name]
    return spread


def _band(axes: Any, places: Sequence[float], figures: Sequence[Row], condition: str, scale: float = 1.0) -> None:
    """Draw means, and the extremes of the seeds as a band."""
    colour = _COLOURS[condition]
    axes.plot(places, [scale * part["mean"] for part in figures], ".-", color=colour, label=LABELS[condition])
    low, high = ([scale * part[side] for part in figures] for side in ("min", "max"))
    axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)


def _finish(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
