"""The smallest plan that keeps a stated quality: budgets are halved, and what the plans lose is measured.

First uniform ratios, then the plans that the sites' weights make, then plans near the best one, by what each single
move really loses there. No moment is collected again for it: every plan is a set of masks of one session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, pairwise

from rankfold.errors import PlanError
from rankfold.lab import Plan
from rankfold.options import Progress
from rankfold.passes.allocate import Choice, Curve, allocate
from rankfold.passes.knapsack import solve, undominated
from rankfold.search import Search, weigh, weighted

Lost = Callable[[Plan], float]
"""What a plan loses, in the unit of the limit."""

_STEPS = (-2, -1, 1, 2)  # how far single moves take a site, in places along its curve
_POLISHES = 3  # rounds in which single moves are tried
_MOVED_AT_ONCE = 3  # sites that one of the last tests of a round moves
_MOST_COMBINED = 60  # single moves that are combined for it, those that lose least for what they save


@dataclass(frozen=True)
class Target:
    """What a plan may lose, and how it is measured.

    Attributes:
        lost: Measures a plan; the dense one is taken to lose nothing.
        limit: The most that may be lost, ≥ 0.
        most: Plans that may be measured in all.
        last: Those of them in each of the last rounds that move a few sites at once.
        rough: Share of the range of budgets at which halving first stops, for measures that take long; 0 goes on to
            the smallest step.
        cost: What one measurement takes, in words.
    """

    lost: Lost
    limit: float
    most: int
    last: int
    rough: float = 0.0
    cost: str = "measuring plans"


@dataclass(frozen=True)
class Reached:
    """The plan a target led to.

    Attributes:
        plan: A choice for every site.
        cost: Of all choices.
        lost: What it loses, within the limit.
        next_plan, next_lost: Of the cheaper plans measured, the one that loses least: what one step further would
            have cost; None where no cheaper one was measured.
        measured: Plans that were measured.
    """

    plan: Plan
    cost: float
    lost: float
    next_plan: Plan | None
    next_lost: float | None
    measured: int


@dataclass
class _Tries:
    """What was measured against the limit."""

    target: Target
    watch: Progress
    known: dict[tuple[tuple[str, int | None], ...], tuple[float, Plan]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        most = self.target.most
        self._ticks: Iterator[int] = iter(self.watch(range(most), f"{self.target.cost}, at most", most))

    def knows(self, plan: Plan) -> bool:
        """Tell whether a plan was measured before."""
        return _key(plan) in self.known

    def lost(self, plan: Plan) -> float:
        """Return what a plan loses; each is measured once."""
        key = _key(plan)
        if key not in self.known:
            next(self._ticks, None)
            self.known[key] = self.target.lost(plan), plan
        return self.known[key][0]

    def holds(self, plan: Plan) -> bool:
        """Tell whether a plan keeps the limit."""
        return self.lost(plan) <= self.target.limit

    @property
    def left(self) -> int:
        """Return how many plans may still be measured."""
        return self.target.most - len(self.known)


def _key(plan: Plan) -> tuple[tuple[str, int | None], ...]:
    return tuple((site, choice.rank) for site, choice in plan.items())


def cost_of(plan: Plan) -> float:
    """Return what all choices cost."""
    return sum(choice.cost for choice in plan.values())


def smallest(search: Search, target: Target, *, rounds: int) -> Reached:
    """Return the cheapest plan found that keeps a target.

    Args:
        search: Where plans are tried; it learns.
        target: What may be lost.
        rounds: How many rounds of weights may be made; without any, all sites have the same ratio.

    Raises:
        PlanError: No plan but the dense one keeps the limit.
    """
    curves = [undominated(curve) for curve in search.curves]
    tries = _Tries(target, search.watch)
    best: Plan = {curve.site: curve.choices[-1] for curve in curves}
    step = max(_quantum(curves), target.rough * (cost_of(best) - _least(curves)))
    best = _halved(tries, curves, partial(allocate, search.curves), best, step)
    turns = min(rounds, 1) if target.rough else rounds
    for _ in range(turns):
        before = cost_of(best)
        for _ in range(rounds // turns):
            weigh(search, best)
        known = weighted(curves, search.weights)
        best = _halved(tries, curves, partial(_own_solution, curves, known), best, step)
        if cost_of(best) >= before:
            break
    for _ in range(_POLISHES if rounds else 0):
        present = best
        near = _measured(search, curves, present)
        best = _halved(tries, near, partial(_own_solution, curves, near), present, _quantum(curves))
        best = _combined(tries, curves, near, (present, best))
        if cost_of(best) >= cost_of(present):
            break
    return _reached(tries, best)


def _reached(tries: _Tries, best: Plan) -> Reached:
    cost = cost_of(best)
    if all(choice.rank is None for choice in best.values()):
        least = min((lost for lost, _ in tries.known.values()), default=float("nan"))
        raise PlanError(
            f"no fold keeps the limit of {tries.target.limit:g}: the least that any plan tried loses is {least:.4g};"
            " allow more, or give more calibration data"
        )
    beyond = [(lost, plan) for lost, plan in tries.known.values() if cost_of(plan) < cost]
    further = min(beyond, key=lambda pair: pair[0], default=None)
    next_lost, next_plan = further or (None, None)
    return Reached(best, cost, tries.lost(best), next_plan, next_lost, len(tries.known))


def _halved(tries: _Tries, curves: Sequence[Curve], made: Callable[[float], Plan], best: Plan, step: float) -> Plan:
    """Return the cheapest plan that holds, of those that are made for budgets below the best one's cost."""
    low, high = _least(curves), cost_of(best)
    while high - low >= step and tries.left > tries.target.last:
        budget = (low + high) / 2
        plan = made(budget)
        if tries.holds(plan):
            best, high = plan, cost_of(plan)
        else:
            low = budget
    return best


def _least(curves: Sequence[Curve]) -> float:
    return sum(curve.choices[0].cost for curve in curves)


def _quantum(curves: Sequence[Curve]) -> float:
    """Return the least that one step of one site saves."""
    steps = (after.cost - before.cost for curve in curves for before, after in pairwise(curve.choices))
    return min(steps, default=1.0)


def _own_solution(curves: Sequence[Curve], judged: Sequence[Curve], budget: float) -> Plan:
    """Return the best plan by other errors, with the sites' own choices: those say what each loses of itself."""
    return _own(curves, solve(judged, budget))


def _own(curves: Sequence[Curve], plan: Plan) -> Plan:
    return {curve.site: _of_rank(curve, plan[curve.site].rank) for curve in curves}


def _of_rank(curve: Curve, rank: int | None) -> Choice:
    return next(choice for choice in curve.choices if choice.rank == rank)


def _measured(search: Search, curves: Sequence[Curve], plan: Plan) -> list[Curve]:
    """Return the choices near a plan's, with what each by itself adds to the loss as its error, at least 0."""
    base = search.lab.loss(plan, search.lab.comparing)
    found = []
    for curve in search.watch(curves, "trying single moves", len(curves)):
        present = plan[curve.site]
        place = curve.choices.index(present)
        near = [curve.choices[place + step] for step in _STEPS if 0 <= place + step < len(curve.choices)]
        added = [search.lab.loss({**plan, curve.site: choice}, search.lab.comparing) - base for choice in near]
        least = min([0.0, *added])
        moves = [replace(choice, error=more - least) for choice, more in zip(near, added, strict=True)]
        choices = sorted((*moves, replace(present, error=-least)), key=lambda choice: choice.cost)
        found.append(Curve(curve.site, tuple(choices)))
    return found


def _combined(tries: _Tries, curves: Sequence[Curve], near: Sequence[Curve], plans: tuple[Plan, Plan]) -> Plan:
    """Return the cheapest plan that holds of those that move few sites, the most promising tested first.

    `near` holds the choices near the present plan's, with what each adds to the loss; `plans` are the present plan and
    the cheapest that holds so far.
    """
    present, best = plans
    tested = 0
    for chosen in _promising(near, present):
        plan = {**present, **_own([curve for curve in curves if curve.site in chosen], chosen)}
        if tested == tries.target.last or not tries.left:
            break
        if cost_of(plan) < cost_of(best) - 1e-9 * cost_of(present):
            tested += not tries.knows(plan)
            best = plan if tries.holds(plan) else best
    return best


def _promising(near: Sequence[Curve], present: Plan) -> list[Plan]:
    """Return moves of few sites that save something in all, those first that are expected to lose least."""
    moves = []
    for curve in near:
        here = _of_rank(curve, present[curve.site].rank)
        others = (choice for choice in curve.choices if choice != here)
        moves += [(choice.error - here.error, choice.cost - here.cost, curve.site, choice) for choice in others]
    moves.sort(key=lambda move: move[0] / abs(move[1]))
    found = []
    for count in range(1, _MOVED_AT_ONCE + 1):
        for chosen in combinations(moves[:_MOST_COMBINED], count):
            dearer, sites = sum(move[1] for move in chosen), {move[2]: move[3] for move in chosen}
            if dearer < 0 and len(sites) == count:
                found.append((sum(move[0] for move in chosen), dearer, sites))
    return [sites for *_, sites in sorted(found, key=lambda entry: entry[:2])]
