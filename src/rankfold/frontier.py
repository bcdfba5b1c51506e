"""The whole curve of size against loss in one run: one calibration, one session, and a search carried along."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rankfold.capture import capture, work_folder
from rankfold.choose import Study, announced, hindrance, open_search
from rankfold.decide import Grounds, grounds_of
from rankfold.errors import PlanError
from rankfold.lab import Lab
from rankfold.memory import runs_lean
from rankfold.opening import open_model, with_outputs
from rankfold.options import Options, is_number
from rankfold.passes.graph_checks import check_measurable
from rankfold.passes.model_file import numeric_outputs
from rankfold.passes.plan import check_reachable, dense_plan, with_choices, with_predictions
from rankfold.runtime_calib.checkpoint_folder import check_outside
from rankfold.runtime_calib.distance import Losses, Metric
from rankfold.runtime_calib.feeds import DataLike, read_spool
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.threads import limited_threads
from rankfold.runtime_calib.trials import Rows, Run, joined, open_trial
from rankfold.search import Search, Trial, searched
from rankfold.sensing import gradients_hindered, sense
from rankfold.values import RankPlan

KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.33, 0.25, 0.2)


@dataclass(frozen=True)
class FrontierPoint:
    """The best plan found within one budget.

    Attributes:
        keep: The share of the parameters that was allowed.
        plan: The plan.
        flops: Share of the foldable layers' FLOPs that it takes, counted, not timed.
        loss: What it loses on the samples that plans were compared on, as the metric measures it.
        error: Relative L2 of the worst compared output on the held-out samples that decided nothing.
    """

    keep: float
    plan: RankPlan
    flops: float
    loss: float
    error: float


@dataclass(frozen=True)
class Frontier:
    """Points by falling size; a larger budget never loses more on the samples that compared.

    Attributes:
        model_digest: sha256 of the model.
        points: One per budget that can be reached.
        comparing, reporting: Samples that plans were compared on, and those that decided nothing.
        tried: Plans that were tried in all.
        unreached: Budgets that no plan meets.
    """

    model_digest: str
    points: tuple[FrontierPoint, ...]
    comparing: int
    reporting: int
    tried: int
    unreached: tuple[float, ...]
    warnings: tuple[str, ...]


def frontier(
    model: str | os.PathLike[str], data: DataLike, *, keeps: Sequence[float] = KEEPS, options: Options = Options()
) -> Frontier:
    """Return the best plans found for several shares of the parameters, and what each loses.

    Args:
        model: The ONNX file.
        data: Calibration data: a path, or an iterable of feed dicts. An iterable is read once.
        keeps: The shares, in (0, 1].
        options: Everything else.

    Raises:
        PlanError: No share can be reached, or there is too little to try plans on.
    """
    wrong = [keep for keep in keeps if not (is_number(keep) and 0 < keep <= 1)]
    if wrong or not keeps:
        raise PlanError(f"the shares are {tuple(keeps)!r}; expected numbers above 0 and at most 1")
    loaded, scan = open_model(model, options)
    check_measurable(loaded.given.path, loaded.given.proto)
    check_outside(options.checkpoint, (options.held_out_to,))
    options = with_outputs(loaded, options)
    with tempfile.TemporaryDirectory(prefix="rankfold-") as folder, limited_threads(), work_folder(options) as work:
        spool, choosing = options.held_out_to or Path(folder) / "held_out.npz", work / "choosing.npz"
        sampled = work / "sampled.npz" if gradients_hindered(loaded, options) is None else None
        calibration = capture(loaded, scan, data, spool, work=work, options=options, choosing=choosing, sampled=sampled)
        if not scan.sites:
            raise PlanError("no layer is there that a fold could make smaller; exclude less, or give another model")
        if reason := hindrance(loaded, choosing):
            raise PlanError(f"there is no frontier without trying plans ({reason})")
        sensitivity = sense(loaded, scan, sampled, Path(folder) / "gradients", options=options)
        grounds = grounds_of(loaded, scan, calibration, options, choosing=choosing, sensitivity=sensitivity)
        del calibration  # its moments take much memory
        return _walked(grounds, sorted(set(keeps), reverse=True), spool)


def walk(search: Search, budgets: Sequence[float], *, rounds: int) -> list[Trial]:
    """Return the best trial within each budget, where budgets fall; every trial counts for all of them.

    The first budget gets all rounds of weights; the others go on from there with one each.
    """
    for number, budget in enumerate(budgets):
        searched(search, budget, rounds=1 if number else rounds)
    found = [search.best(budget) for budget in budgets]
    return [trial for trial in found if trial is not None]


def _walked(grounds: Grounds, keeps: Sequence[float], spool: Path) -> Frontier:
    study, rows = grounds.study, grounds.rows
    empty = dense_plan(study.scan, "frontier", model_digest=study.model.digest)
    check_reachable(empty, study.curves, keeps[0])
    least = empty.fixed_parameters + sum(curve.choices[0].cost for curve in study.curves)
    reached = [keep for keep in keeps if keep * empty.parameters_before >= least]
    budgets = [keep * empty.parameters_before - empty.fixed_parameters for keep in reached]
    with open_search(study, empty) as search:
        rounds = study.rounds + len(budgets) - 1
        announced(study, 3 * len(budgets) + 2 * rounds, rounds, search.lab.comparing.samples)
        trials = walk(search, budgets, rounds=study.rounds)
        errors, reporting = _errors(search.lab, study, trials, spool)
        dense = sum(curve.dense.cost * rows[curve.site] for curve in study.curves)
        points = tuple(
            FrontierPoint(
                keep=keep,
                plan=with_predictions(
                    with_choices(replace(empty, made_by=f"keep {keep:g}"), trial.plan), grounds.spectra
                ),
                flops=sum(choice.cost * rows[site] for site, choice in trial.plan.items()) / dense,
                loss=search.lab.reading(trial.loss),
                error=error,
            )
            for keep, trial, error in zip(reached, trials, errors, strict=True)
        )
        unreached = tuple(keep for keep in keeps if keep not in reached)
        samples = search.lab.comparing.samples
        return Frontier(study.model.digest, points, samples, reporting, len(search.trials), unreached, grounds.warnings)


def _errors(lab: Lab, study: Study, trials: Sequence[Trial], spool: Path) -> tuple[list[float], int]:
    """Return each trial's relative L2 of the worst output on the samples that only report, and their number."""
    options = study.options
    metrics: dict[str, Metric] = dict.fromkeys(options.outputs or numeric_outputs(study.model), "relative_l2")
    original = open_trial(study.model.given.path, run=Run(options.provider, runs_lean(study.model, options)))
    parts: list[dict[str, list[Losses]]] = [{name: [] for name in metrics} for _ in trials]
    samples = 0
    for feed in options.progress(read_spool(spool), "measuring on samples that decided nothing", None):
        references = run_outputs(original, feed, outputs=list(metrics))
        rows = Rows((feed,), (references,), metrics, options.mask)
        samples += rows.samples
        for trial, found in zip(trials, parts, strict=True):
            for name, losses in lab.losses(trial.plan, rows).items():
                found[name].append(losses)
    return [max(joined(losses).reading for losses in found.values()) for found in parts], samples
