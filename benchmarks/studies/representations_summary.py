"""What the study of low-rank representations found: every run's figures, their spread over seeds, and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.intervals import Interval, mean_of, paired_interval
from benchmarks.studies.representations_runs import unpacked
from benchmarks.studies.spread import shown, spread
from benchmarks.studies.tasks import Row, Rows

CONDITIONS = ("plain", "low-rank")
TITLES = {"plain": "without the term", "low-rank": "with the term"}
_LATE = ("layer3", "layer4")  # the stages in the table: those that the term takes
_POINTS = 100.0


def content(settings: Mapping[str, Any], rows: Rows, chosen: str) -> Row:
    """Return the results, fit for JSON.

    Args:
        settings: Of the study.
        rows: What came of every run and measurement, by name.
        chosen: The name of the setting that was chosen.
    """
    seeds, keeps = settings["seeds"], settings["keeps"]
    runs = [_run(rows, condition, seed, keeps) for seed in seeds for condition in CONDITIONS]
    figures = list(_figures(runs[0]))
    by_condition = {
        condition: {name: spread([_figures(run)[name] for run in _of(runs, condition)]) for name in figures}
        for condition in CONDITIONS
    }
    return {
        "settings": dict(settings),
        "chosen": chosen,
        "choosing": [_choice(rows, name) for name in rows if name.startswith("choose-") and name.endswith("-train")],
        "runs": runs,
        "summary": by_condition,
        "differences": {name: _difference(runs, name) for name in figures},
        "intervals": {
            name: asdict(_interval(rows, seeds, kind, settings["scale"]["counts"]["test"]))
            for name, kind in (("accuracy", "train"), *((f"kept {keep:g}", f"fold-{keep:g}") for keep in keeps))
        },
    }


def table(found: Row) -> str:
    """Return one line per condition, mean and standard deviation over seeds, and one of paired differences."""
    robust = [name for name in found["summary"]["plain"] if name.startswith(("fgsm", "pgd"))]
    columns = {
        "test accuracy, %": "accuracy",
        **{f"kept {keep:g}": f"kept {keep:g}" for keep in found["settings"]["keeps"]},
        **{f"effective rank, {stage}": f"effective {stage}" for stage in _LATE},
        **{f"rank for 99 %, {stage}": f"share {stage}" for stage in _LATE},
        **{name.replace("fgsm", "FGSM").replace("pgd", "PGD"): name for name in robust},
    }
    rows = [
        (TITLES[condition], *(_cell(found["summary"][condition], name) for name in columns.values()))
        for condition in CONDITIONS
    ]
    difference = ("difference", *(_cell(found["differences"], name, signed=True) for name in columns.values()))
    bounds = ("95 % over test images", *(_bounds(found["intervals"].get(name)) for name in columns.values()))
    head = (f"{len(found['settings']['seeds'])} seeds: mean ± deviation", *columns)
    return markdown(head, [*rows, difference, bounds]) + "\n\n" + _choosing_table(found)


def _choosing_table(found: Row) -> str:
    rows = [
        (
            f"{row['setting']}{' (chosen)' if row['setting'] == found['chosen'] else ''}",
            f"{_POINTS * row['accuracy']:.2f}",
            f"{_POINTS * row['folded']:.2f}",
            ", ".join(f"{name} {share:.3f}" for name, share in row["outside"].items()) or "-",
        )
        for row in found["choosing"]
    ]
    keep = min(found["settings"]["keeps"])
    return markdown(("chosen on images of the training split", "accuracy, %", f"kept {keep:g}", "outside"), rows)


def _cell(figures: Row, name: str, *, signed: bool = False) -> str:
    scale = 1.0 if name.startswith(("effective", "stable", "share")) else _POINTS
    digits = 1 if scale == 1.0 else 2
    scaled = {key: scale * value for key, value in figures[name].items()}
    return ("+" if signed and scaled["mean"] >= 0 else "") + shown(scaled, digits)


def _bounds(interval: Row | None) -> str:
    return "-" if interval is None else f"{_POINTS * interval['low']:+.2f} to {_POINTS * interval['high']:+.2f}"


def _run(rows: Rows, condition: str, seed: int, keeps: Sequence[float]) -> Row:
    name = f"{condition}-{seed}"
    train = rows[f"{name}-train"]
    return {
        "condition": condition,
        "seed": seed,
        **{key: train[key] for key in ("accuracy", "validation_accuracy", "epoch", "outside", "minutes")},
        "stages": rows[f"{name}-ranks"]["stages"],
        "folded": {
            f"{keep:g}": {key: rows[f"{name}-fold-{keep:g}"][key] for key in ("kept", "accuracy", "minutes")}
            for keep in keeps
        },
        "attack": rows[f"{name}-attack"],
    }


def _choice(rows: Rows, name: str) -> Row:
    train = rows[name]
    (fold,) = (row for other, row in rows.items() if other.startswith(f"{name.removesuffix('train')}fold-"))
    setting = name.removeprefix("choose-").removesuffix("-train").rpartition("-")[0]
    return {
        "setting": setting,
        "accuracy": train["accuracy"],
        "validation_accuracy": train["validation_accuracy"],
        "folded": fold["accuracy"],
        "outside": train["outside"],
        "minutes": train["minutes"] + fold["minutes"],
    }


def _figures(run: Row) -> dict[str, float]:
    """Return all figures of a run by name."""
    return {
        "accuracy": run["accuracy"],
        **{f"kept {keep}": part["accuracy"] for keep, part in run["folded"].items()},
        **{f"effective {stage}": line["effective"] for stage, line in run["stages"].items()},
        **{f"stable {stage}": line["stable"] for stage, line in run["stages"].items()},
        **{f"share {stage}": line["share_rank"] for stage, line in run["stages"].items()},
        "clean": run["attack"]["clean"],
        **run["attack"]["robust"],
    }


def _of(runs: Sequence[Row], condition: str) -> list[Row]:
    return [run for run in runs if run["condition"] == condition]


def _difference(runs: Sequence[Row], name: str) -> dict[str, float]:
    """Return the spread of what the term changes, seed by seed."""
    pairs = zip(_of(runs, "plain"), _of(runs, "low-rank"), strict=True)
    return spread([_figures(term)[name] - _figures(plain)[name] for plain, term in pairs])


def _interval(rows: Rows, seeds: Sequence[int], kind: str, count: int) -> Interval:
    """Return the paired bootstrap interval over test images of what the term changes, each image's mean over seeds."""
    plain, term = (
        mean_of(np.mean([unpacked(rows[f"{condition}-{seed}-{kind}"]["right"], count) for seed in seeds], axis=0))
        for condition in CONDITIONS
    )
    return paired_interval(plain, term)
