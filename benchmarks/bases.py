"""Other bases beside the one that is used: `python -m benchmarks.bases --work DIR [--subject NAME ...]`.

Every layer gets the same share of its parameters, and each basis the same ranks, or where layers share a factor the
ranks that cost as much. The weights are replaced by what their factors multiply to, so that nothing but the basis
differs. Rewrites `results/bases.json` and the table in the README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import markdown, write_results
from benchmarks.intervals import paired_interval
from benchmarks.other_bases import BASES, Ground, Oblique, Ranks
from benchmarks.subjects import SUBJECTS
from benchmarks.weighed import collect
from rankfold.opening import open_model
from rankfold.passes.allocate import allocate, parameter_curve
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import input_specs
from rankfold.passes.replaced import with_values
from rankfold.passes.site import read_bias
from rankfold.passes.sites import Scan
from rankfold.passes.write_model import write_referring
from rankfold.runtime_calib.feeds import open_source
from rankfold.runtime_calib.threads import limited_threads

KEEPS = (0.50, 0.33)

Row = dict[str, Any]


def replaced(ground: Ground, bases: Mapping[str, Oblique], path: Path) -> Path:
    """Write the model with each weight as its basis leaves it, and return where."""
    values: dict[str, NDArray[np.generic]] = {}
    for site in ground.scan.sites:
        if site.name not in bases:
            continue
        basis, use = bases[site.name], site.uses[0]
        weight = finite_weight(ground.model, ground.scan, site) @ basis.down @ basis.up
        if site.weight.steps or use.bias is None or use.bias.trace.steps or use.scale != 1:
            raise SystemExit(f"{site.name}: this comparison is written for a plain weight and a plain bias")
        values[site.weight.root] = weight.T if site.flipped else weight
        shift = basis.mean - basis.mean @ basis.down @ basis.up
        bias = read_bias(ground.model, ground.scan.index, site, use) + shift
        values[use.bias.trace.root] = (bias / use.bias.scale).reshape(use.bias.trace.shape)
    write_referring(with_values(ground.model, values), ground.model, path)
    return path


def uniform_ranks(scan: Scan, keep: float) -> Ranks:
    """Return each site's rank under one ratio for all; None where it stays dense."""
    curves = [
        parameter_curve(s.name, (s.in_features, s.out_features), lambda _: 0.0, pivots=bool(s.pivots))
        for s in scan.sites
    ]
    plan = allocate(curves, keep * sum(site.parameters for site in scan.sites))
    return {name: choice.rank for name, choice in plan.items()}


def measured(name: str, work: Path) -> list[Row]:
    """Return one row per size and basis of a subject, from the work folder where it was measured before."""
    kept = work / f"bases.{name}.json"
    if kept.exists():
        found: list[Row] = json.loads(kept.read_text())
        return found
    subject = SUBJECTS[name](work, fast=True)
    model, scan = open_model(subject.model, subject.options)
    samples = sum(1 for _ in open_source(subject.data, input_specs(model)).units)
    ground = Ground(subject, model, scan, collect(model, scan, subject, samples=samples))
    rows: list[Row] = []
    for keep in KEEPS:
        ranks, first = uniform_ranks(scan, keep), None
        for label, basis in BASES.items():
            scores = subject.score(replaced(ground, basis(ground, ranks), work / f"{name}.bases.onnx"))
            measure = scores["relative L2"] if "relative L2" in scores else next(iter(scores.values()))
            first = first or measure
            found = paired_interval(first, measure)
            rows.append({"subject": name, "keep": keep, "basis": label, "relative_l2": measure.value, **vars(found)})
            print(json.dumps(rows[-1]), flush=True)
    kept.write_text(json.dumps(rows))
    return rows


def main() -> None:
    """Score every basis and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subject", nargs="+", choices=tuple(SUBJECTS), default=list(SUBJECTS))
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    with limited_threads():
        rows = [row for name in chosen.subject for row in measured(name, chosen.work)]
    if set(chosen.subject) == set(SUBJECTS):
        write_results("bases", {"rows": rows}, table(rows))


def table(rows: list[Row]) -> str:
    """Return one line per basis, one column per subject and size."""
    columns = list(dict.fromkeys((row["subject"], row["keep"]) for row in rows))
    found = {(row["basis"], row["subject"], row["keep"]): row["relative_l2"] for row in rows}
    head = ("relative L2 of the output", *(f"{subject}, {keep:.2f}" for subject, keep in columns))
    return markdown(head, [(label, *(f"{found[label, *column]:.4f}" for column in columns)) for label in BASES])


if __name__ == "__main__":
    main()
