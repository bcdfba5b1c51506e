"""The knapsack against enumeration: never over the budget, never worse than the best of all plans."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankfold.errors import PlanError
from rankfold.passes.allocate import Choice, Curve
from rankfold.passes.knapsack import solve, undominated


@st.composite
def curves(draw: st.DrawFn) -> list[Curve]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 5))
        costs = sorted(draw(st.lists(st.integers(1, 60), min_size=count, max_size=count, unique=True)))
        errors = sorted(draw(st.lists(st.floats(1e-6, 1.0), min_size=count, max_size=count)), reverse=True)
        folded = [
            Choice(8 * (place + 1), cost, error) for place, (cost, error) in enumerate(zip(costs, errors, strict=True))
        ]
        found.append(Curve(f"s{number}", (*folded, Choice(None, costs[-1] + 10, 0.0))))
    return found


@settings(max_examples=80, deadline=None)
@given(curves(), st.floats(0, 1))
def test_it_is_the_best_of_all_plans(found: list[Curve], share: float) -> None:
    least, most = (sum(curve.choices[end].cost for curve in found) for end in (0, -1))
    budget = least + share * (most - least)
    chosen = solve(found, budget)
    assert sum(choice.cost for choice in chosen.values()) <= budget
    plans = product(*(curve.choices for curve in found))
    best = min(sum(c.error for c in plan) for plan in plans if sum(c.cost for c in plan) <= budget)
    # The solver ends within 1e-7 of the best, and shrinks a budget that it would overstep by 2e-6 of itself: costs here
    # are whole numbers far apart, so only the first shows.
    assert sum(choice.error for choice in chosen.values()) <= best + 1e-6


@pytest.mark.parametrize("budget", [0, 1.999])
def test_what_cannot_be_met_is_refused(budget: float) -> None:
    curve = Curve("s", (Choice(8, 2, 0.5), Choice(None, 4, 0.0)))
    with pytest.raises(PlanError, match="the cheapest choices together cost 2"):
        solve([curve], budget)


def test_choices_that_another_one_beats_are_left_out() -> None:
    curve = Curve("s", (Choice(8, 2, 0.5), Choice(16, 3, 0.5), Choice(24, 4, 0.1), Choice(None, 9, 0.0)))
    assert [choice.rank for choice in undominated(curve).choices] == [8, 24, None]


def test_hundreds_of_sites_are_solved_exactly_enough() -> None:
    """Against the bound that the problem's relaxation gives: no plan at all can be better than that."""
    random = np.random.default_rng(0)
    found = []
    for number in range(200):
        costs = np.cumsum(random.integers(1, 50, 30)) * 64.0
        errors = random.uniform(0.01, 10) * np.exp(-np.linspace(0, random.uniform(2, 6), 30))
        folded = tuple(Choice(8 * (k + 1), float(costs[k]), float(errors[k])) for k in range(30))
        found.append(Curve(f"s{number}", (*folded, Choice(None, float(costs[-1]) + 64, 0.0))))
    budget = 0.5 * sum(curve.dense.cost for curve in found)
    chosen = solve(found, budget)
    spent = sum(choice.cost for choice in chosen.values())
    assert 0.999 * budget < spent <= budget
    assert sum(choice.error for choice in chosen.values()) <= 1.001 * _bound(found, budget)


def _bound(curves: list[Curve], budget: float) -> float:
    """Return the largest Lagrangian bound: for every price λ ≥ 0, Σ min(error + λ cost) - λ budget is one."""
    best = 0.0
    for price in np.geomspace(1e-9, 1, 2000):
        least = sum(min(choice.error + price * choice.cost for choice in curve.choices) for curve in curves)
        best = max(best, least - price * budget)
    return best
