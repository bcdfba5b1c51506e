"""Quality at several sizes beside other methods: `python -m benchmarks.frontier_table --work DIR`.

At each kept share: rankfold with all its defaults, every rival basis with uniform ranks and with the ranks that
rankfold chose, and the best of them with ranks of equal normalised energy. Every scored candidate is written to the
work folder at once and not computed again, so a run that was stopped goes on where it was. A model of which nothing is
left out takes its place in `results/frontier.json` and in the README's table, beside those that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.candidates import ENERGY, OURS, UNIFORM, Bench, Scored
from benchmarks.common import README, RESULTS, write_between, write_results
from benchmarks.frontier_summary import Group, Row, bars, long_table, rows_of, short_table
from benchmarks.healing_table import healed_scores
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
    whole = all(getattr(chosen, name) == parser.get_default(name) for name in ("keeps", "rivals", "fast"))
    for name in chosen.subject:
        groups = _groups(name, chosen)
        print(long_table(name, groups), end="\n\n")
        if whole:
            rows = _beside(rows_of(groups))
            write_results("frontier", {"rows": rows}, _tables(rows))


def rewrite() -> None:
    """Write the README's table anew from the results files, with what was healed since."""
    if (file := RESULTS / "frontier.json").exists():
        write_between("frontier", _tables(json.loads(file.read_text())["rows"]), README)


def _tables(rows: list[Row]) -> str:
    file = RESULTS / "healing.json"
    healed = healed_scores(json.loads(file.read_text())["rows"]) if file.exists() else {}
    return f"{short_table(rows, healed)}\n\n{bars(rows)}"


def _beside(new: list[Row]) -> list[Row]:
    """Return rows with those that the results file has of other models, in the order of `SUBJECTS`."""
    file, subject = RESULTS / "frontier.json", new[0]["subject"]
    old = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [*(row for row in old if row["subject"] != subject), *new]
    return sorted(rows, key=lambda row: list(SUBJECTS).index(row["subject"]))


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
