"""What the runs of the headline study say when they are laid side by side: figures, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.intervals import RESAMPLES, mean_of, paired_interval
from benchmarks.studies.headline_runs import WAYS, Found, Outcome, Scored
from rankfold.shares import Share
from rankfold.tools.pictures import Picture

PAPER_LOSS = 0.2  # points of accuracy, that the paper stays below
_INCHES = (8.5, 4.2)
_NEAR = (-3.0, 1.0)  # points about the original's accuracy, that the second panel shows
_LABELS = {"utilized": "--utilized", "keep": "--keep"}
_COLOURS = {"utilized": "tab:blue", "keep": "tab:orange"}
_MARKERS = {"utilized": "o", "keep": "s"}

Figures = dict[str, Any]


def summary(found: Found) -> Figures:
    """Return all of it for the results file; accuracies are in percent, differences to the original's in points."""
    count = Share(int(found.original.right.sum()), len(found.original.right))
    low, high = count.interval
    points = [_point(outcome, found.original) for outcome in found.outcomes]
    return {
        "title": found.title,
        "settings": asdict(found.settings),
        "original": {"accuracy": count.percent, "images": count.samples, "low": low, "high": high},
        "points": points,
        "fewest": {way: fewest(points, way) for way in WAYS},
    }


def _point(outcome: Outcome, original: Scored) -> Figures:
    row = outcome.before.row
    accuracies = [run.row["accuracy"] for run in outcome.after]
    spread = {"lowest": min(accuracies), "highest": max(accuracies)} if accuracies else {}
    return {
        "way": outcome.point.way,
        "share": outcome.point.share,
        "kept": row["kept"],
        "parameters_kept": row["parameters"]["after"] / row["parameters"]["before"],
        **{name: row[name] for name in ("folded", "linear_parameters", "parameters", "size_bytes")},
        "before": _beside(original, [outcome.before]),
        "after": _beside(original, outcome.after) | spread if accuracies else None,
        "runs": [run.row for run in outcome.after],
    }


def _beside(original: Scored, runs: Sequence[Scored]) -> Figures:
    """Return the runs' mean accuracy, and its difference to the original's with the interval over test images."""
    mean = np.mean([run.right for run in runs], axis=0)
    found = paired_interval(mean_of(original.right), mean_of(mean))
    names = ("difference", "low", "high")
    return {"accuracy": 100 * float(mean.mean())} | {name: 100 * getattr(found, name) for name in names}


def fewest(points: Sequence[Figures], way: str) -> Figures:
    """Return the smallest kept shares whose loss after fine-tuning is below the paper's: by the mean, and for sure."""
    tuned = [point for point in points if point["way"] == way and point["after"] is not None]
    return {
        name: min((point["kept"] for point in tuned if point["after"][figure] > -PAPER_LOSS), default=None)
        for name, figure in (("by_the_mean", "difference"), ("by_the_interval", "low"))
    }


def block(content: Figures, picture_file: str) -> str:
    """Return the table, the picture by its place beside the page, and what a reader needs to know of them."""
    head = (
        content["title"],
        "linear parameters kept",
        "all parameters kept",
        "before",
        "after fine-tuning",
        "runs",
        "before, less the original's",
        "after, less the original's",
    )
    original = content["original"]
    first = ("original", "1.000", "1.000", f"{original['accuracy']:.2f} %", "", "", "", "")
    lines = [first, *(_line(point) for point in content["points"])]
    drawn = f"![Accuracy against the parameters kept]({picture_file})"
    return "\n\n".join((markdown(head, lines), drawn, _notes(content), _fewest(content)))


def _line(point: Figures) -> tuple[str, ...]:
    after = point["after"]
    size = point["share"] if point["way"] == "utilized" else round(point["kept"], 4)
    return (
        f"`{_LABELS[point['way']]} {size}`",
        f"{point['kept']:.3f}",
        f"{point['parameters_kept']:.3f}",
        f"{point['before']['accuracy']:.2f} %",
        "nothing folded" if after is None else _ranged(after, len(point["runs"])),
        str(len(point["runs"])),
        _difference(point["before"]),
        "" if after is None else _difference(after),
    )


def _ranged(after: Figures, runs: int) -> str:
    mean = f"{after['accuracy']:.2f} %"
    return mean if runs < 2 else f"{mean} ({after['lowest']:.2f} to {after['highest']:.2f})"


def _difference(found: Figures) -> str:
    return f"{found['difference']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _notes(content: Figures) -> str:
    settings, original = content["settings"], content["original"]
    return (
        f"Accuracy on {original['images']:,} test images; the original's 95 % interval is {original['low']:.2f} to"
        f" {original['high']:.2f} (Wilson). Fine-tuned on {settings['training_images']:,} labelled training images, of"
        f" which a part chose when to stop, over {settings['passes']} passes at most. Of several runs, which differ by"
        " the seed of the fine-tuning, it is the mean, with the lowest and the highest. Differences are in points, in"
        f" brackets the paired 95 % interval ({RESAMPLES:,} resamples of the test images)."
    )


def _fewest(content: Figures) -> str:
    by_the_mean, by_the_interval = (
        ", ".join(f"`{_LABELS[way]}` {_share(found[name])}" for way, found in content["fewest"].items())
        for name in ("by_the_mean", "by_the_interval")
    )
    return (
        f"Smallest share of the linear parameters that lost less than {PAPER_LOSS} points after fine-tuning, read off"
        f" this table: {by_the_mean}; with the interval's lower end above that, too: {by_the_interval}."
    )


def _share(kept: float | None) -> str:
    return "none" if kept is None else f"{kept:.3f}"


def picture(content: Figures) -> Picture:
    """Return accuracy against parameters kept: before and after, both ways, the original as a line."""
    return Picture(partial(_draw, content=content), _INCHES)


def _draw(figure: Any, *, content: Figures) -> None:
    panels = figure.subplots(1, 2, sharex=True)
    original = content["original"]["accuracy"]
    for axes, title in zip(panels, ("all sizes", "near the original"), strict=True):
        axes.axhline(original, color="0.3", lw=1, label="original")
        for way in WAYS:
            _curve(axes, content, way, "before")
            _curve(axes, content, way, "after")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("linear parameters kept, %")
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("accuracy on test images, %")
    panels[1].set_ylim(original + _NEAR[0], original + _NEAR[1])
    figure.suptitle(content["title"], fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)


def _curve(axes: Any, content: Figures, way: str, side: str) -> None:
    """Draw one way at all sizes, with the paired interval of each point about the original's accuracy."""
    original = content["original"]["accuracy"]
    points = sorted((p for p in content["points"] if p["way"] == way and p[side]), key=lambda point: point["kept"])
    if not points:
        return
    tuned = side == "after"
    found = [point[side] for point in points]
    centre = [figures["accuracy"] for figures in found]
    bars = [[f["accuracy"] - original - f["low"] for f in found], [original + f["high"] - f["accuracy"] for f in found]]
    axes.errorbar(
        [100 * point["kept"] for point in points],
        centre,
        yerr=np.maximum(bars, 0),
        color=_COLOURS[way],
        marker=_MARKERS[way],
        ms=5,
        capsize=2,
        lw=1.4 if tuned else 1,
        ls="-" if tuned else "--",
        mfc=_COLOURS[way] if tuned else "white",
        label=f"{_LABELS[way]}, {'after' if tuned else 'before'} fine-tuning",
    )
