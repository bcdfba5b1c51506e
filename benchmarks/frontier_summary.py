"""What the candidates of `benchmarks.frontier_table` say when they are laid side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.candidates import ENERGY, OURS, UNIFORM, Scored
from benchmarks.common import markdown
from benchmarks.intervals import RESAMPLES, Interval, paired_interval
from benchmarks.rivals import RIVALS

Row = dict[str, Any]
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

    def difference(self, rival: Scored, name: str) -> Interval:
        """Return a rival's score less rankfold's, with its paired interval over the test samples."""
        return paired_interval(self.ours.scores[name], rival.scores[name])


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


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """Return a row for each candidate, as the results file has it: rankfold's first of each size."""
    return [_row(group, scored) for group in groups for scored in (group.ours, *group.rivals)]


def _row(group: Group, scored: Scored) -> Row:
    candidate = scored.candidate
    row: Row = {
        "subject": candidate.subject,
        "keep": candidate.keep,
        "basis": candidate.basis,
        "allocation": candidate.allocation,
        "kept": scored.kept,
        "size_bytes": scored.size_bytes,
        "scores": {name: measure.value for name, measure in scored.scores.items()},
        "less_is_better": {name: measure.root for name, measure in scored.scores.items()},  # distances are roots
        "original": {name: measure.value for name, measure in group.original.scores.items()},
    }
    if scored is not group.ours:
        row["less_rankfold"] = {name: vars(group.difference(scored, name)) for name in group.names}
    return row


Healed = Mapping[tuple[str, float], Mapping[str, float]]
"""Scores after healing, by model and size."""


def short_table(rows: Sequence[Row], healed: Healed) -> str:
    """Return one line per model, size and score: rankfold, the rivals with uniform ranks, and the best rival of all."""
    head = ("", "keep", "original", OURS, *RIVALS, "best rival at any ranks", "it less rankfold", f"{OURS}, healed")
    lines = [line for place in (0, 1) for size in _sizes(rows) for line in _short_lines(size, place, healed)]
    return markdown(head, lines)


def bars(rows: Sequence[Row]) -> str:
    """Return in how many rows rankfold is the best point, and in how many a rival is surely better."""
    sizes = [(size, next(iter(size[0]["scores"]))) for size in _sizes(rows)]
    best = sum(is_best(*size) for size in sizes)
    beaten = sum(bool(wholly_better(*size)) for size in sizes)
    return (
        f"By the first score of each model rankfold is the best point in {best} of {len(sizes)} rows, and a rival's"
        f" paired 95 % interval ({RESAMPLES:,} resamples of the test samples) lies wholly on the better side in"
        f" {beaten}."
    )


def best_rival(size: Sequence[Row], name: str) -> Row:
    """Return the rival that is best by a score; `size` are the rows of one model and size, rankfold's first."""
    return min(size[1:], key=lambda row: _loss(row, name))


def is_best(size: Sequence[Row], name: str) -> bool:
    """Return whether no rival is better than rankfold by a score."""
    return _loss(size[0], name) <= _loss(best_rival(size, name), name)


def wholly_better(size: Sequence[Row], name: str) -> list[Row]:
    """Return the rivals whose whole interval of the difference to rankfold's lies on the better side."""
    return [row for row in size[1:] if _surely_better(row["less_rankfold"][name], less=row["less_is_better"][name])]


def _surely_better(difference: Row, *, less: bool) -> bool:
    return bool(difference["high"] < 0 if less else difference["low"] > 0)


def _loss(row: Row, name: str) -> float:
    """Return what is less where a score is better."""
    value: float = row["scores"][name]
    return value if row["less_is_better"][name] else -value


def _sizes(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each model and size, in their order."""
    found: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        found.setdefault((row["subject"], row["keep"]), []).append(row)
    return list(found.values())


def _short_lines(size: Sequence[Row], place: int, healed: Healed) -> list[tuple[str, ...]]:
    """Return the line of one of the scores of a size, none where it has not so many."""
    ours, names = size[0], list(size[0]["scores"])
    if place >= len(names):
        return []
    name = names[place]
    best = best_rival(size, name)
    uniform = {row["basis"]: row["scores"][name] for row in size[1:] if row["allocation"] == UNIFORM}
    mine = f"{ours['scores'][name]:.4f}"
    after = healed.get((ours["subject"], ours["keep"]), {})
    return [
        (
            f"{TITLES.get(ours['subject'], ours['subject'])}, {name}",
            f"{ours['keep']:.2f}",
            f"{ours['original'][name]:.4f}",
            f"**{mine}**" if is_best(size, name) else mine,
            *(f"{uniform[basis]:.4f}" if basis in uniform else "" for basis in RIVALS),
            f"{best['scores'][name]:.4f}, {best['basis']}, {_RANKS[best['allocation']]}",
            _written(Interval(**best["less_rankfold"][name])),
            f"{after[name]:.4f}" if name in after else "",
        )
    ]


_RANKS = {UNIFORM: "uniform", ENERGY: "normalised energy", OURS: "rankfold's"}
