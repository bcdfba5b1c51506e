"""Accuracy under attack as pictures: a curve over ε per model, a panel per attack."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rankfold.masking import Place
from rankfold.robustness import Robustness
from rankfold.threat import AttackName
from rankfold.tools.attack_text import NORM_NAMES
from rankfold.tools.pictures import Picture, write_pictures

PICTURE = "robustness.svg"
_PANEL_INCHES = (4.0, 4.6)
_LABELS = {"fgsm": "FGSM", "pgd": "PGD"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart by most eyes (Okabe, Ito)
_MARKERS = "osD^vP"


class _Curve(NamedTuple):
    """Whose accuracy by whose examples."""

    made_on: int
    scored_on: int
    label: str


def write_curves(folder: Path, found: Robustness) -> tuple[str, ...]:
    """Write the curves, and return what to tell.

    Raises:
        OutputError: A file cannot be written.
    """
    panels = len({part.place.attack for part in found.robust})
    inches = (max(2, panels) * _PANEL_INCHES[0], _PANEL_INCHES[1])
    return write_pictures(folder, {PICTURE: Picture(partial(_draw, found=found), inches)})


def _draw(figure: Any, *, found: Robustness) -> None:
    attacks = list(dict.fromkeys(part.place.attack for part in found.robust))
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, attacks, strict=True):
        _draw_panel(axes, found, name)
    panels[0].set_ylabel(f"accuracy on {found.models[0].clean.samples:,} samples, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1, frameon=False)


def _curves(found: Robustness) -> Iterator[_Curve]:
    """Yield each model's own, then the original's examples on each candidate, then a single candidate's on it."""
    models = found.models
    for number, model in enumerate(models):
        yield _Curve(number, number, f"{model.name}, its own examples")
    for number, model in enumerate(models[1:], start=1):
        yield _Curve(0, number, f"{model.name}, examples made on {models[0].name}")
    if len(models) == 2:
        yield _Curve(1, 0, f"{models[0].name}, examples made on {models[1].name}")


def _draw_panel(axes: Any, found: Robustness, attack: AttackName) -> None:
    """Draw one attack's curves, with 95 % intervals on those of models' own examples."""
    for curve in _curves(found):
        points = [(0.0, found.models[curve.scored_on].clean)]
        points += [
            (eps, found.share(Place(attack, eps, curve.made_on, curve.scored_on))) for eps in found.bounds.eps if eps
        ]
        radii, heights = [eps for eps, _ in points], [share.percent for _, share in points]
        place = curve.scored_on
        look = {
            "color": _COLOURS[place % len(_COLOURS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "label": curve.label,
        }
        if curve.made_on == curve.scored_on:
            low, high = zip(*(share.interval for _, share in points), strict=True)
            axes.fill_between(radii, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axes.plot(radii, heights, "-", **look)
        else:
            axes.plot(radii, heights, "--", **look, markerfacecolor="white")
    axes.set_title(_LABELS[attack])
    axes.set_xlabel(f"ε ({NORM_NAMES[found.threat.norm]}, {_unit(found)})")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=4)  # more would run into the next panel's
    axes.grid(visible=True, alpha=0.3)


def _unit(found: Robustness) -> str:
    plain = found.threat.mean == (0.0,) and found.threat.std == (1.0,)
    return f"units of input {found.scoring.input.name!r}" + ("" if plain else " before normalisation")
