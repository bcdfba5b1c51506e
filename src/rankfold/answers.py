"""From a budget to a plan, where plans are tried for it: a share, a speed-up, a largest error, a largest drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rankfold.budgets import Answer, MaxError, Speedup, Tried
from rankfold.choose import Study, announced, keep_searched, open_search, search_rounds, told
from rankfold.errors import PlanError
from rankfold.evaluation import Evaluate, MaxDrop, Score, scored
from rankfold.lab import Plan
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.allocate import Curve, allocate
from rankfold.passes.model_file import Model
from rankfold.passes.plan import dense_plan, with_choices
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.trials import Run, open_trial
from rankfold.search import Search, searched
from rankfold.targets import Target, cost_of, smallest
from rankfold.values import Keep, RankPlan

# Plans measured: of the held-out samples, some tens and a few per site; by a user's own measure, which may take long,
# twenty. On networks of 5 sites by 6 ranks both reach the optimum that enumeration finds, the latter in 6 to 15.
_MOST_MEASURED = 40
_MORE_PER_SITE = 4
_LAST_MEASURED = 10
_MOST_EVALUATED = 20
_LAST_EVALUATED = 3
_ROUGH = 1 / 8


@dataclass(frozen=True)
class Found:
    """A plan, what was tried for it, how close it came, and what the original scored where that was asked for."""

    plan: RankPlan
    tried: tuple[Tried, ...] = ()
    answer: Answer | None = None
    before: Score | None = None


def found_plan(study: Study, budget: Keep | Speedup | MaxError | MaxDrop, rows: Mapping[str, float]) -> Found:
    """Return the plan that meets a budget, by trying plans.

    Args:
        study: What there is to choose from.
        budget: What has to be met.
        rows: Site name to the rows it is given per sample.

    Raises:
        PlanError: It cannot be met.
    """
    if isinstance(budget, Keep):
        return Found(*keep_searched(study, budget))
    if isinstance(budget, Speedup):
        return _faster(study, budget, rows)
    if isinstance(budget, MaxError):
        return _near(study, budget)
    return _scoring(study, budget)


def faster_uniform(study: Study, budget: Speedup, rows: Mapping[str, float]) -> Found:
    """Return the plan of a uniform ratio that meets a speed-up; nothing is run.

    Raises:
        PlanError: It cannot be met.
    """
    curves = in_flops(study.curves, rows)
    chosen = allocate(curves, _allowed(curves, budget))
    empty = dense_plan(study.scan, f"speedup {budget.factor:g}", model_digest=study.model.digest)
    return Found(with_choices(empty, chosen), answer=_speed(curves, chosen, budget, 0))


def in_flops(curves: tuple[Curve, ...], rows: Mapping[str, float]) -> tuple[Curve, ...]:
    """Return curves whose cost is multiplications per sample: half the FLOPs."""
    return tuple(
        replace(
            curve,
            choices=tuple(replace(choice, cost=choice.cost * rows[curve.site]) for choice in curve.choices),
        )
        for curve in curves
    )


def _faster(study: Study, budget: Speedup, rows: Mapping[str, float]) -> Found:
    study = replace(study, curves=in_flops(study.curves, rows))
    allowed = _allowed(study.curves, budget)
    empty = dense_plan(study.scan, f"speedup {budget.factor:g}", model_digest=study.model.digest)
    with open_search(study, empty) as search:
        rounds = search_rounds(study, search)
        announced(study, 2 + 2 * rounds, rounds, search.lab.comparing.samples)
        best = searched(search, allowed, rounds=rounds)
        answer = _speed(study.curves, best.plan, budget, len(search.trials))
        return Found(with_choices(empty, best.plan), told(search, empty, best), answer)


def _speed(curves: tuple[Curve, ...], plan: Plan, budget: Speedup, measured: int) -> Answer:
    return Answer("speedup", budget.factor, _dense(curves) / cost_of(plan), measured)


def _dense(curves: tuple[Curve, ...]) -> float:
    return sum(curve.dense.cost for curve in curves)


def _allowed(curves: tuple[Curve, ...], budget: Speedup) -> float:
    """Return the cost that a speed-up allows.

    Raises:
        PlanError: The cheapest ranks cost more.
    """
    dense, least = _dense(curves), sum(curve.choices[0].cost for curve in curves)
    if least * budget.factor > dense:
        raise PlanError(
            f"a speed-up of {budget.factor:g} in FLOPs cannot be reached: with every layer at its smallest rank it is"
            f" {dense / max(least, 1.0):.3f}; ask for less, or exclude less"
        )
    return dense / budget.factor


def _near(study: Study, budget: MaxError) -> Found:
    """Return the smallest plan whose worst output stays within a relative L2, which is also what weights go by."""
    study = replace(study, options=replace(study.options, metric="relative_l2", weights={}))
    empty = dense_plan(study.scan, f"max error {budget.limit:g}", model_digest=study.model.digest)
    with open_search(study, empty) as search:

        def lost(plan: Plan) -> float:
            losses = search.lab.losses(plan, search.lab.comparing)
            return max(each.reading for each in losses.values())

        most = _MOST_MEASURED + _MORE_PER_SITE * len(study.curves)
        cost = f"measuring plans on {search.lab.comparing.samples:,} samples each"
        return _smallest(study, search, Target(lost, budget.limit, most, _LAST_MEASURED, cost=cost), empty)


def _scoring(study: Study, budget: MaxDrop) -> Found:
    """Return the smallest plan that scores well enough; what held-out samples lose only says what to score."""
    empty = dense_plan(study.scan, f"max drop {budget.limit:g}", model_digest=study.model.digest)
    before = budget.before or original_score(study.model, budget.evaluate, study.options)
    with open_search(study, empty) as search:

        def lost(plan: Plan) -> float:
            drop = before.value - scored(budget.evaluate, partial(search.lab.outputs, plan)).value
            return drop if np.isfinite(drop) else float("inf")

        cost = "evaluating plans" + (f" on {before.rows:,} samples each" if before.rows else "")
        target = Target(lost, budget.limit, _MOST_EVALUATED, _LAST_EVALUATED, _ROUGH, cost)
        found = _smallest(study, search, target, empty)
        return replace(found, before=before)


def original_score(model: Model, evaluate: Evaluate, options: Options) -> Score:
    """Return what the original scores.

    Raises:
        PlanError: That is no finite number.
    """
    session = open_trial(model.given.path, run=Run(options.provider, runs_lean(model, options)))
    score = scored(evaluate, partial(run_outputs, session))
    if not np.isfinite(score.value):
        raise PlanError("evaluate gives no finite score for the original; mend it")
    return score


def _smallest(study: Study, search: Search, target: Target, empty: RankPlan) -> Found:
    rounds = study.rounds if study.options.allocation == "searched" else 0
    reached = smallest(search, target, rounds=rounds)
    further = reached.next_plan
    answer = Answer(
        "max_drop" if empty.made_by.startswith("max drop") else "max_error",
        target.limit,
        reached.lost,
        reached.measured,
        next_kept=None if further is None else with_choices(empty, further).kept,
        next_found=reached.next_lost,
    )
    return Found(with_choices(empty, reached.plan), answer=answer)
