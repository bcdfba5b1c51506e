"""The smallest plan that keeps a stated quality: bisection over budgets, then moves of single ranks.

No moment is collected again for it: every plan is a set of masks of one session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from rankfold.errors import PlanError
from rankfold.lab import Plan
from rankfold.passes.allocate import Choice, Curve, allocate
from rankfold.passes.knapsack import solve, undominated
from rankfold.search import Search, weigh, weighted

Lost = Callable[[Plan], float]
"""What a plan loses, in the unit of the limit."""

_HALVINGS = 7  # of the range of budgets: to a hundredth of it
_TRIES = 12  # moves tested, the most promising first, before the plan stands
_STEPS = (-3, -2, -1, 1, 2)  # how far a move takes one site, in places along its curve


@dataclass(frozen=True)
class Reached:
    """The plan a target led to.

    Attributes:
        plan: A choice for every site.
        cost: Of all choices.
        lost: What it loses, within the limit.
        next_cost, next_lost: Of the cheaper plans tried, the one that loses least: what one step further would have
            cost; None where no cheaper one was tried.
    """

    plan: Plan
    cost: float
    lost: float
    next_cost: float | None
    next_lost: float | None


@dataclass
class _Tries:
    """What was tested against the limit."""

    lost_by: Lost
    limit: float
    known: dict[tuple[tuple[str, int | None], ...], float] = field(default_factory=dict)
    beyond: list[tuple[float, float]] = field(default_factory=list)  # what was lost, at which cost

    def lost(self, plan: Plan) -> float:
        """Return what a plan loses; each is measured once."""
        key = tuple((site, choice.rank) for site, choice in plan.items())
        if key not in self.known:
            self.known[key] = self.lost_by(plan)
            if self.known[key] > self.limit:
                self.beyond.append((self.known[key], cost_of(plan)))
        return self.known[key]

    def holds(self, plan: Plan) -> bool:
        """Tell whether a plan keeps the limit."""
        return self.lost(plan) <= self.limit


def cost_of(plan: Plan) -> float:
    """Return what all choices cost."""
    return sum(choice.cost for choice in plan.values())


def smallest(search: Search, lost: Lost, limit: float, *, rounds: int) -> Reached:
    """Return the cheapest plan found that loses at most `limit`.

    Args:
        search: Where plans are tried; it learns.
        lost: Measures a plan; the dense one is taken to lose nothing.
        limit: The most that may be lost, ≥ 0.
        rounds: How many rounds of weights may be made.

    Raises:
        PlanError: No plan but the dense one keeps the limit.
    """
    tries = _Tries(lost, limit)
    curves = [undominated(curve) for curve in search.curves]
    best: Plan = {curve.site: curve.choices[-1] for curve in curves}
    present = allocate(search.curves, _middle(curves))
    for _ in range(rounds):
        weigh(search, present)
        found = _bisected(search, tries, curves, cost_of(best))
        if found is None or cost_of(found) >= cost_of(best):
            break
        best = present = found
    best = _polished(search, tries, curves, best)
    if all(choice.rank is None for choice in best.values()):
        least = min(tries.known.values(), default=float("nan"))
        raise PlanError(
            f"no fold keeps the limit of {limit:g}: the least that any plan tried loses is {least:.4g}; allow more, or"
            " give more calibration data"
        )
    further = min((pair for pair in tries.beyond if pair[1] < cost_of(best)), default=(None, None))
    return Reached(best, cost_of(best), tries.lost(best), next_cost=further[1], next_lost=further[0])


def _middle(curves: Sequence[Curve]) -> float:
    least, most = (sum(curve.choices[end].cost for curve in curves) for end in (0, -1))
    return (least + most) / 2


def _bisected(search: Search, tries: _Tries, curves: Sequence[Curve], most: float) -> Plan | None:
    """Return the cheapest plan that holds, of those that the weights make and of uniform ones, by halving budgets."""
    low, high = sum(curve.choices[0].cost for curve in curves), most
    best: Plan | None = None
    for halving in range(_HALVINGS):
        budget = low if halving == 0 else (low + high) / 2
        plan = _better(search, tries, solve(weighted(curves, search.weights), budget), budget)
        if tries.holds(plan):
            best, high = plan, min(budget, cost_of(plan))
            if halving == 0:
                break
        else:
            low = budget
    return best


def _better(search: Search, tries: _Tries, plan: Plan, budget: float) -> Plan:
    """Return the plan that the weights made; the uniform one where only that holds."""
    if tries.holds(plan):
        return plan
    uniform = allocate(search.curves, budget)
    return uniform if tries.holds(uniform) else plan


def _polished(search: Search, tries: _Tries, curves: Sequence[Curve], plan: Plan) -> Plan:
    """Return a plan that no tested move makes cheaper within the limit."""
    if not search.weights:
        return plan
    while True:
        moved = next(
            (move for move in _moves(search, curves, plan) if tries.holds(move)),
            None,
        )
        if moved is None:
            return plan
        plan = moved


def _moves(search: Search, curves: Sequence[Curve], plan: Plan) -> Iterator[Plan]:
    """Yield cheaper plans near this one, those with the least predicted loss first."""
    places = {curve.site: _place(curve, plan[curve.site]) for curve in curves}
    scored = []
    for moved in _moved_sites(curves, places):
        other = {**plan, **moved}
        if cost_of(other) < cost_of(plan):
            added = sum(search.weights[site] * (choice.error - plan[site].error) for site, choice in moved.items())
            scored.append((added, -cost_of(other), len(scored), other))
    yield from (other for *_, other in sorted(scored, key=lambda entry: entry[:3])[:_TRIES])


def _moved_sites(curves: Sequence[Curve], places: dict[str, int]) -> Iterator[dict[str, Choice]]:
    for number, curve in enumerate(curves):
        for step in _STEPS:
            first = _stepped(curve, places, step)
            if first is None:
                continue
            yield {curve.site: first}
            for other, further in product(curves[number + 1 :], _STEPS):
                second = _stepped(other, places, further)
                if second is not None and (step < 0) != (further < 0):
                    yield {curve.site: first, other.site: second}


def _stepped(curve: Curve, places: dict[str, int], step: int) -> Choice | None:
    place = places[curve.site] + step
    return curve.choices[place] if 0 <= place < len(curve.choices) else None


def _place(curve: Curve, choice: Choice) -> int:
    return min(range(len(curve.choices)), key=lambda number: abs(curve.choices[number].cost - choice.cost))
