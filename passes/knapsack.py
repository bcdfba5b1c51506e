"""One choice per site, the least error in all within a budget: an exact multiple-choice knapsack.

min Σ error_i(choice_i)  subject to  Σ cost_i(choice_i) ≤ budget, solved by HiGHS (scipy's mixed-integer solver).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from rankfold.errors import PlanError
from rankfold.passes.allocate import Choice, Curve

# The solver keeps constraints to 1e-6 of their right-hand side; a budget so much smaller is one it cannot overstep.
_SLACK = 2e-6
_GAP = 1e-7  # relative; below it two plans are equally good to every measurement
_SECONDS = 20.0  # hundreds of sites by dozens of ranks take a few; what is best by then is taken


def solve(curves: Sequence[Curve], budget: float) -> dict[str, Choice]:
    """Return the choice of every site.

    Args:
        curves: What can be done with each site: costs ≥ 0 and errors in one unit, which add up.
        budget: The most that all choices may cost.

    Raises:
        PlanError: The cheapest choices together cost more.
    """
    useful = [undominated(curve) for curve in curves]
    cheapest = {curve.site: curve.choices[0] for curve in useful}
    spent = sum(choice.cost for choice in cheapest.values())
    if spent > budget:
        raise PlanError(f"a cost of {budget:,.0f} cannot be met: the cheapest choices together cost {spent:,.0f}")
    best = {curve.site: curve.choices[-1] for curve in useful}
    if sum(choice.cost for choice in best.values()) <= budget:
        return best
    return _solved(useful, budget) or _solved(useful, budget * (1 - _SLACK)) or cheapest


def undominated(curve: Curve) -> Curve:
    """Return a curve, by rising cost, without the choices that another one beats in cost and in error."""
    chosen: list[Choice] = []
    for choice in sorted(curve.choices, key=lambda choice: (choice.cost, choice.error)):
        if not chosen or choice.error < chosen[-1].error:
            chosen.append(choice)
    return replace(curve, choices=tuple(chosen))


def _solved(curves: Sequence[Curve], budget: float) -> dict[str, Choice] | None:
    """Return the solver's choice; None where it oversteps the budget by its tolerance, or found nothing in time."""
    owners = np.repeat(np.arange(len(curves)), [len(curve.choices) for curve in curves])
    costs = np.array([choice.cost for curve in curves for choice in curve.choices])
    errors = np.array([choice.error for curve in curves for choice in curve.choices])
    places = np.arange(len(owners))
    one_each = sparse.csr_array((np.ones(len(owners)), (owners, places)))
    within = sparse.csr_array(costs[None] / budget)
    found = milp(
        errors / max(float(errors.max()), np.finfo(float).tiny),
        integrality=np.ones_like(costs),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(within, 0, 1)],
        options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
    )
    if found.x is None:
        return None
    starts = np.searchsorted(owners, np.arange(len(curves)))
    ends = np.append(starts[1:], len(owners))
    chosen = {
        curve.site: curve.choices[int(np.argmax(found.x[start:end]))]
        for curve, start, end in zip(curves, starts, ends, strict=True)
    }
    return chosen if sum(choice.cost for choice in chosen.values()) <= budget else None
