"""What the runs of `benchmarks.healing` say, laid side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.common import markdown
from benchmarks.frontier_summary import TITLES

Row = dict[str, Any]

# What counts beside the distance, and the distances that have a line of their own.
_COUNTED = {"vit": "accuracy", "dinov2": "probe accuracy", "minilm": "agreement at 10"}
_DISTANCES = {"dinov2": ("relative L2", "relative L2, first 96")}


def table(rows: Sequence[Row]) -> str:
    """Return the runs, those that differ by the seed alone on one line, as the mean of them.

    The bounds of a mean over seeds are the means of the runs' bounds: the mean's own are no wider.
    """
    head = (
        "healed", "runs", "", "original", "unhealed", "healed", "less original", "relative L2", "healed", "lower by",
        "samples × passes", "minutes a run",
    )  # fmt: skip
    return markdown(head, [line for runs in _groups(rows) for line in _lines(runs)])


def healed_scores(rows: Iterable[Row]) -> dict[tuple[str, float], Mapping[str, float]]:
    """Return the scores after healing without labels, the mean over the seeds, by model and size."""
    return {
        (runs[0]["subject"], runs[0]["keep"]): {
            name: _mean(runs, lambda run, name=name: run["scores"]["healed"][name])
            for name in runs[0]["scores"]["healed"]
        }
        for runs in _groups(rows)
        if runs[0]["how"] == "distill"
    }


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["subject"], row["keep"], row["how"]), []).append(row)
    order = {name: place for place, name in enumerate(TITLES)}
    return [groups[key] for key in sorted(groups, key=lambda key: (order[key[0]], key[2], -key[1]))]


def _lines(runs: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return one line for each distance."""
    subject = runs[0]["subject"]
    return [_line(runs, distance) for distance in _DISTANCES.get(subject, ("relative L2",))]


def _line(runs: Sequence[Row], distance: str) -> tuple[str, ...]:
    first = runs[0]
    counted = _COUNTED[first["subject"]]
    whole = distance == "relative L2"
    scores = (counted, *(f"{_score(runs, side, counted):.4f}" for side in ("original", "unhealed", "healed")))
    before, after = (_score(runs, side, distance) for side in ("unhealed", "healed"))
    return (
        f"{TITLES[first['subject']]}, keep {first['keep']:.2f}, {first['how']}{'' if whole else ', first 96 images'}",
        str(len(runs)),
        *((*scores, _away(runs, counted)) if whole else ("",) * 5),
        f"{before:.4f}",
        f"{after:.4f}",
        f"{100 * (1 - after / before):.0f} %" if after < before else "higher",
        *((f"{first['samples'][0]:,} × {first['passes']}", _minutes(runs)) if whole else ("", "")),
    )


def _minutes(runs: Sequence[Row]) -> str:
    """Return the CPU's minutes, or those that went by at a GPU; a run that was cut off has none."""
    device = runs[0]["device"]
    spent = "cpu_minutes" if device == "cpu" else "wall_minutes"
    if any(run[spent] is None for run in runs):
        return f"not measured, {device}"
    return f"{_mean(runs, lambda run: run[spent]):.0f} on {'CPU' if device == 'cpu' else device}"


def _score(runs: Sequence[Row], side: str, name: str) -> float:
    return _mean(runs, lambda run: run["scores"][side][name])


def _away(runs: Sequence[Row], name: str) -> str:
    parts = (
        _mean(runs, lambda run, part=part: run["less_original"][name][part]) for part in ("difference", "low", "high")
    )
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*parts)


def _mean(runs: Sequence[Row], value: Callable[[Row], float]) -> float:
    return statistics.mean(map(value, runs))
