"""What the candidates of `benchmarks.frontier_table` say when they are laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.candidates import ENERGY, OURS, UNIFORM, Scored
from benchmarks.common import markdown
from benchmarks.intervals import RESAMPLES, Interval, Measure, paired_interval
from benchmarks.rivals import RIVALS

TITLES = {"vit": "embedded ViT", "dinov2": "DINOv2 ViT-S/14", "minilm": "MiniLM"}


@dataclass(frozen=True)
class Group:
    """All candidates of one model and size: rankfold's, and the rivals'."""

    original: Scored
    ours: Scored
    rivals: tuple[Scored, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the scores' names, the one that counts first."""
        return tuple(self.ours.scores)

    def best_rival(self, name: str) -> Scored:
        """Return the rival that is best by a score."""
        return min(self.rivals, key=lambda scored: _loss(scored.scores[name]))

    def is_best(self, name: str) -> bool:
        """Return whether no rival is better than rankfold by a score."""
        return _loss(self.ours.scores[name]) <= _loss(self.best_rival(name).scores[name])

    def wholly_better(self, name: str) -> list[Scored]:
        """Return the rivals whose whole interval of the difference to rankfold's lies on the better side."""
        return [rival for rival in self.rivals if _is_better(self.difference(rival, name), self.ours.scores[name])]

    def difference(self, rival: Scored, name: str) -> Interval:
        """Return a rival's score less rankfold's, with its paired interval over the test samples."""
        return paired_interval(self.ours.scores[name], rival.scores[name])


def _loss(measure: Measure) -> float:
    """Return what is less where a score is better: distances are roots, accuracies and cosines are not."""
    return measure.value if measure.root else -measure.value


def _is_better(difference: Interval, measure: Measure) -> bool:
    return difference.high < 0 if measure.root else difference.low > 0


def label(scored: Scored) -> str:
    """Return what a candidate is called."""
    candidate = scored.candidate
    if candidate.basis in {OURS, "original"}:
        return candidate.basis
    return f"{candidate.basis}, {candidate.allocation} ranks"


def long_table(subject: str, groups: Sequence[Group]) -> str:
    """Return every candidate of one model, with the difference of its first score to rankfold's."""
    if not groups:
        return f"{subject}: nothing asked for"
    names = groups[0].names
    head = (TITLES.get(subject, subject), "kept", *names, f"{names[0]}, less rankfold's")
    lines = [_long_line(groups[0].original, None)]
    for group in groups:
        lines += [_long_line(group.ours, None), *(_long_line(rival, group) for rival in group.rivals)]
    return markdown(head, lines)


def _long_line(scored: Scored, group: Group | None) -> tuple[str, ...]:
    keep = "" if scored.candidate.keep == 1 else f"keep {scored.candidate.keep:.2f}, "
    values = (f"{measure.value:.4f}" for measure in scored.scores.values())
    away = "" if group is None else _written(group.difference(scored, group.names[0]))
    return (f"{keep}{label(scored)}", f"{scored.kept:.4f}", *values, away)


def _written(found: Interval) -> str:
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def short_table(groups: Sequence[Group]) -> str:
    """Return one line per model, size and score: rankfold, the rivals with uniform ranks, and the best rival of all."""
    head = ("", "keep", "original", OURS, *RIVALS, "best rival at any ranks", "it less rankfold")
    return markdown(head, [line for place in (0, 1) for group in groups for line in _short_lines(group, place)])


def _short_lines(group: Group, place: int) -> list[tuple[str, ...]]:
    """Return the line of one of a group's scores, none where it has not so many."""
    if place >= len(group.names):
        return []
    name = group.names[place]
    best, subject = group.best_rival(name), group.original.candidate.subject
    uniform = {s.candidate.basis: s for s in group.rivals if s.candidate.allocation == UNIFORM}
    values = [f"{uniform[basis].scores[name].value:.4f}" if basis in uniform else "" for basis in RIVALS]
    mine, first = (f"{scored.scores[name].value:.4f}" for scored in (group.ours, group.original))
    return [
        (
            f"{TITLES.get(subject, subject)}, {name}",
            f"{group.ours.candidate.keep:.2f}",
            first,
            f"**{mine}**" if group.is_best(name) else mine,
            *values,
            f"{best.scores[name].value:.4f}, {_short_label(best)}",
            _written(group.difference(best, name)),
        )
    ]


def _short_label(scored: Scored) -> str:
    ranks = {UNIFORM: "uniform", ENERGY: "normalised energy", OURS: "rankfold's"}[scored.candidate.allocation]
    return f"{scored.candidate.basis}, {ranks}"


def bars(groups: Sequence[Group]) -> str:
    """Return in how many rows rankfold is the best point, and in how many a rival is surely better."""
    first = [group.is_best(group.names[0]) for group in groups]
    beaten = [group for group in groups if group.wholly_better(group.names[0])]
    return (
        f"By the first score of each model rankfold is the best point in {sum(first)} of {len(first)} rows, and a"
        f" rival's paired 95 % interval ({RESAMPLES:,} resamples of the test samples) lies wholly on the better side in"
        f" {len(beaten)}."
    )


def content(groups: Sequence[Group]) -> dict[str, Any]:
    """Return all of it for the results file."""
    return {"rows": [_row(group, scored) for group in groups for scored in (group.ours, *group.rivals)]}


def _row(group: Group, scored: Scored) -> dict[str, Any]:
    candidate = scored.candidate
    row: dict[str, Any] = {
        "subject": candidate.subject,
        "keep": candidate.keep,
        "basis": candidate.basis,
        "allocation": candidate.allocation,
        "kept": scored.kept,
        "size_bytes": scored.size_bytes,
        "scores": {name: measure.value for name, measure in scored.scores.items()},
        "original": {name: measure.value for name, measure in group.original.scores.items()},
    }
    if scored is not group.ours:
        row["less_rankfold"] = {name: vars(group.difference(scored, name)) for name in group.names}
    return row
