"""Quality at several sizes beside other methods: `python -m benchmarks.frontier_table --work DIR --subject NAME`.

At each kept share: rankfold with all its defaults, and each rival basis at the ranks of each allocation asked for.
Every scored candidate is written to the work folder at once and not computed again, so a run that was stopped goes
on where it was. The last column is the difference of the first score to rankfold's, with its paired 95 % bootstrap
interval over the test samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.candidates import ALLOCATIONS, OURS, UNIFORM, Bench, Scored
from benchmarks.common import markdown
from benchmarks.intervals import paired_interval
from benchmarks.rivals import RIVALS
from benchmarks.subjects import SUBJECTS
from rankfold.runtime_calib.threads import limited_threads

KEEPS = (0.75, 0.65, 0.50, 0.33, 0.25)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what is not scored yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, data and scores, kept")
    parser.add_argument("--subject", choices=tuple(SUBJECTS), required=True)
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS))
    parser.add_argument("--rivals", nargs="*", choices=tuple(RIVALS), default=list(RIVALS))
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=[UNIFORM])
    parser.add_argument("--fast", action="store_true", help="the short scores: fewer test samples")
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    with limited_threads():
        subject = SUBJECTS[chosen.subject](chosen.work, fast=chosen.fast)
        bench = Bench(subject, chosen.work, fast=chosen.fast)
        original = bench.original()
        groups = [list(_candidates(bench, keep, chosen)) for keep in chosen.keeps]
    print(table(subject.name, original, groups))


def _candidates(bench: Bench, keep: float, chosen: argparse.Namespace) -> Iterator[Scored]:
    """Yield rankfold's result and then the rivals' of one size."""
    yield bench.ours(keep)
    for allocation in chosen.allocations:
        for basis in chosen.rivals:
            yield bench.rival(keep, basis, allocation)


def table(title: str, original: Scored, groups: Sequence[Sequence[Scored]]) -> str:
    """Return the table; each group is of one size, rankfold first."""
    names = list(original.scores)
    lines = [_line(original, None)]
    for ours, *others in groups:
        lines += [_line(ours, None), *(_line(other, ours) for other in others)]
    return markdown((title, "kept", *names, f"{names[0]}, less rankfold's"), lines)


def _line(scored: Scored, ours: Scored | None) -> tuple[str, ...]:
    values = (f"{measure.value:.4f}" for measure in scored.scores.values())
    return (_label(scored), f"{scored.kept:.4f}", *values, "" if ours is None else _difference(ours, scored))


def _label(scored: Scored) -> str:
    candidate = scored.candidate
    if candidate.keep == 1:
        return "original"
    ranks = "" if candidate.basis == OURS else f", {candidate.allocation} ranks"
    return f"keep {candidate.keep:.2f}, {candidate.basis}{ranks}"


def _difference(ours: Scored, other: Scored) -> str:
    name = next(iter(ours.scores))
    found = paired_interval(ours.scores[name], other.scores[name])
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


if __name__ == "__main__":
    main()
