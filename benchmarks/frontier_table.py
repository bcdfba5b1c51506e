"""Quality at several sizes beside other methods: `python -m benchmarks.frontier_table --work DIR`.

At each kept share: rankfold with all its defaults, every rival basis with uniform ranks and with the ranks that
rankfold chose, and the best of them with ranks of equal normalised energy. Every scored candidate is written to the
work folder at once and not computed again, so a run that was stopped goes on where it was. With all models and sizes
there, `results/frontier.json` and the tables in the README are rewritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.candidates import ENERGY, OURS, UNIFORM, Bench, Scored
from benchmarks.common import write_results
from benchmarks.frontier_summary import Group, bars, content, long_table, short_table
from benchmarks.rivals import RIVALS
from benchmarks.subjects import SUBJECTS
from rankfold.runtime_calib.threads import limited_threads

KEEPS = (0.75, 0.65, 0.50, 0.33, 0.25)
ROSTER = (*((basis, ranks) for ranks in (UNIFORM, OURS) for basis in RIVALS), ("AFM", ENERGY))


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what is not scored yet, print every candidate, and write the results when nothing is left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, data and scores, kept")
    parser.add_argument("--subject", nargs="+", choices=tuple(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS))
    parser.add_argument("--rivals", nargs="*", choices=tuple(RIVALS), default=list(RIVALS))
    parser.add_argument("--fast", action="store_true", help="the short scores: fewer test samples")
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    groups = [group for name in chosen.subject for group in _groups(name, chosen)]
    for name in chosen.subject:
        print(long_table(name, [group for group in groups if group.original.candidate.subject == name]), end="\n\n")
    whole = {name: getattr(chosen, name) == parser.get_default(name) for name in ("subject", "keeps", "rivals", "fast")}
    if all(whole.values()):
        write_results("frontier", content(groups), f"{short_table(groups)}\n\n{bars(groups)}")


def _groups(name: str, chosen: argparse.Namespace) -> list[Group]:
    """Return one subject's candidates, by size."""
    with limited_threads():
        bench = Bench(SUBJECTS[name](chosen.work, fast=chosen.fast), chosen.work, fast=chosen.fast)
        original = bench.original()
        return [Group(original, bench.ours(keep), tuple(_rivals(bench, keep, chosen))) for keep in chosen.keeps]


def _rivals(bench: Bench, keep: float, chosen: argparse.Namespace) -> Iterator[Scored]:
    for basis, allocation in ROSTER:
        if basis in chosen.rivals:
            yield bench.rival(keep, basis, allocation)


if __name__ == "__main__":
    main()
