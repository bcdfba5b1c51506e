"""The best plan within a budget, by what plans really lose on held-out samples.

The errors of sites do not simply add up, so nothing is trusted far from where it was measured. From the best plan so
far, each site in turn is cut further, and how far that moves the plan's own output, per unit of the site's own lost
energy, is its weight there. (The change of the distance to the original's output would be the obvious measure. But it
holds twice the product of the cut's small effect with the plan's whole error, which on few samples is mostly noise:
on DINOv2 ViT-S/14 and 8 images, 16 of 72 sites seemed to mend the output by being cut.)

With these weights an exact knapsack makes the next plans, within a trust region about the present one. A plan is
taken only where other samples than those of the weights confirm it. Uniform ranks and other plans made without
weights are always among the candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rankfold.lab import Lab, Plan, Stand
from rankfold.options import Progress, silent
from rankfold.passes.allocate import Choice, Curve, allocate
from rankfold.passes.knapsack import solve, undominated
from rankfold.runtime_calib.trials import Rows

# How far a round may move a site's cost, wide first. On DINOv2 ViT-S/14 at half the parameters, (.5, 2) was as good on
# the samples that compare as (.7, 1.5), .186 and .184 against .198 for uniform ranks, and on other images worse than
# uniform, .205 and .188 against .192: few samples do not show what the early layers need for rare inputs.
_REGIONS = ((0.7, 1.5), (0.85, 1.2))
_STEP = 0.7  # a site's cost is cut to about this to see its weight
_LEAST_WEIGHT = 0.02  # of the median: a site whose cut mends the output is still not free to lose all
_WORTH = 0.01  # a round that gains a smaller share ends the search


@dataclass(frozen=True)
class Trial:
    """A plan that was tried.

    Attributes:
        name: What made it.
        plan: A choice for every site.
        cost: Of all choices.
        loss: On the samples that compare plans.
    """

    name: str
    plan: Plan
    cost: float
    loss: float


@dataclass
class Search:
    """What is known so far; grows with every trial.

    Attributes:
        lab: Where plans are tried.
        curves: What can be done with each site, and the share of its own energy that each choice loses.
        trials: All that was tried, in order.
        weights: Site name to the whole model's loss per unit of that share, by gradients or where last measured.
        turn: Rounds made so far, in which the samples take turns.
        watch: Watches the sites being weighed.
    """

    lab: Lab
    curves: Sequence[Curve]
    trials: list[Trial] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    turn: int = 0
    watch: Progress = silent

    def tried(self, name: str, plan: Plan) -> Trial:
        """Return a plan's trial, made once."""
        ranks = {site: choice.rank for site, choice in plan.items()}
        for trial in self.trials:
            if ranks == {site: choice.rank for site, choice in trial.plan.items()}:
                return trial
        cost = sum(choice.cost for choice in plan.values())
        self.trials.append(Trial(name, plan, cost, self.lab.loss(plan, self.lab.comparing)))
        return self.trials[-1]

    def best(self, budget: float) -> Trial | None:
        """Return the trial within a budget that loses least; of equals the cheapest."""
        within = [trial for trial in self.trials if trial.cost <= budget]
        return min(within, key=lambda trial: (trial.loss, trial.cost), default=None)


def searched(search: Search, budget: float, *, rounds: int) -> Trial:
    """Return the best plan found within a budget.

    Args:
        search: What is known; it learns.
        budget: The most that all choices may cost, in the unit of the curves.
        rounds: How many rounds of weights may be made.

    Raises:
        PlanError: The cheapest choices cost more.
    """
    for name, plan in _rivals(search.curves, budget):
        search.tried(name, plan)
    for name, plan in _informed(search, budget):
        search.tried(name, plan)
    present = search.best(budget)
    assert present is not None  # the uniform plan is within the budget
    for _ in range(rounds):
        before = present.loss
        if not before:
            break  # nothing is lost
        weigh(search, present.plan)
        for region in _REGIONS:
            near = [within_region(curve, present.plan[curve.site], region) for curve in search.curves]
            search.tried("weighted", solve(weighted(near, search.weights), budget))
        present = search.best(budget) or present
        if present.loss > (1 - _WORTH) * before:
            break
    return present


def _informed(search: Search, budget: float) -> Iterator[tuple[str, Plan]]:
    """Yield plans by weights that are there before any is measured: by gradients, or from another budget."""
    if not search.weights:
        return
    name = "earlier weights" if search.turn else "gradients"
    yield name, solve(weighted(search.curves, search.weights), budget)
    uniform = allocate(search.curves, budget)
    near = [within_region(curve, uniform[curve.site], _REGIONS[0]) for curve in search.curves]
    yield f"{name}, near uniform", solve(weighted(near, search.weights), budget)


def weigh(search: Search, plan: Plan) -> None:
    """Measure every site's weight in place, about a plan, on the next samples; earlier rounds count too."""
    rows = search.lab.sensing[search.turn % len(search.lab.sensing)]
    search.turn += 1
    found: dict[str, float | None] = {}
    curves = {curve.site: curve for curve in search.curves}
    watched = iter(search.watch(curves, f"trying ranks, round {search.turn}", len(curves)))
    for group in search.lab.groups:
        with search.lab.stand(plan, group) as stand:
            base = stand.seen_from(plan, rows)
            for site in itertools.islice(watched, len(group)):
                found[site] = _weight(search.lab, stand, (curves[site], plan), base)
    for _ in watched:
        pass  # to the end, so that what watches sees it
    known = [weight for weight in found.values() if weight is not None and weight > 0]
    least = _LEAST_WEIGHT * float(np.median(known)) if known else 1.0
    for site, weight in found.items():
        new = least if weight is None else max(weight, least)
        old = search.weights.get(site, new)
        search.weights[site] = float(np.sqrt(old * new))


def weighted(curves: Sequence[Curve], weights: Mapping[str, float]) -> list[Curve]:
    """Return the curves with errors in units of the whole model's loss."""
    return [
        replace(
            curve,
            choices=tuple(replace(choice, error=weights[curve.site] * choice.error) for choice in curve.choices),
        )
        for curve in curves
    ]


def within_region(curve: Curve, present: Choice, region: tuple[float, float]) -> Curve:
    """Return the choices whose cost lies within a region about the present one's, and its neighbours."""
    useful = undominated(curve).choices
    place = min(range(len(useful)), key=lambda number: abs(useful[number].cost - present.cost))
    low, high = (bound * present.cost for bound in region)
    chosen = (choice for number, choice in enumerate(useful) if low <= choice.cost <= high or abs(number - place) <= 1)
    return replace(curve, choices=tuple(chosen))


def _weight(lab: Lab, stand: Stand, cut: tuple[Curve, Plan], base: Rows) -> float | None:
    """Return how far the output moves per unit of one site's share; None where that cannot be seen."""
    curve, plan = cut
    other = _other(curve, plan[curve.site])
    share = abs(other.error - plan[curve.site].error)
    return lab.weighed(stand.losses({**plan, curve.site: other}, base)) / share if share else None


def _other(curve: Curve, present: Choice) -> Choice:
    """Return a choice that costs clearly less, or where there is none, the next that costs more."""
    useful = undominated(curve).choices
    cheaper = [choice for choice in useful if choice.cost < present.cost]
    if cheaper:
        return min(cheaper, key=lambda choice: abs(choice.cost - _STEP * present.cost))
    return next((choice for choice in useful if choice.cost > present.cost), present)


def _rivals(curves: Sequence[Curve], budget: float) -> Iterator[tuple[str, Plan]]:
    """Yield plans that need no weights: uniform ratios, and least lost energy in all."""
    yield "uniform", allocate(curves, budget)
    yield "lost energy", solve(curves, budget)
